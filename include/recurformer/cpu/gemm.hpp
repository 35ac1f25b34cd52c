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
// Flow: C is cut into blocks, which the threads take in turn. A block walks along K in steps of depth_block;
// it reads float A with consecutive k where it lies and packs any other A. Where C is one block high, each
// block also packs the part of B that it alone needs; otherwise the threads first pack B together, a chunk of
// columns at a time, so that the copy stays in the last-level cache. A single row of float takes weights as
// they lie, without a copy.
//
// The sum over k is never split between threads and its order depends on K alone: the bits of C do not depend
// on the number of threads, on M, or on the column's neighbours.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
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

/// What packing one element costs, in vector multiply-adds.
struct PackingCost {
  double a = 0;
  double b = 0;         ///< into the nearest cache, for the block that needs it
  double shared_b = 0;  ///< beforehand, for all blocks: written to a cache that is far from who reads it
};

/// The grid with the shortest predicted time: full rounds of blocks over the threads, and a quarter for the
/// unevenness of threads. Large blocks pack and read less, small ones share out better.
inline BlockGrid block_grid(GemmShape shape, int threads, PackingCost cost) {
  constexpr double reading = 0.1;                                // an element that comes from a farther cache
  constexpr std::int64_t near_elements = std::int64_t{1} << 17;  // of A that stay in the second-level cache
  const std::int64_t panels = divide_up(shape.columns, panel_width);
  BlockGrid best;
  double best_time = std::numeric_limits<double>::infinity();
  std::int64_t cuts = 0;  // of the rows
  for (const std::int64_t most_rows : {2048, 1024, 512, 192, 96, 48, 24}) {
    if (cuts == divide_up(shape.rows, most_rows)) continue;  // the same blocks again
    cuts = divide_up(shape.rows, most_rows);
    for (const std::int64_t most_panels : {8, 4, 2, 1}) {
      BlockGrid grid;
      grid.rows = divide_up(divide_up(shape.rows, cuts), tile_rows) * tile_rows;
      grid.panels = divide_up(panels, divide_up(panels, most_panels));
      grid.down = divide_up(shape.rows, grid.rows);
      grid.across = divide_up(panels, grid.panels);
      const auto block_rows = static_cast<double>(grid.rows), block_panels = static_cast<double>(grid.panels);
      // Every panel of a block reads the block's rows of A.
      const double far_panels = grid.rows * std::min(shape.depth, depth_block) > near_elements ? block_panels
                                : grid.rows * shape.depth > near_elements                      ? 1.0
                                                                                               : 0.0;
      const double block = block_rows * (block_panels * tile_vectors + far_panels * reading + cost.a) +
                           block_panels * panel_width * (grid.down == 1 ? cost.b : reading);
      const double shared =
          grid.down == 1 ? 0.0 : static_cast<double>(shape.columns) * cost.shared_b / threads;
      const double time =
          (static_cast<double>(divide_up(grid.count(), threads)) + (threads > 1 ? 0.25 : 0.0)) * block +
          shared;
      if (time < best_time) best = grid, best_time = time;
    }
  }
  return best;
}

/// A is read in place where it is float and its k are consecutive; B is transposed where its k are. Measured
/// on matrices of 128 to 4864 rows and columns that lie in the last-level cache.
template <class TA, class TB>
PackingCost packing_cost(const MatrixView<TA>& a, const MatrixView<TB>& b) {
  const double a_cost = std::is_same_v<TA, float> && a.column_stride == 1 ? 0.0 : 0.7;
  return b.row_stride == 1 ? PackingCost{.a = a_cost, .b = 0.8, .shared_b = 2.2}
                           : PackingCost{.a = a_cost, .b = 0.6, .shared_b = 1.4};
}

/// Runs body(i) for i < count, on the calling thread alone where the whole work is too small to share.
template <class Body>
void share_or_run(std::int64_t count, bool share, Body&& body) {
  if (share)
    parallel_for(count, body);
  else
    for (std::int64_t i = 0; i < count; ++i) body(i);
}

