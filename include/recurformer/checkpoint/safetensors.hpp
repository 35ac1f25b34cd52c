#ifndef RECURFORMER_CHECKPOINT_SAFETENSORS_HPP
#define RECURFORMER_CHECKPOINT_SAFETENSORS_HPP

// Tensors in a .safetensors file (github.com/huggingface/safetensors):
//
//   8 bytes    header length N, little-endian
//   N bytes    JSON: {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [begin, end]}, ...,
//              "__metadata__": {"key": "value", ...}}, possibly padded with spaces
//   the rest   data, row-major, which the [begin, end) of all tensors cover without overlap or hole
//
// Reading maps the file, checks all of the above once (the file is not trusted) and hands out views; nothing
// is read from disk before somebody looks at it. Writing goes to a temporary file that is renamed when
// complete.

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "recurformer/checkpoint/atomic_file.hpp"
#include "recurformer/checkpoint/json.hpp"
#include "recurformer/checkpoint/mapped_file.hpp"
#include "recurformer/checkpoint/untrusted.hpp"
#include "recurformer/core/dtype.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/core/precision.hpp"

namespace rf {

static_assert(std::endian::native == std::endian::little, "recurformer: tensor files are little-endian");

/// Limits of the format's reference implementation, and ours on names.
inline constexpr std::size_t safetensors_header_limit = 100'000'000;
inline constexpr std::size_t safetensors_name_limit = 4096;

/// A tensor in a file.
struct TensorEntry {
  std::string name;
  DType dtype = DType::F32;
  std::vector<std::int64_t> shape;
  /// The elements, row-major, within the mapped file. Not necessarily aligned for the dtype: other writers
  /// may place them anywhere, so copy elements out with memcpy or read_tensor.
  std::span<const std::byte> bytes;
};

/// An open .safetensors file. Entries and their bytes are valid while it (or what it was moved to) lives.
class SafetensorsFile {
 public:
  /// Maps and checks the file. FileError naming file, tensor, what was expected and what was found.
  explicit SafetensorsFile(const std::string& path) : file_(path) {
    const auto data_start = read_header();
    check_coverage(data_start);
    index_by_name();
  }

  const std::string& path() const { return file_.path(); }
  /// Key-value pairs of the optional __metadata__.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  /// All tensors in the order of their data in the file.
  std::span<const TensorEntry> tensors() const { return tensors_; }
  /// Their names in the same order.
  std::vector<std::string> names() const {
    std::vector<std::string> out;
    out.reserve(tensors_.size());
    for (const TensorEntry& tensor : tensors_) out.push_back(tensor.name);
    return out;
  }
  bool contains(std::string_view name) const { return find(name) != nullptr; }
  /// FileError if the file has no tensor of that name.
  const TensorEntry& tensor(std::string_view name) const {
    const TensorEntry* const found = find(name);
    if (found == nullptr)
      throw FileError(text(path(), ": has no tensor ", detail::printable(name), "; it has ", tensors_.size(),
                           " tensors", tensors_.empty() ? "" : ", the first being ",
                           tensors_.empty() ? "" : detail::printable(tensors_[0].name)));
    return *found;
  }
  /// The elements of a tensor of this file, which keep it mapped; see MappedFile::share().
  std::shared_ptr<std::byte> share(const TensorEntry& tensor) const {
    return file_.share(static_cast<std::size_t>(tensor.bytes.data() - file_.bytes().data()));
  }

