#ifndef RECURFORMER_CPU_GEMM_HPP
#define RECURFORMER_CPU_GEMM_HPP

// Matrix product on all threads: C (M, N) (+)= A (M, K) · B (K, N).
//
//   A, B  float, bf16 or fp16, any strides: a transposed operand is a view with its strides swapped
//   C     float, rows c_stride apart
//
// With row-major activations x (rows, in), gradients dy (rows, out) and weights W (out, in):
//   y  = x Wᵀ    gemm({rows, out, in}, row_major(x, in), row_major(W, in).transposed(), y, out)
//   dx = dy W    gemm({rows, in, out}, row_major(dy, out), row_major(W, in), dx, in)
//   dW += dyᵀ x  gemm({out, in, rows}, row_major(dy, out).transposed(), row_major(x, in), dW, in,
//                     Accumulate::yes)
//
// Flow: the threads pack B into panels (a chunk of columns at a time, so that the copy stays in the
// last-level cache), then share the blocks of C. A block walks along K in steps of depth_block; float A with
// contiguous k is read where it lies, any other A is packed block by block.
//
// The sum over k is never split between threads and its order depends on K alone: the bits of C do not depend
// on the number of threads, on M, or on the column's neighbours.

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "recurformer/core/config.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/core/parallel.hpp"
#include "recurformer/cpu/aligned_buffer.hpp"
#include "recurformer/cpu/gemm_kernel.hpp"
#include "recurformer/cpu/gemm_pack.hpp"
#include "recurformer/cpu/matrix_view.hpp"

