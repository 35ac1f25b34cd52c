#ifndef RECURFORMER_CUDA_EMBEDDING_HPP
#define RECURFORMER_CUDA_EMBEDDING_HPP

// The first step of a model: x[r] = E[token[r]], and the sums of squares of the rows of x for the first norm.

#include <cstdint>

#include "recurformer/arch/thread.hpp"
#include "recurformer/arch/types.hpp"
#include "recurformer/core/rows_view.hpp"
#include "recurformer/cuda/gemm_operands.hpp"
#include "recurformer/cuda/packed_elements.hpp"
#include "recurformer/cuda/row_sums.hpp"

namespace rf::cuda {
inline namespace RECURFORMER_ARCH {

/// One warp per row, 8 elements per lane and turn.
template <class T>
struct EmbeddingKernel {
  struct Parameters {
    const std::int32_t* tokens = nullptr;  ///< (rows), each in [0, vocabulary)
    const T* table = nullptr;              ///< (vocabulary, width), dense, 16-byte aligned
    RowsView<T> x;                         ///< (rows, width), 16-byte aligned, stride a multiple of 8
    RowSums sums;                          ///< see store_row_sum()
    int rows = 0;
    int width = 0;  ///< a multiple of 8
  };
  static constexpr int threads = 128;
  static constexpr int blocks_per_multiprocessor = 8;
  static constexpr int rows_per_block = threads / arch::warp_size;

  RECURFORMER_DEVICE static void run(const Parameters& p) {
    const int row = arch::block_index().x * rows_per_block + arch::warp_index(), lane = arch::lane_index();
    if (row >= p.rows) return;
    const T* from = p.table + std::int64_t{p.tokens[row]} * p.width;
    float squares = 0;
    for (int column = lane * 8; column < p.width; column += arch::warp_size * 8) {
      const arch::Words4 words = load_words(from + column);
      *reinterpret_cast<arch::Words4*>(p.x.row(row) + column) = words;
      squares += sum_of_squares<T>(words);
    }
    store_row_sum(p.sums, row, squares);
  }
};

}  // namespace RECURFORMER_ARCH

/// x = rows of the table, and their sums of squares. 0 rows are nothing to do.
template <class T, class Device>
void embed(Device& device, const typename EmbeddingKernel<T>::Parameters& parameters) {
  using Kernel = EmbeddingKernel<T>;
  const int blocks = (parameters.rows + Kernel::rows_per_block - 1) / Kernel::rows_per_block;
  if (blocks > 0) device.template launch<Kernel>({.blocks = {.x = blocks}}, parameters);
}

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_EMBEDDING_HPP