/// The same with body(first, end), for loops that read from memory in order.
template <class Body>
void share_ranges_or_run(std::int64_t count, bool share, Body&& body) {
  if (share)
    parallel_ranges(count, body);
  else
    body(std::int64_t{0}, count);
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

/// Sum over k < depth of x[k] · in[j * in_stride + k] for j < lanes, as tile_kernel adds it up.
template <class T>
[[gnu::noinline]] simd::Vec multiply_strip(const float* x, const T* in, std::int64_t in_stride, int lanes,
                                           std::int64_t depth) {
  simd::Vec sum = simd::zero();
  for_each_transposed(in, in_stride, lanes, depth,
                      [&](std::int64_t k, simd::Vec v) { sum += simd::broadcast(x[k]) * v; });
  return sum;
}

/// Columns [first, end) of a row c of C, where the k of a and of b's columns are consecutive: every number of
/// B is used once, in the registers that its transposition leaves it in.
template <class T>
void multiply_row(const float* a, MatrixView<T> b, std::int64_t depth, float* c, Accumulate accumulate,
                  std::int64_t first, std::int64_t end) {
  simd::for_lanes(end - first, [&](std::int64_t j, auto n) {
    const T* const in = b.data + (first + j) * b.column_stride;
    float* const out = c + first + j;
    simd::Vec sum = simd::zero();
    for (std::int64_t k = 0; k < depth; k += depth_block) {
      const simd::Vec block =
          multiply_strip(a + k, in + k, b.column_stride, int{n}, std::min(depth_block, depth - k));
      if (k > 0)
        sum += block;
      else
        sum = accumulate == Accumulate::yes ? simd::load_n(out, n) + block : block;
    }
    simd::store_n(out, sum, n);
  });
}

/// Computes blocks of C. B comes packed by pack_chunk(), or is null: then each block packs what it needs,
/// which costs nothing more where C is one block high, and stays in the nearest cache.
template <class TA, class TB>
struct BlockProduct {
  GemmShape shape;
  MatrixView<TA> a;
  MatrixView<TB> b;
  PanelsOfB packed_b;
  float* c;
  std::int64_t c_stride;
  Accumulate accumulate;
  BlockGrid grid;

  void operator()(std::int64_t block) const {
    const std::int64_t first_row = block / grid.across * grid.rows;
    const std::int64_t rows = std::min(grid.rows, shape.rows - first_row);
    const std::int64_t first_panel = block % grid.across * grid.panels;
    const std::int64_t first_column = first_panel * panel_width;
    const std::int64_t end_column = std::min(shape.columns, first_column + grid.panels * panel_width);
    for (std::int64_t k = 0; k < shape.depth; k += depth_block) {
      const std::int64_t depth = std::min(depth_block, shape.depth - k);
      const PanelsOfB panels = panels_of_b(first_column, end_column, k, depth);
      if constexpr (std::is_same_v<TA, float>)
        if (a.column_stride == 1) {
          for (std::int64_t column = first_column; column < end_column; column += panel_width)
            for (std::int64_t r = first_row; r < first_row + rows; r += tile_rows)
              tile(r, first_row + rows, column, k, depth, panels.row(column, k),
                   RowMajorA{a.data + r * a.row_stride + k, a.row_stride});
          continue;
        }
      float* packed_a = packed_a_scratch((grid.rows + tile_rows) * depth_block);
      pack_rows(a, first_row, rows, k, depth, packed_a);
      for (std::int64_t column = first_column; column < end_column; column += panel_width)
        for (std::int64_t r = first_row; r < first_row + rows; r += tile_rows)
          tile(r, first_row + rows, column, k, depth, panels.row(column, k),
               PanelA{packed_a + (r - first_row) * depth});
    }
  }

  PanelsOfB panels_of_b(std::int64_t first, std::int64_t end, std::int64_t k, std::int64_t depth) const {
    if (packed_b.data != nullptr) return packed_b;
    const PanelsOfB panels{packed_b_scratch(padded_columns(end - first) * depth), shape.columns, first, k,
                           depth};
    pack_panels(b, first, end, k, depth, panels);
    return panels;
  }

  template <class A>
  void tile(std::int64_t row, std::int64_t end_row, std::int64_t column, std::int64_t k, std::int64_t depth,
            const float* panel, A operand) const {
    const int rows = static_cast<int>(std::min<std::int64_t>(tile_rows, end_row - row));
    float* out = c + row * c_stride + column;
    const bool add = k > 0 || accumulate == Accumulate::yes;
    pick_tile_kernel<A, PanelB<float>>(rows, panel_vectors(column, shape.columns))(
        depth, operand, {panel}, add ? TileStart{out, c_stride} : TileStart{}, out, c_stride, rows,
        std::min<std::int64_t>(panel_width, shape.columns - column));
  }
};

/// Packs all of B into `out`, in parallel over blocks of it.
template <class T>
void pack_chunk(MatrixView<T> b, bool share, const PanelsOfB& out) {
  constexpr std::int64_t width = 8 * panel_width;
  const std::int64_t across = divide_up(out.columns, width), down = divide_up(out.depth, depth_block);
  share_or_run(across * down, share, [&](std::int64_t i) {
    const std::int64_t first = i / down * width, k = i % down * depth_block;
    pack_panels(b, first, std::min(first + width, out.columns), k, std::min(depth_block, out.depth - k), out);
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
  const bool share = shape.rows * shape.columns * shape.depth >= least_shared;
  if constexpr (std::is_same_v<TA, float>)
    if (shape.rows == 1 && a.column_stride == 1 && b.row_stride == 1) {
      const auto row = [&](std::int64_t first, std::int64_t end) {
        detail::multiply_row(a.data, b, shape.depth, c, accumulate, first * panel_width,
                             std::min(shape.columns, end * panel_width));
      };
      return detail::share_ranges_or_run(detail::divide_up(shape.columns, panel_width), share, row);
    }
  const int threads = share ? default_pool().threads() : 1;
  const detail::PackingCost cost = detail::packing_cost(a, b);
  const detail::BlockGrid whole = detail::block_grid(shape, threads, cost);
  const bool pack_in_blocks = whole.down == 1;
  const std::int64_t panels_per_chunk =
      std::max<std::int64_t>(1, chunk_elements / (panel_width * shape.depth));
  const std::int64_t chunk = pack_in_blocks ? shape.columns : panels_per_chunk * panel_width;
  for (std::int64_t first = 0; first < shape.columns; first += chunk) {
    const std::int64_t columns = std::min(chunk, shape.columns - first);
    const GemmShape chunk_shape{shape.rows, columns, shape.depth};
    detail::BlockProduct<TA, TB> product{
        .shape = chunk_shape,
        .a = a,
        .b = {b.data + first * b.column_stride, b.row_stride, b.column_stride},
        .packed_b = {},
        .c = c + first,
        .c_stride = c_stride,
        .accumulate = accumulate,
        .grid = columns == shape.columns ? whole : detail::block_grid(chunk_shape, threads, cost)};
    if (!pack_in_blocks) {
      product.packed_b = {.data = detail::packed_b_scratch(detail::padded_columns(columns) * shape.depth),
                          .columns = columns,
                          .depth = shape.depth};
      detail::pack_chunk(product.b, share, product.packed_b);
    }
    detail::share_or_run(product.grid.count(), share, product);
  }
}

}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_GEMM_HPP