 private:
  /// Fills tensors_ and metadata_; returns where the data start.
  const std::byte* read_header() {
    const std::span<const std::byte> all = file_.bytes();
    check_file(all.size() >= 8, path(), "has ", all.size(),
               " bytes; a safetensors file begins with 8 bytes of header length");
    std::uint64_t length = 0;
    std::memcpy(&length, all.data(), 8);
    check_file(length <= safetensors_header_limit, path(), "announces a header of ", length,
               " bytes; allowed: at most ", safetensors_header_limit,
               ". It is damaged or not a safetensors file");
    check_file(length <= all.size() - 8, path(), "announces a header of ", length, " bytes, but only ",
               all.size() - 8, " bytes follow; it is cut short or not a safetensors file");
    const std::string_view header(reinterpret_cast<const char*>(all.data() + 8), length);
    check_file(header.starts_with('{'), path(), "its header begins with ",
               detail::printable(header.substr(0, 1)), "; expected '{'");

    const std::span<const std::byte> data = all.subspan(8 + length);
    const nlohmann::json document = parse_json(header, text(path(), ": header"));
    for (const auto& [name, value] : document.items()) {
      if (name == "__metadata__")
        read_metadata(JsonReader(path(), value, name));
      else
        tensors_.push_back(read_entry(name, value, data));
    }
    return data.data();
  }

  void read_metadata(const JsonReader& reader) {
    for (const std::string& key : reader.object_keys()) metadata_[key] = reader.at(key).string();
  }

  TensorEntry read_entry(const std::string& name, const nlohmann::json& value,
                         std::span<const std::byte> data) const {
    check_file(name.size() <= safetensors_name_limit, path(), "a tensor's name has ", name.size(),
               " bytes; allowed: at most ", safetensors_name_limit);
    check_file(std::none_of(name.begin(), name.end(), detail::is_control_character), path(),
               "the tensor name ", detail::printable(name), " contains a control character");
    const JsonReader reader(path(), value, text("tensor ", detail::printable(name)));
    reader.reject_unknown({"dtype", "shape", "data_offsets"});
    TensorEntry entry{.name = name, .dtype = read_dtype(reader.at("dtype")), .shape = {}, .bytes = {}};
    for (const JsonReader& size : reader.at("shape").array()) entry.shape.push_back(size.integer(0));
    const auto expected = detail::tensor_bytes(entry.dtype, entry.shape);
    if (!expected)
      reader.fail("shape ", shape_text(entry.shape), " of ", name_of(entry.dtype),
                  " has more than 2^63 bytes");

    const JsonReader offsets = reader.at("data_offsets");
    const JsonArray pair = offsets.array();
    if (pair.size() != 2) offsets.fail("expected [begin, end], found an array of ", pair.size());
    const auto begin = static_cast<std::uint64_t>(pair[0].integer(0));
    const auto end = static_cast<std::uint64_t>(pair[1].integer(0));
    if (begin > end) offsets.fail("begin ", begin, " lies behind end ", end);
    if (end > data.size())
      offsets.fail("end ", end, " lies beyond the ", data.size(), " bytes of data in the file");
    if (end - begin != *expected)
      offsets.fail("[", begin, ", ", end, "] are ", end - begin, " bytes; expected ", *expected,
                   " for shape ", shape_text(entry.shape), " of ", name_of(entry.dtype));
    entry.bytes = data.subspan(begin, end - begin);
    return entry;
  }

  static DType read_dtype(const JsonReader& reader) {
    std::string known;
    for (const auto& row : detail::dtype_rows) {
      if (row.name == reader.string()) return row.dtype;
      known += text(known.empty() ? "" : ", ", row.name);
    }
    reader.fail("unsupported dtype ", detail::printable(reader.string()), "; supported: ", known);
  }

  /// Puts tensors_ in the order of their data and checks that these are covered exactly once.
  void check_coverage(const std::byte* data_start) {
    std::sort(tensors_.begin(), tensors_.end(), [](const TensorEntry& a, const TensorEntry& b) {
      if (a.bytes.data() != b.bytes.data()) return a.bytes.data() < b.bytes.data();
      if (a.bytes.size() != b.bytes.size()) return a.bytes.size() < b.bytes.size();
      return a.name < b.name;
    });
    const std::byte* position = data_start;
    const TensorEntry* previous = nullptr;
    for (const TensorEntry& tensor : tensors_) {
      const auto gap = tensor.bytes.data() - position;
      check_file(gap >= 0, path(), "tensor ", detail::printable(tensor.name), " overlaps tensor ",
                 detail::printable(previous == nullptr ? "" : previous->name));
      check_file(gap == 0, path(), gap, " bytes of data before tensor ", detail::printable(tensor.name),
                 " belong to no tensor");
      position = tensor.bytes.data() + tensor.bytes.size();
      previous = &tensor;
    }
    const auto rest = file_.bytes().data() + file_.bytes().size() - position;
    check_file(rest == 0, path(), rest, " bytes at the end of the file belong to no tensor");
  }

