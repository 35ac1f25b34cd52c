#ifndef RECURFORMER_CPU_GEMM_PACK_HPP
#define RECURFORMER_CPU_GEMM_PACK_HPP

// Copies operands of a matrix product into the order in which gemm_kernel.hpp reads them.
//
//   pack_panel   columns [first, first + V * width) of B (K x N), k by k, zeros beyond the last column
//   pack_rows    `tile_rows` rows of A (M x K), k by k, zeros beyond the last row
//
// Whichever way the operand lies in memory, the copy runs along it: a transposing copy goes through
// registers, width x width elements at a time, because a scalar one costs as much as a tenth of a 128-row
// product.

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "recurformer/core/config.hpp"
#include "recurformer/core/dtype.hpp"
#include "recurformer/cpu/gemm_kernel.hpp"
#include "recurformer/cpu/matrix_view.hpp"
#include "recurformer/tile/simd.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {
namespace detail {

template <int... I>
[[gnu::always_inline]] inline simd::Vec interleave_low(simd::Vec a, simd::Vec b,
                                                       std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (I / 2 + (I % 2) * simd::width)...);
}
template <int... I>
[[gnu::always_inline]] inline simd::Vec interleave_high(simd::Vec a, simd::Vec b,
                                                        std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (I / 2 + simd::width / 2 + (I % 2) * simd::width)...);
}

/// Transposes width x width elements: log2(width) rounds, each of which interleaves the upper and the lower
/// half of the rows.
[[gnu::always_inline]] inline void transpose(simd::Vec (&rows)[simd::width]) {
  using Lanes = std::make_integer_sequence<int, simd::width>;
#pragma GCC unroll 4
  for (int round = 1; round < simd::width; round *= 2) {
    simd::Vec mixed[simd::width];
#pragma GCC unroll 16
    for (int i = 0; i < simd::width / 2; ++i) {
      mixed[2 * i] = interleave_low(rows[i], rows[i + simd::width / 2], Lanes{});
      mixed[2 * i + 1] = interleave_high(rows[i], rows[i + simd::width / 2], Lanes{});
    }
#pragma GCC unroll 16
    for (int i = 0; i < simd::width; ++i) rows[i] = mixed[i];
  }
}

/// out[k * out_stride + j] = in[j * in_stride + k] for j < width, k < depth; columns j >= lanes become zero.
template <class T>
[[gnu::noinline]] void transpose_strip(const T* in, std::int64_t in_stride, int lanes, std::int64_t depth,
                                       float* out, std::int64_t out_stride) {
  std::int64_t k = 0;
  for (; k + simd::width <= depth; k += simd::width) {
    simd::Vec block[simd::width];
    if (lanes == simd::width) {
#pragma GCC unroll 16
      for (int j = 0; j < simd::width; ++j) block[j] = simd::load(in + j * in_stride + k);
    } else {
#pragma GCC unroll 16
      for (int j = 0; j < simd::width; ++j)
        block[j] = j < lanes ? simd::load(in + j * in_stride + k) : simd::zero();
    }
    transpose(block);
#pragma GCC unroll 16
    for (int i = 0; i < simd::width; ++i) simd::store(out + (k + i) * out_stride, block[i]);
  }
  for (; k < depth; ++k)
    for (int j = 0; j < simd::width; ++j)
      out[k * out_stride + j] = j < lanes ? convert<float>(in[j * in_stride + k]) : 0.0f;
}

/// out[k * out_stride + j] = in[k * in_stride + j] for j < lanes, zero for lanes <= j < width.
template <class T>
[[gnu::noinline]] void copy_strip(const T* in, std::int64_t in_stride, int lanes, std::int64_t depth,
                                  float* out, std::int64_t out_stride) {
  if (lanes == simd::width)
    for (std::int64_t k = 0; k < depth; ++k)
      simd::store(out + k * out_stride, simd::load(in + k * in_stride));
  else
    for (std::int64_t k = 0; k < depth; ++k)
      simd::store(out + k * out_stride, simd::load_partial(in + k * in_stride, lanes));
}

/// One panel of B for k in [first_k, first_k + depth): `out` rows hold panel_vectors(first, columns) vectors.
template <class T>
void pack_panel(MatrixView<T> b, std::int64_t first, std::int64_t columns, std::int64_t first_k,
                std::int64_t depth, float* out) {
  const int vectors = panel_vectors(first, columns);
  const std::int64_t out_stride = vectors * simd::width;
  for (int v = 0; v < vectors; ++v) {
    const std::int64_t column = first + v * simd::width;
    const int lanes = static_cast<int>(std::min<std::int64_t>(simd::width, columns - column));
    const T* in = b.data + column * b.column_stride + first_k * b.row_stride;
    float* strip = out + v * simd::width;
    if (b.row_stride == 1) {
      transpose_strip(in, b.column_stride, lanes, depth, strip, out_stride);
    } else if (b.column_stride == 1) {
      copy_strip(in, b.row_stride, lanes, depth, strip, out_stride);
    } else {
      for (std::int64_t k = 0; k < depth; ++k)
        for (int j = 0; j < simd::width; ++j)
          strip[k * out_stride + j] =
              j < lanes ? convert<float>(in[k * b.row_stride + j * b.column_stride]) : 0.0f;
    }
  }
}

/// Rows [first, first + rows) of A, k in [first_k, first_k + depth), as panels of tile_rows x depth.
template <class T>
void pack_rows(MatrixView<T> a, std::int64_t first, std::int64_t rows, std::int64_t first_k,
               std::int64_t depth, float* out) {
  for (std::int64_t r = 0; r < rows; r += tile_rows) {
    const T* in = a.data + (first + r) * a.row_stride + first_k * a.column_stride;
    float* panel = out + r * depth;
    const std::int64_t live = std::min<std::int64_t>(tile_rows, rows - r);
    if (live == tile_rows && a.row_stride == 1) {
      for (std::int64_t k = 0; k < depth; ++k)
#pragma GCC unroll 8
        for (int i = 0; i < tile_rows; ++i)
          panel[k * tile_rows + i] = convert<float>(in[k * a.column_stride + i]);
    } else {
      for (std::int64_t k = 0; k < depth; ++k)
        for (int i = 0; i < tile_rows; ++i)
          panel[k * tile_rows + i] =
              i < live ? convert<float>(in[i * a.row_stride + k * a.column_stride]) : 0.0f;
    }
  }
}

}  // namespace detail
}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_GEMM_PACK_HPP
