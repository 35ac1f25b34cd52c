#ifndef RECURFORMER_CUDA_PACK_ROWS_HPP
#define RECURFORMER_CUDA_PACK_ROWS_HPP

// Weights as the tiles want them, made once when a model is loaded:
//
//   out[r][k] = W[source[r]][k] · gain[k]      product in float, rounded once; zeros where source[r] < 0
//
// which folds the gain of an RMSNorm into the projection behind it, interleaves gate and up, and brings the
// two halves of rotary pairs together. W (any, inner) and out (rows, inner) are row-major and dense.

#include <cstdint>
#include <vector>

#include "recurformer/arch/thread.hpp"
#include "recurformer/arch/types.hpp"
#include "recurformer/core/dtype.hpp"
#include "recurformer/cuda/gemm_epilogue.hpp"

namespace rf::cuda {
inline namespace RECURFORMER_ARCH {

/// One row per block. From is float, bf16 or fp16.
template <class From, class To>
struct PackRowsKernel {
  struct Parameters {
    const From* weights = nullptr;
    const float* gain = nullptr;  ///< (inner), or null for 1
    const int* source = nullptr;  ///< (rows), or null for row r = r
    To* out = nullptr;
    int inner = 0;
  };
  static constexpr int threads = 128;
  static constexpr int blocks_per_multiprocessor = 8;

  RECURFORMER_DEVICE static void run(const Parameters& p) {
    const std::int64_t row = arch::block_index().x;
    const std::int64_t source = p.source ? p.source[row] : row;
    for (int k = arch::thread_index(); k < p.inner; k += threads) {
      float value = 0;
      if (source >= 0)
        value = static_cast<float>(p.weights[source * p.inner + k]) * (p.gain ? p.gain[k] : 1.0f);
      p.out[row * p.inner + k] = convert<To>(value);
    }
  }
};

}  // namespace RECURFORMER_ARCH

/// Packs `rows` rows; see the top of this file. All pointers are the device's.
template <class From, class To, class Device>
void pack_rows(Device& device, int rows, const typename PackRowsKernel<From, To>::Parameters& parameters) {
  if (rows > 0) device.template launch<PackRowsKernel<From, To>>({.blocks = {.x = rows}}, parameters);
}

/// Columns of the fused gate and up projection that SwiGlu reads.
constexpr int gate_up_columns(int d_ff) {
  return (d_ff + partner_distance - 1) / partner_distance * partner_block;
}

/// Its rows as a matrix of weights, for weights stored as W_gate over W_up
/// (2·d_ff, inner): of every 64 rows, 32 of W_gate and the same 32 of W_up; -1 where d_ff ends.
inline std::vector<int> gate_up_rows(int d_ff) {
  std::vector<int> out;
  for (int block = 0; block < gate_up_columns(d_ff) / partner_block; ++block)
    for (int row = 0; row < partner_block; ++row) {
      const int column = block * partner_distance + row % partner_distance;
      out.push_back(column >= d_ff ? -1 : row < partner_distance ? column : d_ff + column);
    }
  return out;
}

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_PACK_ROWS_HPP
