#ifndef RECURFORMER_CHECKPOINT_NPY_HPP
#define RECURFORMER_CHECKPOINT_NPY_HPP

// Single arrays in numpy's .npy files (numpy.lib.format), to exchange data with Python:
//
//   "\x93NUMPY"  major, minor            format 1.0, 2.0 or 3.0
//   2 bytes (format 1.0) or 4 bytes      header length, little-endian
//   header       a Python dict: {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }, spaces, newline
//   the rest     elements, little-endian, row-major
//
// Of numpy's types those that other people need: '<f4', '<f8', '<f2', '<i4', '<i8', '|u1', '<u2', '<u4'.
// Files are not trusted: sizes are checked before anything is allocated.

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "recurformer/checkpoint/atomic_file.hpp"
#include "recurformer/checkpoint/mapped_file.hpp"
#include "recurformer/checkpoint/untrusted.hpp"
#include "recurformer/core/dtype.hpp"
#include "recurformer/core/error.hpp"

namespace rf {

static_assert(std::endian::native == std::endian::little, "recurformer: tensor files are little-endian");

/// An array as it was in a file.
struct NpyArray {
  DType dtype = DType::F32;
  std::vector<std::int64_t> shape;
  /// The elements, row-major.
  std::vector<std::byte> bytes;
};

namespace detail {

struct NpyType {
  DType dtype;
  std::string_view descr;
};
inline constexpr NpyType npy_types[] = {{DType::F32, "<f4"}, {DType::F64, "<f8"}, {DType::F16, "<f2"},
                                        {DType::I32, "<i4"}, {DType::I64, "<i8"}, {DType::U8, "|u1"},
                                        {DType::U16, "<u2"}, {DType::U32, "<u4"}};
inline constexpr std::string_view npy_supported =
    "float32, float64, float16, int32, int64, uint8, uint16, uint32";
inline constexpr std::string_view npy_magic = "\x93NUMPY";
/// More dimensions than any numpy can handle.
inline constexpr std::size_t npy_dimension_limit = 64;

struct NpyHeader {
  DType dtype = DType::F32;
  std::vector<std::int64_t> shape;
};

/// Reads the dict, of whose Python only what numpy writes there is understood.
class NpyHeaderParser {
 public:
  NpyHeaderParser(std::string_view text, const std::string& path) : text_(text), path_(path) {}

  NpyHeader parse() {
    NpyHeader header;
    bool has_descr = false, has_order = false, has_shape = false;
    expect('{');
    while (!accept('}')) {
      const std::string key = quoted();
      expect(':');
      if (key == "descr" && !std::exchange(has_descr, true))
        header.dtype = dtype();
      else if (key == "fortran_order" && !std::exchange(has_order, true))
        row_major();
      else if (key == "shape" && !std::exchange(has_shape, true))
        header.shape = shape();
      else
        fail("unknown or repeated key ", printable(key),
             "; expected descr, fortran_order and shape once each");
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    skip_space();
    if (at_ != text_.size()) fail("expected nothing behind '}', found ", found());
    if (!has_descr || !has_order || !has_shape)
      fail("the key ", !has_descr ? "'descr'" : !has_order ? "'fortran_order'" : "'shape'", " is missing");
    return header;
  }

 private:
  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    throw FileError(text(path_, ": .npy header: ", parts...));
  }
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }
  std::string found() const { return at_ < text_.size() ? printable(text_.substr(at_, 20)) : "its end"; }
  bool accept(char wanted) {
    skip_space();
    if (at_ == text_.size() || text_[at_] != wanted) return false;
    ++at_;
    return true;
  }
  void expect(char wanted) {
    if (!accept(wanted)) fail("expected '", wanted, "', found ", found());
  }
  bool accept_word(std::string_view wanted) {
    skip_space();
    if (!text_.substr(at_).starts_with(wanted)) return false;
    at_ += wanted.size();
    return true;
  }
  std::string quoted() {
    const char quote = accept('"') ? '"' : '\'';
    if (quote == '\'') expect(quote);
    const std::size_t end = text_.find(quote, at_);
    if (end == text_.npos) fail("expected the end of a string, found ", found());
    const std::string_view value = text_.substr(at_, end - at_);
    at_ = end + 1;
    return std::string(value);
  }

  DType dtype() {
    if (accept('[')) fail("structured arrays are not supported; supported: ", npy_supported);
    const std::string descr = quoted();
    for (const NpyType& type : npy_types)
      if (type.descr == descr) return type.dtype;
    if (descr.starts_with('>'))
      fail("big-endian dtype ", printable(descr), " is not supported; in Python, convert it with .astype(",
           printable("<" + descr.substr(1, 2)), ")");
    fail("unsupported dtype ", printable(descr), "; supported: ", npy_supported);
  }
  void row_major() {
    if (accept_word("False")) return;
    if (accept_word("True"))
      fail("the array is in Fortran order; in Python, save numpy.ascontiguousarray(array)");
    fail("fortran_order: expected False, found ", found());
  }
  std::vector<std::int64_t> shape() {
    std::vector<std::int64_t> out;
    expect('(');
    while (!accept(')')) {
      if (out.size() == npy_dimension_limit) fail("shape: more than ", npy_dimension_limit, " dimensions");
      out.push_back(size());
      if (!accept(',')) {
        if (out.size() == 1) fail("shape: expected ',' after a single size, found ", found());
        expect(')');
        break;
      }
    }
    return out;
  }
  std::int64_t size() {
    skip_space();
    const std::size_t start = at_;
    std::int64_t value = 0;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
      const int digit = text_[at_] - '0';
      if (value > (std::numeric_limits<std::int64_t>::max() - digit) / 10)
        fail("shape: the size ", printable(text_.substr(start, 20)), " is too large");
      value = 10 * value + digit;
    }
    if (at_ == start) fail("shape: expected a non-negative integer, found ", found());
    return value;
  }

