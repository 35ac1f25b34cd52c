#ifndef RECURFORMER_CUDA_COPY_ROWS_HPP
#define RECURFORMER_CUDA_COPY_ROWS_HPP

// Copies pieces of matrices to other places in device memory, any number of them in one launch: a copy of its
// own for each would cost the host microseconds.

#include <cstddef>
#include <cstdint>

#include "recurformer/arch/thread.hpp"
#include "recurformer/arch/types.hpp"

namespace rf::cuda {

/// One piece. Addresses and sizes are multiples of 16 bytes.
struct RowCopy {
  const std::byte* from = nullptr;
  std::byte* to = nullptr;
  std::int64_t from_stride = 0;  ///< bytes from a row to the next
  std::int64_t to_stride = 0;
  int rows = 0;
  int row_bytes = 0;
};

/// The pieces of a launch, on the device.
struct RowCopies {
  const RowCopy* pieces = nullptr;
  int count = 0;
  int most_rows = 0;  ///< of one piece
};

inline namespace RECURFORMER_ARCH {

/// A block per piece (x) and row (y).
struct CopyRowsKernel {
  struct Parameters {
    const RowCopy* pieces = nullptr;
  };
  static constexpr int threads = 128;
  static constexpr int blocks_per_multiprocessor = 8;

  RECURFORMER_DEVICE static void run(const Parameters& p) {
    const RowCopy piece = p.pieces[arch::block_index().x];
    const int row = arch::block_index().y;
    if (row >= piece.rows) return;
    const auto* from = reinterpret_cast<const arch::Words4*>(piece.from + row * piece.from_stride);
    auto* to = reinterpret_cast<arch::Words4*>(piece.to + row * piece.to_stride);
    for (int i = arch::thread_index(); i < piece.row_bytes / 16; i += threads) to[i] = from[i];
  }
};

}  // namespace RECURFORMER_ARCH

/// No piece may be read where another one is written.
template <class Device>
void copy_rows(Device& device, const RowCopies& copies) {
  if (copies.count > 0)
    device.template launch<CopyRowsKernel>({.blocks = {.x = copies.count, .y = copies.most_rows}},
                                           {.pieces = copies.pieces});
}

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_COPY_ROWS_HPP