  void index_by_name() {
    by_name_.resize(tensors_.size());
    for (std::size_t i = 0; i < by_name_.size(); ++i) by_name_[i] = i;
    std::sort(by_name_.begin(), by_name_.end(),
              [&](std::size_t a, std::size_t b) { return tensors_[a].name < tensors_[b].name; });
  }

  const TensorEntry* find(std::string_view name) const {
    const auto at = std::lower_bound(
        by_name_.begin(), by_name_.end(), name,
        [&](std::size_t index, std::string_view wanted) { return tensors_[index].name < wanted; });
    return at != by_name_.end() && tensors_[*at].name == name ? &tensors_[*at] : nullptr;
  }

  MappedFile file_;
  std::map<std::string, std::string> metadata_;
  std::vector<TensorEntry> tensors_;
  std::vector<std::size_t> by_name_;
};

namespace detail {

/// out[i] = element i of `bytes`, which may be unaligned.
template <class From, class To>
void copy_converted(std::span<const std::byte> bytes, To* out) {
  if (bytes.empty()) return;
  if constexpr (std::is_same_v<From, To>) {
    std::memcpy(static_cast<void*>(out), bytes.data(), bytes.size());
  } else {
    const std::byte* from = bytes.data();
    for (std::size_t i = 0; i < bytes.size() / sizeof(From); ++i) {
      From value;
      std::memcpy(static_cast<void*>(&value), from + i * sizeof(From), sizeof(From));
      out[i] = convert<To>(value);
    }
  }
}

}  // namespace detail

/// Copies the tensor `name` to `out`, which has room for all elements of `expected_shape`, converting F64,
/// F32, BF16 or F16 to To. FileError if it is missing, has another shape or is not of floating point.
template <StorageType To>
void read_tensor(const SafetensorsFile& file, std::string_view name,
                 std::span<const std::int64_t> expected_shape, To* out) {
  const TensorEntry& tensor = file.tensor(name);
  check_file(
      std::equal(tensor.shape.begin(), tensor.shape.end(), expected_shape.begin(), expected_shape.end()),
      file.path(), "tensor ", detail::printable(name), " has shape ", shape_text(tensor.shape), "; expected ",
      shape_text(expected_shape));
  switch (tensor.dtype) {
    case DType::F64:
      return detail::copy_converted<double>(tensor.bytes, out);
    case DType::F32:
      return detail::copy_converted<float>(tensor.bytes, out);
    case DType::BF16:
      return detail::copy_converted<bf16>(tensor.bytes, out);
    case DType::F16:
      return detail::copy_converted<fp16>(tensor.bytes, out);
    default:
      throw FileError(text(file.path(), ": tensor ", detail::printable(name), " has dtype ",
                           name_of(tensor.dtype), "; expected F64, F32, BF16 or F16"));
  }
}

/// Collects tensors and writes them as one file. The same tensors give the same bytes, whatever the order
/// they were added in: large element types come first (so that every tensor is aligned), then names in order.
class SafetensorsWriter {
 public:
  /// `bytes` must hold the elements, row-major, and stay alive until write(). ArgumentError if the name is
  /// taken, reserved, not UTF-8, too long or has control characters, or if shape and bytes disagree.
  void add(const std::string& name, DType dtype, std::vector<std::int64_t> shape,
           std::span<const std::byte> bytes) {
    check(name != "__metadata__", "SafetensorsWriter: '__metadata__' is not a tensor; use metadata()");
    check(name.size() <= safetensors_name_limit, "SafetensorsWriter: a tensor's name has ", name.size(),
          " bytes; allowed: at most ", safetensors_name_limit);
    check(std::none_of(name.begin(), name.end(), detail::is_control_character),
          "SafetensorsWriter: the name ", detail::printable(name), " contains a control character");
    const auto expected = detail::tensor_bytes(dtype, shape);
    check(expected.has_value() && *expected == bytes.size(), "SafetensorsWriter: tensor ",
          detail::printable(name), " got ", bytes.size(), " bytes; shape ", shape_text(shape), " of ",
          name_of(dtype), " needs ", expected ? text(*expected) : "non-negative sizes below 2^63 bytes");
    Tensor tensor{quoted(name), dtype, std::move(shape), bytes};
    check(tensors_.emplace(name, std::move(tensor)).second, "SafetensorsWriter: tensor ",
          detail::printable(name), " was added twice");
  }
  /// The same for `values` that hold all elements of `shape`.
  template <class T>
  void add(const std::string& name, std::vector<std::int64_t> shape, const T* values) {
    const std::size_t bytes = detail::tensor_bytes(dtype_of<T>, shape).value_or(0);
    add(name, dtype_of<T>, std::move(shape), {reinterpret_cast<const std::byte*>(values), bytes});
  }
  /// Adds a pair to __metadata__, or replaces it. ArgumentError if either is not UTF-8.
  void metadata(const std::string& key, const std::string& value) { metadata_[quoted(key)] = quoted(value); }