namespace rf::cpu {

/// C is (rows, columns); `depth` is the summed dimension. All may be 0.
struct GemmShape {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t depth = 0;
};

inline namespace RECURFORMER_ISA {
namespace detail {

/// How C is cut into blocks that threads take in turn.
struct BlockGrid {
  std::int64_t rows = 0;    ///< rows of a block, a multiple of tile_rows
  std::int64_t panels = 0;  ///< panels of a block
  std::int64_t down = 0;    ///< blocks along M
  std::int64_t across = 0;  ///< blocks along N

  std::int64_t count() const { return down * across; }
};

inline std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// Blocks as large as caches allow, but enough of them to keep every thread busy to the end. Rows are halved
/// first: that only re-reads B from cache, while fewer panels pack A again.
inline BlockGrid block_grid(std::int64_t rows, std::int64_t columns, int threads) {
  constexpr std::int64_t most_rows = 192, least_rows = 24, most_panels = 8;
  const std::int64_t panels = divide_up(columns, panel_width);
  const std::int64_t wanted = threads == 1 ? 1 : 8 * threads;
  BlockGrid grid;
  std::int64_t down = divide_up(rows, most_rows), across = divide_up(panels, most_panels);
  const auto fit = [&] {
    grid.rows = divide_up(divide_up(rows, down), tile_rows) * tile_rows;
    grid.panels = divide_up(panels, across);
    grid.down = divide_up(rows, grid.rows);
    grid.across = divide_up(panels, grid.panels);
  };
  fit();
  while (grid.count() < wanted && grid.rows > least_rows) {
    down *= 2;
    fit();
  }
  while (grid.count() < wanted && grid.panels > 1) {
    across *= 2;
    fit();
  }
  return grid;
}

/// Runs body(i) for i < count, on the calling thread alone where the whole work is too small to share.
template <class Body>
void share_or_run(std::int64_t count, bool share, Body&& body) {
  if (share)
    parallel_for(count, body);
  else
    for (std::int64_t i = 0; i < count; ++i) body(i);
}

/// Scratch of the calling thread. Only one gemm runs on a thread at a time, so one of each suffices.
inline float* packed_a_scratch(std::int64_t size) {
  thread_local AlignedBuffer<float> buffer;
  buffer.reserve(static_cast<std::size_t>(size));
  return buffer.data();
}
inline float* packed_b_scratch(std::int64_t size) {
  thread_local AlignedBuffer<float> buffer;
  buffer.reserve(static_cast<std::size_t>(size));
  return buffer.data();
}

/// One block of C. `panels` holds B's packed columns [0, columns), whole K.
template <class T>
struct BlockProduct {
  GemmShape shape;  // of the chunk
  MatrixView<T> a;
  const float* panels;
  float* c;
  std::int64_t c_stride;
  Accumulate accumulate;
  BlockGrid grid;

  void operator()(std::int64_t block) const {
    const std::int64_t first_row = block / grid.across * grid.rows;
    const std::int64_t rows = std::min(grid.rows, shape.rows - first_row);
    const std::int64_t first_panel = block % grid.across * grid.panels;
    const std::int64_t end_column = std::min(shape.columns, (first_panel + grid.panels) * panel_width);
    for (std::int64_t k = 0; k < shape.depth; k += depth_block) {
      const std::int64_t depth = std::min(depth_block, shape.depth - k);
      const bool add = k > 0 || accumulate == Accumulate::yes;
      if constexpr (std::is_same_v<T, float>)
        if (a.column_stride == 1) {
          for (std::int64_t column = first_panel * panel_width; column < end_column; column += panel_width)
            for (std::int64_t r = 0; r < rows; r += tile_rows)
              tile(first_row + r, std::min<std::int64_t>(tile_rows, rows - r), column, k, depth, add,
                   RowMajorA{a.data + (first_row + r) * a.row_stride + k, a.row_stride});
          continue;
        }
      float* packed = packed_a_scratch((grid.rows + tile_rows) * depth_block);
      pack_rows(a, first_row, rows, k, depth, packed);
      for (std::int64_t column = first_panel * panel_width; column < end_column; column += panel_width)
        for (std::int64_t r = 0; r < rows; r += tile_rows)
          tile(first_row + r, std::min<std::int64_t>(tile_rows, rows - r), column, k, depth, add,
               PanelA{packed + r * depth});
    }
  }

  template <class A>
  void tile(std::int64_t row, std::int64_t rows, std::int64_t column, std::int64_t k, std::int64_t depth,
            bool add, A operand) const {
    const int vectors = panel_vectors(column, shape.columns);
    const float* b = panels + column * shape.depth + k * vectors * simd::width;
    float* out = c + row * c_stride + column;
    const int live_rows = static_cast<int>(rows);
    pick_tile_kernel<A, float>(live_rows, vectors)(
        depth, operand, b, add ? TileStart{out, c_stride} : TileStart{}, out, c_stride, live_rows,
        std::min<std::int64_t>(panel_width, shape.columns - column));
  }
};

/// Packs columns of B into panels, in parallel over panels and long stretches of K.
template <class T>
void pack_chunk(MatrixView<T> b, std::int64_t columns, std::int64_t depth, bool share, float* out) {
  constexpr std::int64_t stretch = 4 * depth_block;
  const std::int64_t panels = divide_up(columns, panel_width), stretches = divide_up(depth, stretch);
  share_or_run(panels * stretches, share, [&](std::int64_t i) {
    const std::int64_t first = i / stretches * panel_width, k = i % stretches * stretch;
    const std::int64_t row = panel_vectors(first, columns) * simd::width;
    pack_panel(b, first, columns, k, std::min(stretch, depth - k), out + first * depth + k * row);
  });
}

inline void clear_rows(GemmShape shape, float* c, std::int64_t c_stride) {
  for (std::int64_t i = 0; i < shape.rows; ++i) std::fill_n(c + i * c_stride, shape.columns, 0.0f);
}

}  // namespace detail

/// C (+)= A · B; see the top of this file. c_stride >= columns; C overlaps neither A nor B. With
/// Accumulate::no C's old contents are never read. A depth of 0 is a sum of nothing: C becomes 0, or stays.
template <StorageType TA, StorageType TB>
void gemm(GemmShape shape, MatrixView<TA> a, MatrixView<TB> b, float* c, std::int64_t c_stride,
          Accumulate accumulate = Accumulate::no) {
  check(shape.rows >= 0 && shape.columns >= 0 && shape.depth >= 0, "gemm got the shape (", shape.rows, ", ",
        shape.columns, ", ", shape.depth, "); sizes cannot be negative");
  if (shape.rows == 0 || shape.columns == 0) return;
  check(c_stride >= shape.columns, "gemm writes rows of ", shape.columns, " elements into C, whose rows are ",
        c_stride, " apart; they would overlap");
  if (shape.depth == 0) {
    if (accumulate == Accumulate::no) detail::clear_rows(shape, c, c_stride);
    return;
  }
  constexpr std::int64_t chunk_elements = std::int64_t{4} << 20;  // 16 MiB of packed B
  constexpr std::int64_t least_shared = 1 << 17;  // multiply-adds worth waking other threads for
  const std::int64_t panels_per_chunk =
      std::max<std::int64_t>(1, chunk_elements / (panel_width * shape.depth));
  const std::int64_t chunk = panels_per_chunk * panel_width;
  const bool share = shape.rows * shape.columns * shape.depth >= least_shared;
  for (std::int64_t first = 0; first < shape.columns; first += chunk) {
    const std::int64_t columns = std::min(chunk, shape.columns - first);
    float* panels = detail::packed_b_scratch(detail::padded_columns(columns) * shape.depth);
    const MatrixView<TB> part{b.data + first * b.column_stride, b.row_stride, b.column_stride};
    detail::pack_chunk(part, columns, shape.depth, share, panels);
    const detail::BlockProduct<TA> product{
        .shape = {shape.rows, columns, shape.depth},
        .a = a,
        .panels = panels,
        .c = c + first,
        .c_stride = c_stride,
        .accumulate = accumulate,
        .grid = detail::block_grid(shape.rows, columns, share ? default_pool().threads() : 1)};
    detail::share_or_run(product.grid.count(), share, product);
  }
}

}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_GEMM_HPP
