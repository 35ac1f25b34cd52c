#ifndef RECURFORMER_CPU_GEMM_PACK_HPP
#define RECURFORMER_CPU_GEMM_PACK_HPP

// Copies operands of a matrix product into the order in which gemm_kernel.hpp reads them.
//
//   pack_panels  columns of B (K x N), panel_width of them at a time, k by k; zeros beyond the last column
//   pack_rows    rows of A (M x K), tile_rows of them at a time, k by k; zeros beyond the last row
//
// Whichever way the operand lies in memory, the copy runs along it: a transposing copy goes through
// registers, width x width elements at a time, because a scalar one costs as much as a tenth of a 128-row
// product.

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "recurformer/core/config.hpp"
#include "recurformer/core/dtype.hpp"
#include "recurformer/cpu/gemm_kernel.hpp"
#include "recurformer/cpu/matrix_view.hpp"
#include "recurformer/tile/simd.hpp"
#include "recurformer/tile/transpose.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {
namespace detail {

/// Calls sink(k, v) for every k < depth in order, where v[j] = in[j * in_stride + k], and 0 from `lanes` on.
template <class T, class Sink>
[[gnu::always_inline]] inline void for_each_transposed(const T* in, std::int64_t in_stride, int lanes,
                                                       std::int64_t depth, Sink&& sink) {
  // So many rows are more than the hardware follows by itself: the strip below is asked for now.
  const auto ask_for = [&](int j, std::int64_t k) __attribute__((always_inline)) {
    prefetch(in, (j + simd::width) * in_stride + k);
  };
  const bool all = lanes == simd::width;
  constexpr std::int64_t two_blocks = 2 * simd::width;
  const std::int64_t in_pairs = std::is_same_v<T, bf16> && all ? depth / two_blocks * two_blocks : 0;
  const std::int64_t in_blocks = depth / simd::width * simd::width;
  if constexpr (std::is_same_v<T, bf16>) {  // two k in a lane: half the transposing
    for (std::int64_t k = 0; k < in_pairs; k += two_blocks) {
      simd::Vec pairs[simd::width];
#pragma GCC unroll 16
      for (int j = 0; j < simd::width; ++j) {
        ask_for(j, k);
        std::memcpy(&pairs[j], in + j * in_stride + k, sizeof pairs[j]);
      }
      simd::transpose(pairs);
#pragma GCC unroll 16
      for (int i = 0; i < simd::width; ++i) {
        sink(k + 2 * i, simd::first_of_pairs(pairs[i]));
        sink(k + 2 * i + 1, simd::second_of_pairs(pairs[i]));
      }
    }
  }
  for (std::int64_t k = in_pairs; k < in_blocks; k += simd::width) {
    simd::Vec block[simd::width];
    if (all) {
#pragma GCC unroll 16
      for (int j = 0; j < simd::width; ++j) {
        ask_for(j, k);
        block[j] = simd::load(in + j * in_stride + k);
      }
    } else {
#pragma GCC unroll 16
      for (int j = 0; j < simd::width; ++j)
        block[j] = j < lanes ? simd::load(in + j * in_stride + k) : simd::zero();
    }
    simd::transpose(block);
#pragma GCC unroll 16
    for (int i = 0; i < simd::width; ++i) sink(k + i, block[i]);
  }
  for (std::int64_t k = in_blocks; k < depth; ++k) {
    alignas(64) float column[simd::width];
    for (int j = 0; j < simd::width; ++j)
      column[j] = j < lanes ? convert<float>(in[j * in_stride + k]) : 0.0f;
    sink(k, simd::load(column));
  }
}

/// out[k * out_stride + j] = in[j * in_stride + k] for j < width, k < depth; columns j >= lanes become zero.
template <class T>
[[gnu::noinline]] void transpose_strip(const T* in, std::int64_t in_stride, int lanes, std::int64_t depth,
                                       float* out, std::int64_t out_stride) {
  for_each_transposed(in, in_stride, lanes, depth,
                      [&](std::int64_t k, simd::Vec v) { simd::store(out + k * out_stride, v); });
}

/// Rows of k copied before moving on to the next panel: whole cache lines are read along each of a few rows,
/// so that the hardware sees streams instead of one line per page.
inline constexpr std::int64_t copy_depth = 8;

/// Packed panels of columns [first_column, ...) of B for k in [first_k, first_k + depth).
struct PanelsOfB {
  float* data = nullptr;
  std::int64_t columns = 0;  ///< of B, which tells how wide the last panel is
  std::int64_t first_column = 0;
  std::int64_t first_k = 0;
  std::int64_t depth = 0;

