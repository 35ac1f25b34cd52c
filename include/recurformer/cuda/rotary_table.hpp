#ifndef RECURFORMER_CUDA_ROTARY_TABLE_HPP
#define RECURFORMER_CUDA_ROTARY_TABLE_HPP

#include <cstdint>

namespace rf::cuda {

/// Cosines and sines of positions, d_head / 2 each, rows `stride` floats apart (a multiple of 4).
struct RotaryTable {
  const float* cosines = nullptr;
  const float* sines = nullptr;
  std::int64_t stride = 0;
};

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_ROTARY_TABLE_HPP
