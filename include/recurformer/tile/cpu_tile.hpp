#ifndef RECURFORMER_TILE_CPU_TILE_HPP
#define RECURFORMER_TILE_CPU_TILE_HPP

// The CPU's tiles and whole-tile verbs, the vocabulary of attention kernels. A tile program thinks of
// matrices with one query per row. Here *rows lie in vector lanes* (the array is column-major): maxima and
// sums along a row are element-wise operations on whole columns, no horizontal reduction, no transposed
// copy of the keys, and K and V are read as they are stored:
//
//   S (rows, keys)  =  Q (rows, d) Kᵀ          column j of S  = Σ_d K(j, d) · column d of Q
//   O (rows, d)    +=  P (rows, keys) V        column d of O += Σ_j V(j, d) · column j of P
//
//   RowValues<Rows>           one float per row
//   LaneTile<Rows, Columns>   a matrix with its rows in lanes
//   Operand<Columns>          a matrix read row by row: keys, values, or queries in backward
//
// `Rows` is the capacity; a tile works on its `vectors` leading vectors of rows only, so that a tile of few
// queries costs no more than it must. Columns are used up to a count given at run time.

#include <cstdint>
#include <limits>

#include "recurformer/tile/microkernel.hpp"
#include "recurformer/tile/simd.hpp"

