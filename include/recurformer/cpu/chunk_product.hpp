#ifndef RECURFORMER_CPU_CHUNK_PRODUCT_HPP
#define RECURFORMER_CPU_CHUNK_PRODUCT_HPP

// Products of small matrices that are already in the cache, for kernels that work through a sequence in
// chunks. A tile of the result, R rows by V vectors, lives in registers; the caller's body fills it from one
// or several products and says what becomes of it:
//
//   for_tiles<N>(rows, [&]<int R, int V>(int row, int column) {
//     Vec tile[R][V] = {};
//     add_product<K>(tile, a + row * K, b + column, K);          tile += A B
//     …                                                           scale, mask, store
//   });
//
// Strides are template parameters: with them the compiler addresses all rows of a tile from one register.

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "recurformer/core/config.hpp"
#include "recurformer/cpu/gemm_pack.hpp"
#include "recurformer/tile/simd.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {

/// Rows of every operand are padded with zeros to a multiple of this.
inline constexpr int chunk_row_block = 8;

namespace detail {

/// Vectors of a tile's row, for results with `vectors` vectors a row: the largest divisor whose tile, its row
/// of B and one element of A fit into the registers (32 with AVX-512, otherwise 16).
constexpr int chunk_tile_vectors(int vectors) {
  const int most = simd::width == 16 ? 5 : 2;
  for (int v = most; v > 1; --v)
    if (vectors % v == 0) return v;
  return 1;
}
/// Rows of a tile with V vectors a row.
constexpr int chunk_tile_rows(int vectors) { return simd::width == 16 && vectors <= 3 ? 8 : 4; }

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

/// Calls body.operator()<R, V>(row, column) for tiles that cover (rows, N); rows is a multiple of
/// chunk_row_block, N of the vector width. Columns vary slowest: their part of B stays in the first cache.
template <int N, class Body>
RECURFORMER_INLINE void for_tiles(int rows, Body&& body) {
  constexpr int V = detail::chunk_tile_vectors(N / simd::width), R = detail::chunk_tile_rows(V);
  for (int column = 0; column < N; column += V * simd::width)
    for (int row = 0; row < rows; row += R) body.template operator()<R, V>(row, column);
}

/// The same for the tiles of a square result that hold an element with column <= row.
template <class Body>
RECURFORMER_INLINE void for_lower_tiles(int rows, Body&& body) {
  constexpr int most = simd::width == 16 ? 4 : 2;
  for (int block = 0; block < rows; block += chunk_row_block) {
    const int vectors = (block + chunk_row_block + simd::width - 1) / simd::width;
    const auto tiles = [&]<int V>(std::integral_constant<int, V>, int column) {
      constexpr int R = detail::chunk_tile_rows(V);
      for (int row = block; row < block + chunk_row_block; row += R)
        body.template operator()<R, V>(row, column * simd::width);
    };
    int column = 0;
    for (; vectors - column >= most; column += most) tiles(std::integral_constant<int, most>{}, column);
    if constexpr (most > 2) {
      if (vectors - column == 3) tiles(std::integral_constant<int, 3>{}, column);
      if (vectors - column == 2) tiles(std::integral_constant<int, 2>{}, column);
    }
    if (vectors - column == 1) tiles(std::integral_constant<int, 1>{}, column);
  }
}

/// to[c][r] = from[r][c] for r < rows, c < columns; columns is a multiple of the vector width. Columns of
/// `to` from `rows` up to the next multiple of the vector width become 0.
inline void chunk_transpose(const float* from, std::int64_t from_stride, int rows, int columns, float* to,
                            std::int64_t to_stride) {
  for (int r = 0; r < rows; r += simd::width)
    detail::transpose_strip(from + r * from_stride, from_stride, std::min(simd::width, rows - r), columns,
                            to + r, to_stride);
}

}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_CHUNK_PRODUCT_HPP
