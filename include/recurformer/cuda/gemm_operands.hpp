#ifndef RECURFORMER_CUDA_GEMM_OPERANDS_HPP
#define RECURFORMER_CUDA_GEMM_OPERANDS_HPP

// What enters a linear layer: rows of activations, weights, and the factor of each row that RMSNorm
// (arXiv 1910.07467) leaves once its gain is folded into the weights:
//
//   rms_norm(x) Wᵀ = s ∘ (x W'ᵀ),   s = 1 / sqrt(mean(x²) + ε) per row,   W' = W diag(gain)
//
// so that normalising needs no pass over x. The sums of squares come from whoever wrote x (RowSums).

#include <cstdint>

#include "recurformer/arch/math.hpp"
#include "recurformer/arch/thread.hpp"
#include "recurformer/arch/warp.hpp"
#include "recurformer/core/rows_view.hpp"

namespace rf::cuda {

/// The left operand, row r of `count` rows being row r of the matrix.
template <class T>
struct DenseRows {
  using Element = T;
  RowsView<const T> matrix = {};  ///< 16-byte aligned, stride a multiple of 8
  int count = 0;                  ///< >= 0

  RECURFORMER_HOST_DEVICE std::int64_t source(int r) const { return r; }
};

/// The same with row r being row index[r] of the matrix.
template <class T>
struct GatheredRows {
  using Element = T;
  RowsView<const T> matrix = {};
  int count = 0;
  const int* index = nullptr;  ///< (count)

  RECURFORMER_HOST_DEVICE std::int64_t source(int r) const { return index[r]; }
};

/// A (rows.count, inner) and W (columns, inner), row-major and dense as in checkpoints; the product is A Wᵀ.
template <class Rows>
struct GemmOperands {
  using Element = typename Rows::Element;
  Rows rows = {};
  const Element* weights = nullptr;  ///< 16-byte aligned
  int columns = 0;                   ///< a multiple of 8
  int inner = 0;                     ///< a multiple of 8, at least 8
};

/// Sums of squares of the rows of a matrix, in parts: data[row · parts + part] is that of some columns. Their
/// producer decides which (see row_parts in cuda/linear.hpp); a row's sum is that of its parts.
struct RowSums {
  float* data = nullptr;
  int parts = 0;
};

/// No normalisation: every row's factor is 1.
struct NoNorm {
  static constexpr bool scales = false;
};

/// RMSNorm of the left operand, gain folded into the weights.
struct RmsNorm {
  static constexpr bool scales = true;
  RowSums sums = {};  ///< of the matrix that the left operand's rows are rows of
  float epsilon = 0;
};

inline namespace RECURFORMER_ARCH {

/// Writes the factors of rows [first, first + Rows) to `factors`, by all Threads threads of the block; rows
/// beyond the operand's get 1. Lanes add the parts in an order that depends on nothing but their number.
template <int Threads, int Rows, class Operands>
RECURFORMER_DEVICE void write_row_factors(const Operands& operands, const RmsNorm& norm, int first,
                                          float* factors) {
  constexpr int spare = Threads / Rows;
  constexpr int lanes = spare < 4 ? 4 : spare > 32 ? 32 : spare;  // per row
  const int lane = arch::thread_index() % lanes;
  for (int r = arch::thread_index() / lanes; r < Rows; r += Threads / lanes) {
    const bool inside = first + r < operands.rows.count;
    float sum = 0;
    if (inside) {
      const float* parts = norm.sums.data + operands.rows.source(first + r) * norm.sums.parts;
      for (int i = lane; i < norm.sums.parts; i += lanes) sum += parts[i];
    }
    RECURFORMER_UNROLL
    for (int bits = 1; bits < lanes; bits *= 2) sum += arch::shuffle_xor(sum, bits);
    if (lane == 0)
      factors[r] =
          inside ? arch::reciprocal_sqrt(sum / static_cast<float>(operands.inner) + norm.epsilon) : 1.0f;
  }
}

}  // namespace RECURFORMER_ARCH
}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_GEMM_OPERANDS_HPP