namespace rf::tile {
inline namespace RECURFORMER_ISA {

/// Vectors that hold `rows` rows.
constexpr int vectors_for(std::int64_t rows) {
  return static_cast<int>((rows + simd::width - 1) / simd::width);
}

/// One float per row.
template <int Rows>
struct RowValues {
  static_assert(Rows % simd::width == 0);
  explicit RowValues(int active, float value = 0.0f) : vectors(active) {
    for (int v = 0; v < vectors; ++v) set(v, simd::broadcast(value));
  }
  simd::Vec operator[](int v) const { return simd::load(values + v * simd::width); }
  void set(int v, simd::Vec x) { simd::store(values + v * simd::width, x); }

  int vectors;
  alignas(64) float values[Rows];
};

/// A matrix whose rows lie in lanes: element (r, c) at values[c][r].
template <int Rows, int Columns>
struct LaneTile {
  static_assert(Rows % simd::width == 0);
  explicit LaneTile(int active) : vectors(active) {}
  float* column(int c) { return values[c]; }
  const float* column(int c) const { return values[c]; }
  void fill(float value) {
    for (int c = 0; c < Columns; ++c)
      for (int v = 0; v < vectors; ++v) simd::store(values[c] + v * simd::width, simd::broadcast(value));
  }

  int vectors;
  alignas(64) float values[Columns][Rows];
};

/// `rows` rows of Columns floats, one behind the other. Memory behind them is readable up to a multiple of
/// 16 rows; what it holds does not matter.
template <int Columns>
struct Operand {
  const float* data = nullptr;
  int rows = 0;
};

/// s = a bᵀ, the columns of s being the rows of b.
template <int Rows, int Columns, int Depth>
void multiply_abt(LaneTile<Rows, Columns>& s, const LaneTile<Rows, Depth>& a, const Operand<Depth>& b) {
  multiply_panels<Order::rows, Start::zero, Depth, Rows, Rows>(s.values[0], b.data, a.values[0], b.rows,
                                                               a.vectors, Depth);
}

/// o = diag(scale) o + p b.
template <int Rows, int Columns, int Depth>
void scale_multiply_ab(LaneTile<Rows, Columns>& o, const RowValues<Rows>& scale,
                       const LaneTile<Rows, Depth>& p, const Operand<Columns>& b) {
  multiply_panels<Order::columns, Start::scaled, Columns, Rows, Rows>(
      o.values[0], b.data, p.values[0], Columns, o.vectors, b.rows, scale.values);
}

/// o += p b.
template <int Rows, int Columns, int Depth>
void multiply_ab(LaneTile<Rows, Columns>& o, const LaneTile<Rows, Depth>& p, const Operand<Columns>& b) {
  multiply_panels<Order::columns, Start::keep, Columns, Rows, Rows>(o.values[0], b.data, p.values[0], Columns,
                                                                    o.vectors, b.rows);
}

/// sum (columns of p, Width) += pᵀ b over the rows that p and b share. `columns` is rounded up to a multiple
/// of 16 rows of sum.
template <int Rows, int Columns, int Width>
void multiply_atb(float* sum, const LaneTile<Rows, Columns>& p, int columns, const Operand<Width>& b) {
  multiply_panels<Order::rows, Start::keep, Rows, Width, Width>(sum, p.values[0], b.data, columns,
                                                                Width / simd::width, b.rows);
}

/// The larger of m and the row's maximum over the first `columns` columns. NaN scores are passed over; they
/// come back through exponentiate().
template <int Rows, int Columns>
RowValues<Rows> row_max(const RowValues<Rows>& m, const LaneTile<Rows, Columns>& s, int columns) {
  RowValues<Rows> result = m;
  for (int v = 0; v < m.vectors; ++v) {
    simd::Vec largest = m[v];
    for (int c = 0; c < columns; ++c) largest = simd::max(simd::load(s.column(c) + v * simd::width), largest);
    result.set(v, largest);
  }
  return result;
}

/// f of the vectors of two columns of row values.
template <int Rows, class F>
RowValues<Rows> zip(const RowValues<Rows>& a, const RowValues<Rows>& b, F f) {
  RowValues<Rows> result = a;
  for (int v = 0; v < a.vectors; ++v) result.set(v, f(a[v], b[v]));
  return result;
}

/// 2^x for x <= 0: the polynomial of simd::exp2 without its guards for large x. Exactly 0 from -127 down,
/// -infinity included; NaN stays NaN. Relative error <= 2.5e-7 for x >= -126.
RECURFORMER_INLINE simd::Vec exp2_nonpositive(simd::Vec x) {
  using namespace simd;
  // 1.5·2^23 rounds to an integer, + 127 leaves the exponent field of 2^n in the low bits
  constexpr float magic = 12582912.0f + 127.0f;
  const Vec clamped = max(broadcast(-127.0f), x);  // in this order NaN comes through
  const Vec shifted = clamped + magic;
  const Vec f = clamped - (shifted - magic);
  Vec y = broadcast(1.3276471979e-3f);
  y = y * f + 9.6755413342e-3f;
  y = y * f + 5.5507132735e-2f;
  y = y * f + 2.4022119724e-1f;
  y = y * f + 6.9314696706e-1f;
  y = y * f + 1.0000000717f;
  return y * simd::detail::bits_as<Vec>(simd::detail::bits_as<UintVec>(shifted) << 23);
}

/// s = 2^(s - offset) row by row over the first `columns` columns; adds the row sums to `sum`.
template <int Rows, int Columns>
void exponentiate(LaneTile<Rows, Columns>& s, const RowValues<Rows>& offset, RowValues<Rows>& sum,
                  int columns) {
  for (int v = 0; v < s.vectors; ++v) {
    const simd::Vec subtract = offset[v];
    simd::Vec total = sum[v];
    for (int c = 0; c < columns; ++c) {
      float* at = s.column(c) + v * simd::width;
      const simd::Vec p = exp2_nonpositive(simd::load(at) - subtract);
      simd::store(at, p);
      total += p;
    }
    sum.set(v, total);
  }
}

/// From scores s (units of log 2, masked ones -inf) and the gradients of the weights: weights = 2^(s - lse),
/// d = weights ∘ (d - delta). Columns from `columns` up to a multiple of 16 become zero in both, so that
/// multiply_atb() may add whole strips.
template <int Rows, int Columns>
void differentiate_softmax(LaneTile<Rows, Columns>& weights, LaneTile<Rows, Columns>& d,
                           const RowValues<Rows>& log2_sum_exp, const RowValues<Rows>& delta, int columns) {
  for (int c = 0; c < columns; ++c)
    for (int v = 0; v < weights.vectors; ++v) {
      float* weight_at = weights.column(c) + v * simd::width;
      float* d_at = d.column(c) + v * simd::width;
      const simd::Vec weight = exp2_nonpositive(simd::load(weight_at) - log2_sum_exp[v]);
      simd::store(weight_at, weight);
      simd::store(d_at, weight * (simd::load(d_at) - delta[v]));
    }
  for (int c = columns; c % 16 != 0; ++c)
    for (int v = 0; v < weights.vectors; ++v) {
      simd::store(weights.column(c) + v * simd::width, simd::zero());
      simd::store(d.column(c) + v * simd::width, simd::zero());
    }
}

}  // namespace RECURFORMER_ISA
}  // namespace rf::tile

#endif  // RECURFORMER_TILE_CPU_TILE_HPP
