#ifndef RECURFORMER_CPU_CHUNK_PRODUCT_HPP
#define RECURFORMER_CPU_CHUNK_PRODUCT_HPP

// Products of small matrices that are already in the cache, for kernels that work through a sequence in
// chunks. A tile of the result, R rows by V vectors, lives in registers; the caller's body fills it from one
// or several products and says what becomes of it:
//
//   for_tiles<N>(rows, [&]<int R, int V>(int row, int column) {
//     Vec tile[R][V] = {};
//     add_product<K, N>(tile, a + row * K, b + column, K);        tile += A B
//     for_vectors(tile, [&](int i, int j, Vec x) { … });           of C[row + i][column + j]: scale, mask,
//     store
//   });
//
// Strides are template parameters: with them the compiler addresses all rows of a tile from one register.

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "recurformer/core/config.hpp"
#include "recurformer/tile/simd.hpp"
#include "recurformer/tile/transpose.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {

/// Rows of every operand are padded with zeros to a multiple of this.
inline constexpr int chunk_row_block = 8;

namespace detail {

/// Rows of a tile. Tiles are tall and two vectors wide (three or one where the result's width is odd): 8 x 2
/// reads fewer elements of A and B for as many products than 4 x 4, which measured a tenth slower.
inline constexpr int chunk_tile_rows = simd::width == 16 ? 8 : 4;
inline constexpr int chunk_tile_vectors = 2;

enum class ChunkLayout {
  rows,    ///< element (i, k) at a[i · stride + k]
  columns  ///< element (i, k) at a[k · stride + i]: the transposed matrix
};

}  // namespace detail

/// tile[i][·] += Σ_{k < depth} A(i, k) B(k, ·), the sum in ascending k. B's rows are BStride floats apart.
template <int AStride, int BStride, detail::ChunkLayout Layout = detail::ChunkLayout::rows, int R, int V>
RECURFORMER_INLINE void add_product(simd::Vec (&tile)[R][V], const float* a, const float* b,
                                    std::int64_t depth) {
  simd::Vec sum[R][V];  // a copy, so that the compiler keeps it in registers
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < V; ++j) sum[i][j] = tile[i][j];
  for (std::int64_t k = 0; k < depth; ++k) {
    simd::Vec y[V];
#pragma GCC unroll 16
    for (int j = 0; j < V; ++j) y[j] = simd::load(b + j * simd::width);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      const simd::Vec x = simd::broadcast(a[Layout == detail::ChunkLayout::rows ? i * AStride : i]);
#pragma GCC unroll 16
      for (int j = 0; j < V; ++j) sum[i][j] += x * y[j];
    }
    a += Layout == detail::ChunkLayout::rows ? 1 : AStride;
    b += BStride;
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < V; ++j) tile[i][j] = sum[i][j];
}
template <int AStride, int BStride, int R, int V>
RECURFORMER_INLINE void add_transposed_product(simd::Vec (&tile)[R][V], const float* a, const float* b,
                                               std::int64_t depth) {
  add_product<AStride, BStride, detail::ChunkLayout::columns>(tile, a, b, depth);
}

/// Calls f(i, j, x) for every vector x of the tile; it starts in the tile's row i and column j.
template <int R, int V, class F>
RECURFORMER_INLINE void for_vectors(simd::Vec (&tile)[R][V], F&& f) {
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < V; ++j) f(i, j * simd::width, tile[i][j]);
}

/// Calls body.operator()<R, V>(row, column) for tiles that cover (rows, N); rows is a multiple of
/// chunk_row_block, N of the vector width. Columns vary slowest: their part of B stays in the first cache.
template <int N, class Body>
RECURFORMER_INLINE void for_tiles(int rows, Body&& body) {
  constexpr int R = detail::chunk_tile_rows, V = detail::chunk_tile_vectors;
  constexpr int vectors = N / simd::width, odd = vectors % V == 0 ? 0 : vectors == 1 ? 1 : V + 1;
  if constexpr (odd > 0)
    for (int row = 0; row < rows; row += R) body.template operator()<R, odd>(row, 0);
  if constexpr (odd < vectors)
    for (int column = odd * simd::width; column < N; column += V * simd::width)
      for (int row = 0; row < rows; row += R) body.template operator()<R, V>(row, column);
}

/// The same for the tiles of a square result that hold an element with column <= row.
template <class Body>
RECURFORMER_INLINE void for_lower_tiles(int rows, Body&& body) {
  constexpr int R = detail::chunk_tile_rows, V = detail::chunk_tile_vectors;
  for (int row = 0; row < rows; row += R) {
    int column = 0;
    for (; column + simd::width < row + R; column += V * simd::width)
      body.template operator()<R, V>(row, column);
    if (column < row + R) body.template operator()<R, 1>(row, column);
  }
}

/// sums[i] = the sum of the lanes of f(i) for i < rows, and 0 up to the next multiple of the vector width,
/// for which there is room. A vector of sums at a time costs a fraction of as many reductions.
template <class F>
RECURFORMER_INLINE void sum_rows(int rows, float* sums, F&& f) {
  for (int row = 0; row < rows; row += simd::width) {
    simd::Vec parts[simd::width];
    for (int i = 0; i < simd::width; ++i) parts[i] = row + i < rows ? f(row + i) : simd::zero();
    simd::store(sums + row, simd::reduce_each(parts));
  }
}

/// to[c][r] = from[r][c] for r < rows, c < columns; columns is a multiple of the vector width. Columns of
/// `to` from `rows` up to the next multiple of chunk_row_block and of the vector width become 0.
inline void chunk_transpose(const float* from, std::int64_t from_stride, int rows, int columns, float* to,
                            std::int64_t to_stride) {
  const int padded = (rows + chunk_row_block - 1) / chunk_row_block * chunk_row_block;
  for (int r = 0; r < padded; r += simd::width)
    for (int c = 0; c < columns; c += simd::width) {
      simd::Vec block[simd::width];
#pragma GCC unroll 16
      for (int i = 0; i < simd::width; ++i)
        block[i] = r + i < rows ? simd::load(from + (r + i) * from_stride + c) : simd::zero();
      simd::transpose(block);
#pragma GCC unroll 16
      for (int i = 0; i < simd::width; ++i) simd::store(to + (c + i) * to_stride + r, block[i]);
    }
}

}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_CHUNK_PRODUCT_HPP
