#ifndef RECURFORMER_CHECKPOINT_TENSOR_IO_HPP
#define RECURFORMER_CHECKPOINT_TENSOR_IO_HPP

// Tensors to and from files:
//   save_npy("x.npy", x);                                          // one array, for numpy.load
//   auto x = load_npy<float, Dims<2>>("x.npy");
//
//   SafetensorsWriter writer;                                      // many tensors by name
//   add_tensor(writer, "layers.0.weight", weight);
//   writer.write("model.safetensors");
//   SafetensorsFile file("model.safetensors");
//   auto weight = read_tensor<bf16, Extents<dynamic, 64>>(file, "layers.0.weight");
//
// Reading converts between F64, F32, BF16 and F16, rounding once; integers must be of the type asked for.
// The formats themselves and what is refused: checkpoint/npy.hpp, checkpoint/safetensors.hpp.

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "recurformer/checkpoint/npy.hpp"
#include "recurformer/checkpoint/safetensors.hpp"
#include "recurformer/core/dtype.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/core/shape.hpp"
#include "recurformer/core/tensor.hpp"
#include "recurformer/core/tensor_ops.hpp"

namespace rf {

namespace detail {

/// A file's shape as E. FileError "<where>: …" if the rank or a static extent differs.
template <class E>
E extents_from_file(std::string_view where, std::span<const std::int64_t> shape) {
  check_file(shape.size() == static_cast<std::size_t>(E::rank()), where, "has shape ", shape_text(shape),
             "; expected one of rank ", E::rank());
  std::array<std::int64_t, static_cast<std::size_t>(E::rank())> sizes{};
  for (std::size_t i = 0; i < sizes.size(); ++i) sizes[i] = shape[i];
  try {
    return E::from_array(sizes);
  } catch (const ArgumentError& error) {
    throw FileError(text(where, ": ", error.what()));
  }
}

/// Elements of a file's dtype as T's. FileError if they are of another kind.
template <class T>
void elements_from_file(std::string_view where, DType dtype, std::span<const std::byte> bytes, T* out) {
  constexpr bool floating = std::floating_point<T> || StorageType<T>;
  if constexpr (std::same_as<T, bool>) {
    if (dtype == DType::BOOL) {  // any byte may be in a file, but not in a bool
      for (std::size_t i = 0; i < bytes.size(); ++i) out[i] = bytes[i] != std::byte{0};
      return;
    }
  } else if (dtype == dtype_of<T>) {
    return copy_converted<T>(bytes, out);
  }
  if constexpr (floating) {
    switch (dtype) {
      case DType::F64:
        return copy_converted<double>(bytes, out);
      case DType::F32:
        return copy_converted<float>(bytes, out);
      case DType::BF16:
        return copy_converted<bf16>(bytes, out);
      case DType::F16:
        return copy_converted<fp16>(bytes, out);
      default:
        break;
    }
  }
  throw FileError(text(where, ": has dtype ", name_of(dtype), "; expected ",
                       floating ? "F64, F32, BF16 or F16" : name_of(dtype_of<T>)));
}

template <class T, class E>
Tensor<T, E> tensor_from_file(std::string_view where, DType dtype, std::span<const std::int64_t> shape,
                              std::span<const std::byte> bytes, std::pmr::memory_resource* memory) {
  auto out = Tensor<T, E>::uninitialised(extents_from_file<E>(where, shape), memory);
  elements_from_file(where, dtype, bytes, out.data());
  return out;
}

template <class E>
std::vector<std::int64_t> shape_vector(const E& extents) {
  const auto sizes = extents.array();
  return {sizes.begin(), sizes.end()};
}

}  // namespace detail

/// Writes a tensor or a view of any strides as .npy, replacing the file as a whole. ArgumentError if numpy
/// lacks the type (bf16: cast first); FileError if writing fails.
template <TensorLike A>
void save_npy(const std::string& path, const A& tensor) {
  const auto view = as_view(tensor);
  using T = typename decltype(view)::value_type;
  if (!view.is_contiguous()) return save_npy(path, cast<T>(view));
  save_npy(path, dtype_of<T>, detail::shape_vector(view.extents()), std::as_bytes(view.span()));
}

/// Reads a .npy file. FileError as load_npy(path) throws, and if the file's rank, static extents or kind of
/// elements are not those asked for.
template <class T, class E>
Tensor<T, E> load_npy(const std::string& path, std::pmr::memory_resource* memory = default_memory()) {
  const NpyArray array = load_npy(path);
  return detail::tensor_from_file<T, E>(path, array.dtype, array.shape, array.bytes, memory);
}

/// Adds a contiguous tensor or view, which must stay alive until the writer has written, see
/// SafetensorsWriter::add.
template <TensorLike A>
void add_tensor(SafetensorsWriter& writer, const std::string& name, const A& tensor) {
  const auto view = as_view(tensor);
  using T = typename decltype(view)::value_type;
  writer.add(name, dtype_of<T>, detail::shape_vector(view.extents()), std::as_bytes(view.span()));
}

/// Reads one tensor of a file. FileError if the file does not have it, or if its rank, static extents or kind
/// of elements are not those asked for.
template <class T, class E>
Tensor<T, E> read_tensor(const SafetensorsFile& file, std::string_view name,
                         std::pmr::memory_resource* memory = default_memory()) {
  const TensorEntry& entry = file.tensor(name);
  const std::string where = text(file.path(), ": tensor ", detail::printable(name));
  return detail::tensor_from_file<T, E>(where, entry.dtype, entry.shape, entry.bytes, memory);
}

}  // namespace rf

#endif  // RECURFORMER_CHECKPOINT_TENSOR_IO_HPP
