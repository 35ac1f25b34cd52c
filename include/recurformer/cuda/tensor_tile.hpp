#ifndef RECURFORMER_CUDA_TENSOR_TILE_HPP
#define RECURFORMER_CUDA_TENSOR_TILE_HPP

// One tile of C = A Wᵀ on the tensor cores of sm_80: A (rows, inner), W (columns, inner), bf16 or fp16, sums
// in float.
//
//   global --cp.async, `stages` slices of 32 along inner in flight--> shared --ldmatrix, one step of 16
//   ahead--> registers --mma.sync--> 64 x 64 (or 32 x 64) sums per warp --quad transpose--> epilogue
//
// A slice's rows are 64 bytes; the 16-byte chunk c of row r lies at chunk c ^ (r / 2 % 4), which spreads the
// eight rows of an ldmatrix over all banks. Rows beyond A or W and elements beyond inner are zeros.

#include <cstdint>

#include "recurformer/arch/barrier.hpp"
#include "recurformer/arch/copy_async.hpp"
#include "recurformer/arch/kernel.hpp"
#include "recurformer/arch/matrix.hpp"
#include "recurformer/arch/memory.hpp"
#include "recurformer/arch/thread.hpp"
#include "recurformer/arch/warp.hpp"
#include "recurformer/cuda/gemm_epilogue.hpp"
#include "recurformer/cuda/gemm_operands.hpp"

