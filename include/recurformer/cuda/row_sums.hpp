#ifndef RECURFORMER_CUDA_ROW_SUMS_HPP
#define RECURFORMER_CUDA_ROW_SUMS_HPP

// The sums of squares of the rows of x, for the first norm of a layer whose input comes from elsewhere.
// (Inside a model whoever writes x leaves them behind.)

#include <cstdint>

#include "recurformer/arch/thread.hpp"
#include "recurformer/arch/types.hpp"
#include "recurformer/arch/warp.hpp"
#include "recurformer/core/rows_view.hpp"
#include "recurformer/cuda/gemm_operands.hpp"
#include "recurformer/cuda/packed_elements.hpp"

namespace rf::cuda {
inline namespace RECURFORMER_ARCH {

/// Of eight elements.
template <class T>
RECURFORMER_DEVICE float sum_of_squares(const arch::Words4& words) {
  float values[8], squares = 0;
  unpack_eight<T>(words, values);
  RECURFORMER_UNROLL
  for (int i = 0; i < 8; ++i) squares += values[i] * values[i];
  return squares;
}

/// Stores what the lanes of a warp have of a row's sum: all of it in the first part, zeros in the others.
RECURFORMER_DEVICE void store_row_sum(const RowSums& sums, int row, float squares) {
  RECURFORMER_UNROLL
  for (int bits = 1; bits < arch::warp_size; bits *= 2) squares += arch::shuffle_xor(squares, bits);
  float* const parts = sums.data + std::int64_t{row} * sums.parts;
  for (int part = arch::lane_index(); part < sums.parts; part += arch::warp_size)
    parts[part] = part == 0 ? squares : 0.0f;
}

/// One warp per row, 8 elements per lane and turn.
template <class T>
struct RowSumsKernel {
  struct Parameters {
    RowsView<const T> x;  ///< (rows, width), 16-byte aligned, stride a multiple of 8
    RowSums sums;
    int rows = 0;
    int width = 0;  ///< a multiple of 8
  };
  static constexpr int threads = 128;
  static constexpr int blocks_per_multiprocessor = 8;
  static constexpr int rows_per_block = threads / arch::warp_size;

  RECURFORMER_DEVICE static void run(const Parameters& p) {
    const int row = arch::block_index().x * rows_per_block + arch::warp_index();
    if (row >= p.rows) return;
    float squares = 0;
    for (int column = arch::lane_index() * 8; column < p.width; column += arch::warp_size * 8)
      squares += sum_of_squares<T>(load_words(p.x.row(row) + column));
    store_row_sum(p.sums, row, squares);
  }
};

}  // namespace RECURFORMER_ARCH

/// The sums of squares of the rows of x. 0 rows are nothing to do.
template <class T, class Device>
void row_sums(Device& device, const typename RowSumsKernel<T>::Parameters& parameters) {
  using Kernel = RowSumsKernel<T>;
  const int blocks = (parameters.rows + Kernel::rows_per_block - 1) / Kernel::rows_per_block;
  if (blocks > 0) device.template launch<Kernel>({.blocks = {.x = blocks}}, parameters);
}

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_ROW_SUMS_HPP