  std::string_view text_;
  const std::string& path_;
  std::size_t at_ = 0;
};

}  // namespace detail

/// An open .npy file, mapped: nothing is read from disk before somebody looks at it.
class NpyFile {
 public:
  /// FileError if the file cannot be read, is not .npy, is in Fortran order or big-endian, has another type
  /// than the eight above, or has more or fewer bytes than its shape needs.
  explicit NpyFile(const std::string& path) : file_(path), rest_(file_.bytes()) {
    const std::size_t magic_size = detail::npy_magic.size();
    check_file(rest_.size() >= magic_size + 2 &&
                   std::memcmp(rest_.data(), detail::npy_magic.data(), magic_size) == 0,
               path, "does not begin with '\\x93NUMPY' and a version; it is not a .npy file");
    const int major = std::to_integer<int>(rest_[magic_size]),
              minor = std::to_integer<int>(rest_[magic_size + 1]);
    check_file(major >= 1 && major <= 3 && minor == 0, path, "has .npy format ", major, ".", minor,
               "; supported: 1.0, 2.0 and 3.0");
    rest_ = rest_.subspan(magic_size + 2);
    read_header(major == 1 ? 2 : 4);

    const auto expected = detail::tensor_bytes(dtype(), shape());
    check_file(expected.has_value(), path, "shape ", shape_text(shape()), " of ", name_of(dtype()),
               " has more than 2^63 bytes");
    check_file(*expected == rest_.size(), path, "has ", rest_.size(), " bytes of data; expected ", *expected,
               " for shape ", shape_text(shape()), " of ", name_of(dtype()));
  }

  const std::string& path() const { return file_.path(); }
  DType dtype() const { return header_.dtype; }
  const std::vector<std::int64_t>& shape() const { return header_.shape; }
  /// The elements, row-major, not necessarily aligned; valid while the file is.
  std::span<const std::byte> bytes() const { return rest_; }

 private:
  /// Takes the header's length, of so many bytes, and the header from rest_.
  void read_header(std::size_t length_size) {
    check_file(rest_.size() >= length_size, path(), "ends within the .npy header's length");
    std::uint32_t length = 0;
    std::memcpy(&length, rest_.data(), length_size);
    rest_ = rest_.subspan(length_size);
    check_file(length <= rest_.size(), path(), "announces a .npy header of ", length, " bytes, but only ",
               rest_.size(), " bytes follow");
    const std::string_view text(reinterpret_cast<const char*>(rest_.data()), length);
    header_ = detail::NpyHeaderParser(text, path()).parse();
    rest_ = rest_.subspan(length);
  }

  MappedFile file_;
  std::span<const std::byte> rest_;  // what is not read yet; in the end the elements
  detail::NpyHeader header_;
};

/// Reads an array. FileError as NpyFile.
inline NpyArray load_npy(const std::string& path) {
  const NpyFile file(path);
  return {file.dtype(), file.shape(), {file.bytes().begin(), file.bytes().end()}};
}

/// Replaces or creates a .npy file (format 1.0) as a whole; `bytes` are the elements, row-major.
/// ArgumentError if shape and bytes disagree or numpy lacks the type; FileError if writing fails.
inline void save_npy(const std::string& path, DType dtype, const std::vector<std::int64_t>& shape,
                     std::span<const std::byte> bytes) {
  const auto type = std::find_if(std::begin(detail::npy_types), std::end(detail::npy_types),
                                 [&](const detail::NpyType& row) { return row.dtype == dtype; });
  check(dtype != DType::BF16, "save_npy: numpy has no bfloat16; save the tensor as .safetensors or as F32");
  check(type != std::end(detail::npy_types), "save_npy: cannot save ", name_of(dtype),
        "; supported: ", detail::npy_supported);
  check(shape.size() <= detail::npy_dimension_limit, "save_npy: got ", shape.size(),
        " dimensions; allowed: at most ", detail::npy_dimension_limit);
  const auto expected = detail::tensor_bytes(dtype, shape);
  check(expected.has_value() && *expected == bytes.size(), "save_npy: got ", bytes.size(), " bytes; shape ",
        shape_text(shape), " of ", name_of(dtype), " needs ",
        expected ? text(*expected) : "non-negative sizes below 2^63 bytes");

  std::string sizes;
  for (const std::int64_t size : shape) sizes += text(sizes.empty() ? "" : " ", size, ",");
  if (shape.size() > 1) sizes.pop_back();  // only a single size keeps its comma: (3,)
  std::string header =
      text("{'descr': '", type->descr, "', 'fortran_order': False, 'shape': (", sizes, "), }");
  const std::size_t prefix = detail::npy_magic.size() + 4;
  header.resize((prefix + header.size() + 1 + 63) / 64 * 64 - prefix - 1, ' ');  // data start aligned
  header += '\n';
  const auto length = static_cast<std::uint16_t>(header.size());  // 64 sizes of 20 digits fit easily
  write_file_atomically(path, [&](FileWriter& file) {
    file.write(detail::npy_magic);
    file.write(std::string_view("\x01\x00", 2));
    file.write(std::as_bytes(std::span(&length, 1)));
    file.write(header);
    file.write(bytes);
  });
}

}  // namespace rf

#endif  // RECURFORMER_CHECKPOINT_NPY_HPP
