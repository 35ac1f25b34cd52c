#ifndef RECURFORMER_CPU_GEMM_KERNEL_HPP
#define RECURFORMER_CPU_GEMM_KERNEL_HPP

// The innermost loops of every matrix product on the CPU: a tile of C, `tile_rows` x `panel_width`, lives in
// registers while one block of the summed dimension passes by.
//
//   C[i][j] = initial[i][j] + sum over k < depth of A[i][k] * B[k][j]
//
//   A  float, row-major (element i, k at a[i * stride + k]) or a packed panel (a[k * tile_rows + i])
//   B  a packed panel: row k holds V * width consecutive elements of float, bf16 or fp16, or 8-bit integers,
//      which have V * width scales for every int8_group rows: the sum is then that over groups of
//      scale * (sum over the group's k of A * B), one multiplication more for a group, not for an element
//   C  float, rows `c_stride` apart
//
// Every element of C is computed by the same chain of fused multiply-adds whatever the number of rows and
// columns of the tile it falls into, and whether B is stored as float or widened while it is read. Everything
// built on these kernels inherits that: a row's result does not depend on the rows computed beside it.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "recurformer/core/config.hpp"
#include "recurformer/core/dtype.hpp"
#include "recurformer/core/precision.hpp"
#include "recurformer/cpu/int8.hpp"
#include "recurformer/cpu/prefetch.hpp"
#include "recurformer/tile/simd.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {

// 24 of 32 registers hold C with AVX-512, 12 of 16 otherwise. 8 x 48 and 6 x 64 measured alike; 8 divides the
// usual numbers of rows and lets one pass over the weights serve eight rows in decoding.
inline constexpr int tile_rows = simd::width == 16 ? 8 : 6;
inline constexpr int tile_vectors = simd::width == 16 ? 3 : 2;
inline constexpr int panel_width = tile_vectors * simd::width;

/// Sums run over blocks of this many k: products inside a block are added up in registers, then blocks are
/// added to C in order. It is part of the definition of the result, not a tuning knob of one call.
inline constexpr std::int64_t depth_block = 256;

namespace detail {

/// Where a tile's result starts from: null for 0, C itself to accumulate, or a bias row with stride 0.
struct TileStart {
  const float* data = nullptr;
  std::int64_t stride = 0;
};

/// Element (i, k) of a row-major operand.
struct RowMajorA {
  const float* data;
  std::int64_t stride;
  [[gnu::always_inline]] float at(int i, std::int64_t k) const { return data[i * stride + k]; }
};

/// Element (i, k) of a panel packed by pack_rows().
struct PanelA {
  const float* data;
  [[gnu::always_inline]] float at(int i, std::int64_t k) const { return data[k * tile_rows + i]; }
};

/// A packed panel of B: element (k, j), in vectors of j. With scales, int8_group rows share one for every
/// column, and blocks of k begin at a multiple of that.
template <class T>
struct PanelB {
  static constexpr bool scaled = has_scales<T>;
  const T* data;
  const float* scales = nullptr;

  /// Vector j of row k, of `vectors`, not scaled yet.
  [[gnu::always_inline]] simd::Vec at(std::int64_t k, int j, int vectors) const {
    return simd::load(data + (k * vectors + j) * simd::width);
  }
  /// Asks for row k of 4 KiB further on. Weights that are not float come from memory, and the arithmetic of
  /// many rows fills the window in which the processor would look ahead by itself. (8 rows: 26 GB/s, not 23.)
  [[gnu::always_inline]] void fetch_ahead(std::int64_t k, int vectors) const {
    constexpr int line = line_bytes / int{sizeof(T)};
    if constexpr (sizeof(T) < sizeof(float))
      for (int j = 0; j < vectors * simd::width; j += line)
        prefetch(data, k * vectors * simd::width + 4096 / int{sizeof(T)} + j);
  }
  /// The scales of vector j of row k.
  [[gnu::always_inline]] simd::Vec scale(std::int64_t k, int j, int vectors) const {
    return simd::load(scales + (k / int8_group * vectors + j) * simd::width);
  }
};
static_assert(depth_block % int8_group == 0);

/// The columns that exist in a tile whose panel was padded to whole vectors; `tile` rows are panel_width
/// long.
[[gnu::noinline]] inline void store_ragged_tile(const float* tile, int rows, std::int64_t columns,
                                                TileStart start, float* c, std::int64_t c_stride) {
  for (int i = 0; i < rows; ++i)
    simd::for_lanes(columns, [&](std::int64_t j, auto n) {
      simd::Vec sum = simd::load_n(tile + i * panel_width + j, n);
      if (start.data != nullptr) sum = simd::load_n(start.data + i * start.stride + j, n) + sum;
      simd::store_n(c + i * c_stride + j, sum, n);
    });
}

/// sums = 0
template <int R, int V>
[[gnu::always_inline]] inline void clear(simd::Vec (&sums)[R][V]) {
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < V; ++j) sums[i][j] = simd::zero();
}