namespace rf::cuda {
inline namespace RECURFORMER_ARCH {

/// For tiles whose left operand is there from the start.
struct NoWait {
  RECURFORMER_DEVICE void operator()() const {}
};

/// For those whose left operand is other tiles' work: returns, to all threads of the block, when a counter
/// has reached a value.
struct WaitFor {
  const unsigned* counter;
  unsigned value;

  RECURFORMER_DEVICE void operator()() const {
    if (arch::thread_index() == 0)
      while (arch::load_acquire(counter) != value) {
      }
    arch::sync_threads();
  }
};

/// Counts a tile, or whatever the block has written, as done.
RECURFORMER_DEVICE void count_as_done(unsigned* counter) {
  arch::sync_threads();
  if (arch::thread_index() == 0) arch::atomic_add_release(counter, 1u);
}

namespace tensor_detail {

constexpr int slice_depth = 32;                   // elements of a row in one stage
constexpr int slice_row_bytes = 2 * slice_depth;  // of shared memory
constexpr int slice_row_chunks = slice_row_bytes / 16;

/// Bytes from the start of a slice to a chunk of a row.
RECURFORMER_DEVICE int chunk_offset(int row, int chunk) {
  return row * slice_row_bytes + ((chunk ^ (row / 2 % slice_row_chunks)) * 16);
}

/// One thread's share of copying a slice of Rows rows: one chunk in each of `passes` rows.
template <class T, int Rows, int Threads>
struct SliceCopy {
  static constexpr int rows_per_pass = Threads / slice_row_chunks;
  static constexpr int passes = Rows / rows_per_pass;
  static_assert(Rows % rows_per_pass == 0 && rows_per_pass % 8 == 0);

  const T* source[passes];  // the thread's chunk of slice 0
  bool inside[passes];
  int offset;  // of the first pass' chunk within the slice

  /// row_pointer(r) points at row r, and is null for rows that do not exist.
  template <class RowPointer>
  RECURFORMER_DEVICE explicit SliceCopy(const T* anywhere, RowPointer&& row_pointer) {
    const int row = arch::thread_index() / slice_row_chunks, chunk = arch::thread_index() % slice_row_chunks;
    offset = chunk_offset(row, chunk);
    RECURFORMER_UNROLL
    for (int i = 0; i < passes; ++i) {
      const T* start = row_pointer(row + i * rows_per_pass);
      inside[i] = start != nullptr;
      source[i] = (inside[i] ? start : anywhere) + 8 * chunk;
    }
  }

  /// Starts copying the elements from `first` on of every row.
  RECURFORMER_DEVICE void start(arch::SharedAddress slice, int first, int inner) const {
    const bool exists = first + arch::thread_index() % slice_row_chunks * 8 < inner;
    RECURFORMER_UNROLL
    for (int i = 0; i < passes; ++i)
      arch::copy_async<16>(slice + static_cast<unsigned>(offset + i * rows_per_pass * slice_row_bytes),
                           source[i] + (exists ? first : 0), exists && inside[i] ? 16 : 0);
  }
};

/// Four lanes that share a row, lane t holding elements 2t and 2t + 1 of four runs of eight (values[2 j + e]
/// of run j), exchange them so that lane t holds the eight elements of run t.
RECURFORMER_DEVICE void transpose_quad(float* values) {
  RECURFORMER_UNROLL
  for (int bit = 1; bit <= 2; bit *= 2) {
    const bool upper = (arch::lane_index() & bit) != 0;
    RECURFORMER_UNROLL
    for (int low = 0; low < 4; ++low) {
      if (low & bit) continue;
      RECURFORMER_UNROLL
      for (int e = 0; e < 2; ++e) {
        float& first = values[2 * low + e];
        float& second = values[2 * (low | bit) + e];
        const float received = arch::shuffle_xor(upper ? first : second, bit);
        (upper ? first : second) = received;
      }
    }
  }
}

}  // namespace tensor_detail

/// A tile of Rows x Columns, warps of WarpRows x 64; BlocksPerMultiprocessor is what registers leave room
/// for.
template <class T, int Rows, int Columns, int WarpRows, int BlocksPerMultiprocessor>
class TensorTile {
 public:
  using Element = T;
  static constexpr int rows = Rows;
  static constexpr int columns = Columns;
  static constexpr int part_columns = 64;  ///< of an epilogue's part
  static constexpr int threads = Rows / WarpRows * (Columns / 64) * arch::warp_size;
  static constexpr int blocks_per_multiprocessor = BlocksPerMultiprocessor;
  static constexpr int stages = 4;
  static constexpr int slice_bytes = (Rows + Columns) * tensor_detail::slice_row_bytes;
  static constexpr int shared_bytes = stages * slice_bytes + Rows * static_cast<int>(sizeof(float));
  static_assert(shared_bytes < arch::shared_bytes_everywhere);

  /// Computes the tile (row_tile, column_tile) of the product. wait() is called by all threads, and returns
  /// once the left operand's rows may be read. Threads must meet at a barrier before the next tile.
  template <class Rows_, class Norm, class Wait, class Epilogue>
  RECURFORMER_DEVICE static void run(const GemmOperands<Rows_>& operands, const Norm& norm, int row_tile,
                                     int column_tile, const Wait& wait, const Epilogue& epilogue) {
    const int first_row = row_tile * Rows, first_column = column_tile * Columns;
    float* factors = reinterpret_cast<float*>(arch::shared_memory<unsigned char>() + stages * slice_bytes);
    Sums sums{};
    multiply(operands, first_row, first_column, sums, [&] {
      wait();
      if constexpr (Norm::scales) write_row_factors<threads, Rows>(operands, norm, first_row, factors);
    });
    finish<Norm::scales>(sums, factors, first_row, first_column, operands, epilogue);
  }

 private:
  static constexpr int row_fragments = WarpRows / 16;
  static constexpr int column_fragments = 8;
  static constexpr int steps = tensor_detail::slice_depth / 16;
  static_assert(Rows % WarpRows == 0 && Columns % 64 == 0 && WarpRows % 16 == 0);

  struct Sums {
    float of[row_fragments][column_fragments][4];
  };
  struct Fragments {
    std::uint32_t a[row_fragments][4];
    std::uint32_t b[column_fragments / 2][4];
  };

  RECURFORMER_DEVICE static int warp_row() { return arch::warp_index() / (Columns / 64) * WarpRows; }
  RECURFORMER_DEVICE static int warp_column() { return arch::warp_index() % (Columns / 64) * 64; }

  /// Where this lane's ldmatrix rows of one step are, relative to the slice.
  struct LaneOffsets {
    unsigned a[steps], b[steps];

    RECURFORMER_DEVICE LaneOffsets() {
      const int lane = arch::lane_index();
      const int a_row = warp_row() + lane % 16, b_row = warp_column() + lane % 8 + lane / 16 * 8;
      RECURFORMER_UNROLL
      for (int s = 0; s < steps; ++s) {
        a[s] = static_cast<unsigned>(tensor_detail::chunk_offset(a_row, 2 * s + lane / 16));
        b[s] = static_cast<unsigned>(Rows * tensor_detail::slice_row_bytes +
                                     tensor_detail::chunk_offset(b_row, 2 * s + lane / 8 % 2));
      }
    }
  };

  RECURFORMER_DEVICE static void load(Fragments& fragments, arch::SharedAddress slice, unsigned a,
                                      unsigned b) {
    RECURFORMER_UNROLL
    for (int i = 0; i < row_fragments; ++i)
      arch::load_matrices<4>(fragments.a[i],
                             slice + a + static_cast<unsigned>(i * 16 * tensor_detail::slice_row_bytes));
    RECURFORMER_UNROLL
    for (int j = 0; j < column_fragments / 2; ++j)
      arch::load_matrices<4>(fragments.b[j],
                             slice + b + static_cast<unsigned>(j * 16 * tensor_detail::slice_row_bytes));
  }

  RECURFORMER_DEVICE static void multiply_step(Sums& sums, const Fragments& fragments) {
    RECURFORMER_UNROLL
    for (int i = 0; i < row_fragments; ++i) RECURFORMER_UNROLL
    for (int j = 0; j < column_fragments; ++j)
      arch::multiply_add_16x8x16<T>(sums.of[i][j], fragments.a[i], fragments.b[j / 2][j % 2 * 2],
                                    fragments.b[j / 2][j % 2 * 2 + 1]);
  }

  /// sums = A Wᵀ. Weights are on their way before prepare() is called, and rows of A only after.
  template <class Operands, class Prepare>
  RECURFORMER_DEVICE static void multiply(const Operands& operands, int first_row, int first_column,
                                          Sums& sums, Prepare&& prepare) {
    const arch::SharedAddress shared = arch::shared_address(arch::shared_memory<unsigned char>());
    const auto slice = [&](int k) { return shared + static_cast<unsigned>(k % stages * slice_bytes); };
    const auto b_slice = [&](int k) { return slice(k) + Rows * tensor_detail::slice_row_bytes; };
    const int inner = operands.inner,
              slices = (inner + tensor_detail::slice_depth - 1) / tensor_detail::slice_depth;

    const tensor_detail::SliceCopy<T, Columns, threads> copy_b(operands.weights, [&](int r) {
      const std::int64_t column = first_column + r;
      return column < operands.columns ? operands.weights + column * inner : nullptr;
    });
    RECURFORMER_UNROLL
    for (int k = 0; k < stages - 1; ++k) copy_b.start(b_slice(k), k * tensor_detail::slice_depth, inner);
    prepare();
    const tensor_detail::SliceCopy<T, Rows, threads> copy_a(operands.rows.matrix.data, [&](int r) {
      const int row = first_row + r;
      return row < operands.rows.count ? operands.rows.matrix.row(operands.rows.source(row)) : nullptr;
    });
    RECURFORMER_UNROLL
    for (int k = 0; k < stages - 1; ++k) {
      copy_a.start(slice(k), k * tensor_detail::slice_depth, inner);
      arch::commit_copies();
    }

    const LaneOffsets lane;
    Fragments fragments[2];
    arch::wait_for_copies<stages - 2>();
    arch::sync_threads();
    load(fragments[0], slice(0), lane.a[0], lane.b[0]);
    for (int k = 0; k < slices; ++k) {
      RECURFORMER_UNROLL
      for (int step = 0; step < steps; ++step) {
        if (step + 1 < steps) {
          load(fragments[(step + 1) % 2], slice(k), lane.a[step + 1], lane.b[step + 1]);
        } else if (k + 1 < slices) {
          arch::wait_for_copies<stages - 2>();
          arch::sync_threads();  // slice k + 1 is there, and slice k's last fragments are read
          load(fragments[(step + 1) % 2], slice(k + 1), lane.a[0], lane.b[0]);
        }
        if (step == 0) {
          const int next = k + stages - 1;  // where slice k - 1 was
          if (next < slices) {
            copy_a.start(slice(next), next * tensor_detail::slice_depth, inner);
            copy_b.start(b_slice(next), next * tensor_detail::slice_depth, inner);
          }
          arch::commit_copies();
        }
        multiply_step(sums, fragments[step % 2]);
      }
    }
    arch::wait_for_copies<0>();
  }

  template <bool Scales, class Operands, class Epilogue>
  RECURFORMER_DEVICE static void finish(const Sums& sums, const float* factors, int first_row,
                                        int first_column, const Operands& operands,
                                        const Epilogue& epilogue) {
    const int lane = arch::lane_index();
    const int column = first_column + warp_column() + lane % 4 * 8;
    RECURFORMER_UNROLL
    for (int i = 0; i < row_fragments; ++i) {
      RECURFORMER_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int local_row = warp_row() + i * 16 + half * 8 + lane / 4, row = first_row + local_row;
        const bool inside = row < operands.rows.count && column < operands.columns;
        float factor = 1;
        if constexpr (Scales) factor = factors[local_row];
        float values[16];
        RECURFORMER_UNROLL
        for (int v = 0; v < 16; ++v) values[v] = sums.of[i][v / 2][2 * half + v % 2] * factor;
        tensor_detail::transpose_quad(values);
        tensor_detail::transpose_quad(values + 8);
        typename Epilogue::Part part{};
        if (inside) part = epilogue.store(row, column, values);
        if constexpr (Epilogue::Part::exists) {
          part = part.with_lane(1);
          part = part.with_lane(2);
          if (inside && lane % 4 == 0) epilogue.store_part(row, column / part_columns, part);
        }
      }
    }
  }
};

}  // namespace RECURFORMER_ARCH
}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_TENSOR_TILE_HPP