  std::int64_t row_size(std::int64_t column) const { return panel_vectors(column, columns) * simd::width; }
  /// Row k of the panel that starts at `column`, a multiple of panel_width.
  float* row(std::int64_t column, std::int64_t k) const {
    return data + (column - first_column) * depth + (k - first_k) * row_size(column);
  }
};

/// Packs columns whose k are consecutive in memory.
template <class T>
void pack_transposing(MatrixView<T> b, std::int64_t first, std::int64_t end, std::int64_t k,
                      std::int64_t depth, const PanelsOfB& out) {
  for (std::int64_t column = first; column < end; column += simd::width) {
    const std::int64_t panel = column / panel_width * panel_width;
    const int lanes = static_cast<int>(std::min<std::int64_t>(simd::width, end - column));
    transpose_strip(b.data + column * b.column_stride + k, b.column_stride, lanes, depth,
                    out.row(panel, k) + (column - panel), out.row_size(panel));
  }
}

/// Packs columns that are consecutive in memory.
template <class T>
void pack_copying(MatrixView<T> b, std::int64_t first, std::int64_t end, std::int64_t first_k,
                  std::int64_t depth, const PanelsOfB& out) {
  for (std::int64_t tile = first_k; tile < first_k + depth; tile += copy_depth)
    for (std::int64_t panel = first; panel < end; panel += panel_width)
      for (std::int64_t k = tile; k < std::min(tile + copy_depth, first_k + depth); ++k) {
        const T* in = b.data + panel + k * b.row_stride;
        float* row = out.row(panel, k);
        if (end - panel >= panel_width) {
#pragma GCC unroll 4
          for (int v = 0; v < tile_vectors; ++v)
            simd::store(row + v * simd::width, simd::load(in + v * simd::width));
        } else {
          simd::for_lanes(end - panel,
                          [&](std::int64_t j, auto n) { simd::store(row + j, simd::load_n(in + j, n)); });
        }
      }
}

/// Packs columns [first, end) of B for `depth` k from `k` on; `first` is a multiple of panel_width, and `end`
/// too unless it is the number of columns.
template <class T>
void pack_panels(MatrixView<T> b, std::int64_t first, std::int64_t end, std::int64_t k, std::int64_t depth,
                 const PanelsOfB& out) {
  if (b.row_stride == 1) return pack_transposing(b, first, end, k, depth, out);
  if (b.column_stride == 1) return pack_copying(b, first, end, k, depth, out);
  for (std::int64_t panel = first; panel < end; panel += panel_width)
    for (std::int64_t i = k; i < k + depth; ++i)
      for (std::int64_t j = 0; j < out.row_size(panel); ++j)
        out.row(panel, i)[j] =
            panel + j < end ? convert<float>(b.data[i * b.row_stride + (panel + j) * b.column_stride]) : 0.0f;
}

/// tile_rows consecutive elements.
template <class T>
[[gnu::always_inline]] inline void copy_column(const T* in, float* out) {
  if constexpr (std::is_same_v<T, float>) {
    std::memcpy(out, in, tile_rows * sizeof(float));  // one or two vector moves
  } else {
#pragma GCC unroll 8
    for (int i = 0; i < tile_rows; ++i) out[i] = convert<float>(in[i]);
  }
}

/// Rows [first, first + rows) of A, k in [first_k, first_k + depth), as panels of tile_rows x depth.
template <class T>
void pack_rows(MatrixView<T> a, std::int64_t first, std::int64_t rows, std::int64_t first_k,
               std::int64_t depth, float* out) {
  for (std::int64_t tile = 0; tile < depth; tile += copy_depth)
    for (std::int64_t r = 0; r < rows; r += tile_rows) {
      const T* in = a.data + (first + r) * a.row_stride + first_k * a.column_stride;
      const std::int64_t live = std::min<std::int64_t>(tile_rows, rows - r);
      for (std::int64_t k = tile; k < std::min(tile + copy_depth, depth); ++k) {
        float* column = out + r * depth + k * tile_rows;
        if (live == tile_rows && a.row_stride == 1)
          copy_column(in + k * a.column_stride, column);
        else
          for (int i = 0; i < tile_rows; ++i)
            column[i] = i < live ? convert<float>(in[i * a.row_stride + k * a.column_stride]) : 0.0f;
      }
    }
}

}  // namespace detail
}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_GEMM_PACK_HPP
