#ifndef RECURFORMER_CUDA_TENSOR_MAP_CUH
#define RECURFORMER_CUDA_TENSOR_MAP_CUH

// The driver's encoding of tensor maps, for cuda/tensor_map.hpp. The driver's function is looked up at run
// time, so that programs need not link libcuda and start on machines without a driver.

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstring>

#include "recurformer/arch/tma.hpp"
#include "recurformer/core/dtype.hpp"
#include "recurformer/core/error.hpp"

namespace rf::cuda::detail {

static_assert(sizeof(CUtensorMap) == sizeof(arch::TensorMap));

using EncodeTiled = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                                 const cuuint64_t*, const cuuint32_t*, const cuuint32_t*,
                                 CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
                                 CUtensorMapFloatOOBfill);

inline EncodeTiled encode_tiled() {
  static const EncodeTiled function = [] {
    static constexpr unsigned first_version = 12000;
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry,
                                                               first_version, cudaEnableDefault, &found);
    check(error == cudaSuccess && found == cudaDriverEntryPointSuccess && entry != nullptr,
          "make_tensor_map: the CUDA driver has no cuTensorMapEncodeTiled; it takes a driver for CUDA 12 or "
          "newer");
    return reinterpret_cast<EncodeTiled>(entry);
  }();
  return function;
}

inline CUtensorMapDataType tensor_map_type(DType dtype) {
  if (dtype == DType::BF16) return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  if (dtype == DType::F16) return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  return CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
}

inline CUtensorMapSwizzle tensor_map_swizzle(arch::Swizzle swizzle) {
  switch (swizzle) {
    case arch::Swizzle::bytes32:
      return CU_TENSOR_MAP_SWIZZLE_32B;
    case arch::Swizzle::bytes64:
      return CU_TENSOR_MAP_SWIZZLE_64B;
    case arch::Swizzle::bytes128:
      return CU_TENSOR_MAP_SWIZZLE_128B;
    case arch::Swizzle::none:
      break;
  }
  return CU_TENSOR_MAP_SWIZZLE_NONE;
}

/// Arguments are those of make_tensor_map, already checked.
template <int Rank>
arch::TensorMap encode_tensor_map(DType dtype, int element_bytes, const void* base,
                                  const std::int64_t (&extents)[Rank],
                                  const std::int64_t (&strides)[Rank - 1], const int (&box)[Rank],
                                  arch::Swizzle swizzle) {
  cuuint64_t extent[Rank], stride[Rank];
  cuuint32_t box_extent[Rank], every[Rank];
  for (int i = 0; i < Rank; ++i) {
    extent[i] = static_cast<cuuint64_t>(extents[i]);
    box_extent[i] = static_cast<cuuint32_t>(box[i]);
    every[i] = 1;
    if (i > 0) stride[i - 1] = static_cast<cuuint64_t>(strides[i - 1] * element_bytes);
  }
  alignas(64) CUtensorMap encoded;
  const CUresult result =
      encode_tiled()(&encoded, tensor_map_type(dtype), Rank, const_cast<void*>(base), extent, stride,
                     box_extent, every, CU_TENSOR_MAP_INTERLEAVE_NONE, tensor_map_swizzle(swizzle),
                     CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  check(result == CUDA_SUCCESS, "make_tensor_map: cuTensorMapEncodeTiled failed with error ",
        static_cast<int>(result));
  arch::TensorMap out;
  std::memcpy(&out, &encoded, sizeof out);
  return out;
}

}  // namespace rf::cuda::detail

#endif  // RECURFORMER_CUDA_TENSOR_MAP_CUH
