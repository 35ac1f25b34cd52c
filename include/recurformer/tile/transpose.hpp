#ifndef RECURFORMER_TILE_TRANSPOSE_HPP
#define RECURFORMER_TILE_TRANSPOSE_HPP

// Moves between registers. Transposes: a square of width × width floats, log2(width) rounds of exchanges
// between rows that are 1, 2, 4, … apart. In the round of distance `step`, the off-diagonal step × step
// blocks of every 2·step × 2·step block swap places.

#include <utility>

#include "recurformer/tile/simd.hpp"

namespace rf::simd {
inline namespace RECURFORMER_ISA {

namespace detail {

template <int Step, int... Lane>
RECURFORMER_INLINE Vec exchange_low(Vec a, Vec b, std::integer_sequence<int, Lane...>) {
  return __builtin_shufflevector(a, b, ((Lane & Step) == 0 ? Lane : width + Lane - Step)...);
}
template <int Step, int... Lane>
RECURFORMER_INLINE Vec exchange_high(Vec a, Vec b, std::integer_sequence<int, Lane...>) {
  return __builtin_shufflevector(a, b, ((Lane & Step) == 0 ? Lane + Step : width + Lane)...);
}

template <int First, int... Lane>
RECURFORMER_INLINE Vec interleaved(Vec a, Vec b, std::integer_sequence<int, Lane...>) {
  return __builtin_shufflevector(a, b, (First + Lane / 2 + (Lane % 2) * width)...);
}

template <int Step>
RECURFORMER_INLINE void transpose_round(Vec (&rows)[width]) {
  constexpr auto lanes = std::make_integer_sequence<int, width>{};
#pragma GCC unroll 16
  for (int i = 0; i < width; ++i) {
    if ((i & Step) != 0) continue;
    const Vec low = exchange_low<Step>(rows[i], rows[i + Step], lanes);
    rows[i + Step] = exchange_high<Step>(rows[i], rows[i + Step], lanes);
    rows[i] = low;
  }
}

}  // namespace detail

/// a[0], b[0], a[1], b[1], …: the first vector of these and the second. The way back of first_of_pairs() and
/// second_of_pairs().
RECURFORMER_INLINE void interleave(Vec& a, Vec& b) {
  const Vec low = detail::interleaved<0>(a, b, std::make_integer_sequence<int, width>{});
  b = detail::interleaved<width / 2>(a, b, std::make_integer_sequence<int, width>{});
  a = low;
}

/// rows[i][j] becomes rows[j][i].
RECURFORMER_INLINE void transpose(Vec (&rows)[width]) {
  detail::transpose_round<1>(rows);
  detail::transpose_round<2>(rows);
  if constexpr (width >= 8) detail::transpose_round<4>(rows);
  if constexpr (width >= 16) detail::transpose_round<8>(rows);
}

namespace detail {

/// Halves the vectors: of each pair, lanes without the bit `Step` end up with sums of the first.
template <int Step, int Count>
RECURFORMER_INLINE void reduce_round(Vec (&sums)[width]) {
  constexpr auto lanes = std::make_integer_sequence<int, width>{};
#pragma GCC unroll 8
  for (int i = 0; i < Count / 2; ++i) {
    const Vec a = sums[2 * i], b = sums[2 * i + 1];
    sums[i] = exchange_low<Step>(a, b, lanes) + exchange_high<Step>(a, b, lanes);
  }
}

}  // namespace detail

/// Lane i of the result is the sum of the lanes of sums[i]. Overwrites its argument.
RECURFORMER_INLINE Vec reduce_each(Vec (&sums)[width]) {
  detail::reduce_round<1, width>(sums);
  detail::reduce_round<2, width / 2>(sums);
  if constexpr (width >= 8) detail::reduce_round<4, width / 4>(sums);
  if constexpr (width >= 16) detail::reduce_round<8, width / 8>(sums);
  return sums[0];
}

}  // namespace RECURFORMER_ISA
}  // namespace rf::simd

#endif  // RECURFORMER_TILE_TRANSPOSE_HPP
