#ifndef RECURFORMER_TILE_MICROKERNEL_HPP
#define RECURFORMER_TILE_MICROKERNEL_HPP

// The one register-blocked product of the CPU tiles:
//
//   C (m, n) = start(C) + Σ_k A(m, k) · B(k, n),     n along vector lanes, elements of A broadcast
//
// with all leading dimensions known to the compiler, so that addresses cost nothing. M × Vectors accumulators
// stay in registers over the whole depth.

#include <cstdint>

#include "recurformer/tile/simd.hpp"

namespace rf::tile {
inline namespace RECURFORMER_ISA {

/// Registers that may hold accumulators; the rest holds B and the broadcast.
inline constexpr int vector_registers = simd::width == 16 ? 32 : 16;

/// How A lies in memory.
enum class Order {
  rows,    ///< A(m, k) at a[m · lda + k]
  columns  ///< A(m, k) at a[k · lda + m]
};
/// What C starts from.
enum class Start {
  zero,
  keep,   ///< C += …
  scaled  ///< column n of C is multiplied by scale[n] first
};

/// Rows of C that fill the registers beside `vectors` columns of vectors: a power of two, at most 16.
constexpr int rows_for(int vectors) {
  int rows = 16;
  while (rows * vectors + vectors + 1 > vector_registers) rows /= 2;
  return rows;
}

template <int M, int Vectors, Order order, Start start, int Lda, int Ldb, int Ldc>
RECURFORMER_INLINE void multiply_block(float* c, const float* a, const float* b, int depth,
                                       [[maybe_unused]] const float* scale) {
  using namespace simd;
  Vec sum[M][Vectors];
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      if constexpr (start == Start::zero)
        sum[m][v] = zero();
      else if constexpr (start == Start::keep)
        sum[m][v] = load(c + m * Ldc + v * width);
      else
        sum[m][v] = load(c + m * Ldc + v * width) * load(scale + v * width);
    }
#pragma GCC unroll 1
  for (int k = 0; k < depth; ++k) {
    Vec y[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) y[v] = load(b + k * Ldb + v * width);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      const Vec x = broadcast(order == Order::rows ? a[m * Lda + k] : a[k * Lda + m]);
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sum[m][v] += x * y[v];
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) store(c + m * Ldc + v * width, sum[m][v]);
}

/// C (rows, Vectors · width) in strips of rows_for(Vectors) rows. `rows` is rounded up to whole strips: C and
/// A must have them, what the extra rows hold is of no meaning.
template <int Vectors, Order order, Start start, int Lda, int Ldb, int Ldc>
[[gnu::noinline]] void multiply_panel(float* c, const float* a, const float* b, int rows, int depth,
                                      const float* scale) {
  constexpr int strip = rows_for(Vectors);
  for (int m = 0; m < rows; m += strip)
    multiply_block<strip, Vectors, order, start, Lda, Ldb, Ldc>(
        c + m * Ldc, a + (order == Order::rows ? m * Lda : m), b, depth, scale);
}

/// C (rows, vectors · width), the columns cut into panels of three vectors (rows_for(3) · 3 accumulators use
/// the registers best), and two or one behind them.
template <Order order, Start start, int Lda, int Ldb, int Ldc>
void multiply_panels(float* c, const float* a, const float* b, int rows, int vectors, int depth,
                     const float* scale = nullptr) {
  int panel = 0;
  for (int v = 0; v < vectors; v += panel) {
    const int left = vectors - v, column = v * simd::width;
    const float* panel_scale = scale ? scale + column : nullptr;
    panel = left == 4 ? 2 : left < 3 ? left : 3;  // 4 = 2 + 2: a panel of one vector is the slowest
    if (panel == 3)
      multiply_panel<3, order, start, Lda, Ldb, Ldc>(c + column, a, b + column, rows, depth, panel_scale);
    else if (panel == 2)
      multiply_panel<2, order, start, Lda, Ldb, Ldc>(c + column, a, b + column, rows, depth, panel_scale);
    else
      multiply_panel<1, order, start, Lda, Ldb, Ldc>(c + column, a, b + column, rows, depth, panel_scale);
  }
}

}  // namespace RECURFORMER_ISA
}  // namespace rf::tile

#endif  // RECURFORMER_TILE_MICROKERNEL_HPP