/// Adds the products of k from `first` to `end`.
template <int R, int V, class A, class B>
[[gnu::always_inline]] inline void add_products(std::int64_t first, std::int64_t end, A a, B b,
                                                simd::Vec (&sums)[R][V]) {
  using simd::Vec;
  for (std::int64_t k = first; k < end; ++k) {
    if constexpr (R > tile_rows / 2) b.fetch_ahead(k, V);
    Vec y[V];
#pragma GCC unroll 16
    for (int j = 0; j < V; ++j) y[j] = b.at(k, j, V);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      const Vec x = simd::broadcast(a.at(i, k));
#pragma GCC unroll 16
      for (int j = 0; j < V; ++j) sums[i][j] += x * y[j];
    }
  }
}

/// One tile of R rows and V vectors. `rows` <= R of them and `columns` <= V * width exist in C.
template <int R, int V, class A, class B>
[[gnu::noinline]] void tile_kernel(std::int64_t depth, A a, B b, TileStart start, float* c,
                                   std::int64_t c_stride, int rows, std::int64_t columns) {
  using simd::Vec;
  // C is touched only after the loop; asking for it now hides a miss behind the arithmetic.
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < V; ++j) __builtin_prefetch(c + i * c_stride + j * simd::width, 1);
  Vec acc[R][V];
  clear(acc);
  if constexpr (B::scaled) {
    for (std::int64_t first = 0; first < depth; first += int8_group) {
      Vec group[R][V];
      clear(group);
      add_products(first, std::min(first + int8_group, depth), a, b, group);
#pragma GCC unroll 16
      for (int j = 0; j < V; ++j) {
        const Vec scale = b.scale(first, j, V);
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) acc[i][j] += group[i][j] * scale;
      }
    }
  } else {
    add_products(0, depth, a, b, acc);
  }
  if (rows < R || columns < V * simd::width) {
    alignas(64) float tile[R * panel_width];
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 16
      for (int j = 0; j < V; ++j) simd::store(tile + i * panel_width + j * simd::width, acc[i][j]);
    store_ragged_tile(tile, rows, columns, start, c, c_stride);
    return;
  }
  if (start.data != nullptr) {
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 16
      for (int j = 0; j < V; ++j)
        acc[i][j] = simd::load(start.data + i * start.stride + j * simd::width) + acc[i][j];
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < V; ++j) simd::store(c + i * c_stride + j * simd::width, acc[i][j]);
}

template <class A, class B>
using TileKernel = void (*)(std::int64_t, A, B, TileStart, float*, std::int64_t, int, std::int64_t);

/// Kernels for 1 .. tile_rows rows of one panel with V vectors.
template <int V, class A, class B, int... I>
constexpr std::array<TileKernel<A, B>, sizeof...(I)> tile_kernels(std::integer_sequence<int, I...>) {
  return {&tile_kernel<I + 1, V, A, B>...};
}

/// The kernel for `rows` rows, 1 <= rows <= tile_rows, of a panel with `vectors` vectors. Packed panels of A
/// are padded to tile_rows, so one kernel serves them.
template <class A, class B>
TileKernel<A, B> pick_tile_kernel(int rows, int vectors) {
  using AllRows = std::make_integer_sequence<int, tile_rows>;
  if constexpr (std::is_same_v<A, PanelA>) {
    return vectors == 1   ? &tile_kernel<tile_rows, 1, A, B>
           : vectors == 2 ? &tile_kernel<tile_rows, 2, A, B>
                          : &tile_kernel<tile_rows, tile_vectors, A, B>;
  } else {
    static constexpr std::array<std::array<TileKernel<A, B>, tile_rows>, 3> kernels = {
        tile_kernels<1, A, B>(AllRows{}), tile_kernels<2, A, B>(AllRows{}),
        tile_kernels<tile_vectors, A, B>(AllRows{})};
    return kernels[static_cast<std::size_t>(vectors - 1)][static_cast<std::size_t>(rows - 1)];
  }
}

/// Vectors of the panel that starts at column `first` of a matrix with `columns` columns.
inline int panel_vectors(std::int64_t first, std::int64_t columns) {
  const std::int64_t left = columns - first;
  return left >= panel_width ? tile_vectors : static_cast<int>((left + simd::width - 1) / simd::width);
}

/// Columns of a packed matrix once the last panel is padded to whole vectors.
inline std::int64_t padded_columns(std::int64_t columns) {
  return (columns + simd::width - 1) / simd::width * simd::width;
}

}  // namespace detail
}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_GEMM_KERNEL_HPP
