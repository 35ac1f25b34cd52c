#ifndef RECURFORMER_CUDA_TENSOR_MAP_HPP
#define RECURFORMER_CUDA_TENSOR_MAP_HPP

// Tensor maps, made on the host for arch/tma.hpp: a matrix, or a stack of them, in device memory and the box
// of it that one copy moves. Dimensions are given innermost first, as TMA numbers them:
//
//   // q (tokens, d_head), rows of d_model elements, in tiles of 64 tokens by 64 channels
//   make_tensor_map(q, {d_head, tokens}, {d_model}, {64, 64}, Swizzle::bytes128)
//
// One signature for all devices: the machine's encoding under nvcc (cuda/tensor_map.cuh), the simulator's
// under other compilers.

#include <cstdint>

#include "recurformer/arch/tma.hpp"
#include "recurformer/core/dtype.hpp"
#include "recurformer/core/error.hpp"
#if defined(__CUDACC__)
#include "recurformer/cuda/tensor_map.cuh"
#endif

namespace rf::cuda {

namespace detail {

/// The restrictions that the CUDA driver API states for tiled tensor maps.
template <int Rank>
void check_tensor_map(const void* base, int element_bytes, const std::int64_t (&extents)[Rank],
                      const std::int64_t (&strides)[Rank - 1], const int (&box)[Rank],
                      arch::Swizzle swizzle) {
  check(reinterpret_cast<std::uintptr_t>(base) % 16 == 0,
        "make_tensor_map: the tensor's address must be a multiple of 16 bytes");
  for (int i = 0; i < Rank; ++i) {
    check(extents[i] >= 1 && extents[i] <= std::int64_t{1} << 32, "make_tensor_map: extent ", i, " is ",
          extents[i], "; allowed are 1 to 2^32");
    check(box[i] >= 1 && box[i] <= 256, "make_tensor_map: box extent ", i, " is ", box[i],
          "; allowed are 1 to 256 elements");
  }
  for (int i = 0; i + 1 < Rank; ++i) {
    const std::int64_t bytes = strides[i] * element_bytes;
    check(bytes > 0 && bytes % 16 == 0 && bytes < std::int64_t{1} << 40, "make_tensor_map: stride ", i + 1,
          " is ", bytes, " bytes; must be a positive multiple of 16 below 2^40");
  }
  const int inner = box[0] * element_bytes;
  if (swizzle == arch::Swizzle::none)
    check(inner % 16 == 0, "make_tensor_map: a row of the box is ", inner,
          " bytes; must be a multiple of 16");
  else
    check(inner == arch::row_bytes(swizzle), "make_tensor_map: a row of the box is ", inner,
          " bytes; with this swizzle it must be ", arch::row_bytes(swizzle),
          " (wider tiles take several boxes)");
}

#if !defined(__CUDACC__)
template <int Rank>
arch::TensorMap encode_tensor_map(DType, int element_bytes, const void* base,
                                  const std::int64_t (&extents)[Rank],
                                  const std::int64_t (&strides)[Rank - 1], const int (&box)[Rank],
                                  arch::Swizzle swizzle) {
  arch::TensorMap out{};
  arch::simulator::TensorBox& tensor = out.tensor;
  tensor.base = static_cast<unsigned char*>(const_cast<void*>(base));
  tensor.rank = Rank;
  tensor.element_bytes = element_bytes;
  tensor.swizzle = swizzle;
  for (int i = 0; i < Rank; ++i) {
    tensor.extents[i] = extents[i];
    tensor.box[i] = box[i];
    if (i > 0) tensor.strides[i] = strides[i - 1] * element_bytes;
  }
  return out;
}
#endif

}  // namespace detail

/// A map of the tensor at `base` in device memory, 16-byte aligned, with `extents` elements (2 or 3
/// dimensions), `strides` in elements from one index of dimension 1, 2 to the next (multiples of 16 bytes),
/// copied in boxes of `box` elements (each 1 to 256). A row of the box is a multiple of 16 bytes, and with a
/// swizzle exactly its row_bytes. Throws ArgumentError if one of these doesn't hold.
template <class T, int Rank>
arch::TensorMap make_tensor_map(const T* base, const std::int64_t (&extents)[Rank],
                                const std::int64_t (&strides)[Rank - 1], const int (&box)[Rank],
                                arch::Swizzle swizzle) {
  static_assert(Rank == 2 || Rank == 3, "recurformer: tensor maps have 2 or 3 dimensions");
  static_assert(dtype_of<T> == DType::BF16 || dtype_of<T> == DType::F16 || dtype_of<T> == DType::F32,
                "recurformer: tensor maps hold bf16, fp16 or float");
  detail::check_tensor_map(base, static_cast<int>(sizeof(T)), extents, strides, box, swizzle);
  return detail::encode_tensor_map(dtype_of<T>, static_cast<int>(sizeof(T)), base, extents, strides, box,
                                   swizzle);
}

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_TENSOR_MAP_HPP