  /// Replaces or creates the file as a whole, see write_file_atomically. FileError if that fails.
  void write(const std::string& path) const {
    std::vector<const Tensor*> order;
    for (const auto& [name, tensor] : tensors_) order.push_back(&tensor);
    std::stable_sort(order.begin(), order.end(),
                     [](const Tensor* a, const Tensor* b) { return size_of(a->dtype) > size_of(b->dtype); });
    const std::string header = header_text(order);
    const std::uint64_t length = header.size();
    write_file_atomically(path, [&](FileWriter& file) {
      file.write(std::as_bytes(std::span(&length, 1)));
      file.write(header);
      for (const Tensor* tensor : order) file.write(tensor->bytes);
    });
  }

 private:
  struct Tensor {
    std::string quoted_name;
    DType dtype;
    std::vector<std::int64_t> shape;
    std::span<const std::byte> bytes;
  };

  /// As a JSON string.
  static std::string quoted(const std::string& value) {
    try {
      return nlohmann::json(value).dump();
    } catch (const nlohmann::json::type_error&) {
      throw ArgumentError(text("SafetensorsWriter: ", detail::printable(value), " is not UTF-8"));
    }
  }

  std::string header_text(const std::vector<const Tensor*>& order) const {
    std::string out = "{";
    if (!metadata_.empty()) {
      out += "\"__metadata__\":{";
      for (const auto& [key, value] : metadata_) out += text(key, ":", value, ",");
      out.back() = '}';
      out += ',';
    }
    std::size_t offset = 0;
    for (const Tensor* tensor : order) {
      out += text(tensor->quoted_name, ":{\"dtype\":\"", name_of(tensor->dtype), "\",\"shape\":[");
      for (const std::int64_t size : tensor->shape) out += text(size, ",");
      if (!tensor->shape.empty()) out.pop_back();
      out += text("],\"data_offsets\":[", offset, ",", offset + tensor->bytes.size(), "]},");
      offset += tensor->bytes.size();
    }
    if (out.back() == ',') out.pop_back();
    out += '}';
    out.resize((out.size() + 7) / 8 * 8, ' ');  // data start aligned for every dtype
    check(out.size() <= safetensors_header_limit, "SafetensorsWriter: the names, shapes and metadata take ",
          out.size(), " bytes; allowed: at most ", safetensors_header_limit);
    return out;
  }

  std::map<std::string, Tensor> tensors_;
  std::map<std::string, std::string> metadata_;  // both as JSON strings
};

}  // namespace rf

#endif  // RECURFORMER_CHECKPOINT_SAFETENSORS_HPP
