#ifndef RECURFORMER_TILE_BYTE_QUADS_HPP
#define RECURFORMER_TILE_BYTE_QUADS_HPP

// Sums of products of 8-bit integers by the instructions that multiply 16-bit integers and add them in pairs:
// two products a lane where floats make one, and nothing is converted to float.
//
//   quad    four bytes in a 32-bit lane
//   pairs   what a quad is multiplied as: its bytes 0 and 2 as 16-bit integers in a lane (even), and its
//   bytes
//           1 and 3 (odd), which takes three shifts
//
// The other factor has 16 bits. A lane's sum is exact while it stays below 2^31.

#include <cstdint>
#include <utility>

#include "recurformer/tile/simd.hpp"

namespace rf::simd {
inline namespace RECURFORMER_ISA {

using ByteQuads = std::int8_t __attribute__((vector_size(width * 4)));
using ShortPairs = std::int16_t __attribute__((vector_size(width * 4)));

/// The largest factor.
inline constexpr float largest_short = 32767.0f;

struct QuadPairs {
  IntVec even, odd;
};

/// The bytes of quads as pairs.
RECURFORMER_INLINE QuadPairs pairs_of(IntVec quads) {
  const auto shorts = detail::bits_as<ShortPairs>(quads);
  return {detail::bits_as<IntVec>((shorts << 8) >> 8), detail::bits_as<IntVec>(shorts >> 8)};
}

namespace detail {
template <int... Lane>
RECURFORMER_INLINE IntVec two_lanes_on(IntVec v, std::integer_sequence<int, Lane...>) {
  return __builtin_shufflevector(v, v, (Lane ^ 2)...);
}
}  // namespace detail

/// Factors for quads: numbers between -largest_short and largest_short, rounded to nearest. Lane 4·i holds
/// numbers 4·i and 4·i + 2 (even), lane 4·i + 1 numbers 4·i + 1 and 4·i + 3 (odd); the others are not used.
RECURFORMER_INLINE IntVec factors_of_quads(Vec numbers) {
  // 1.5 · 2^23 puts the integer, in two's complement, into the low bits.
  const auto integers = detail::bits_as<IntVec>(numbers + 12582912.0f);
  return (integers & 0xffff) | detail::two_lanes_on(integers, std::make_integer_sequence<int, width>{}) << 16;
}

/// sum + a[0] · b[0] + a[1] · b[1] of the pairs in every lane.
RECURFORMER_INLINE IntVec add_pair_products(IntVec sum, IntVec a, IntVec b) {
  using detail::bits_as;
#if RECURFORMER_VECTOR_WIDTH == 16 && defined(__AVX512VNNI__)
  return bits_as<IntVec>(
      _mm512_dpwssd_epi32(bits_as<__m512i>(sum), bits_as<__m512i>(a), bits_as<__m512i>(b)));
#elif RECURFORMER_VECTOR_WIDTH == 16
  return sum + bits_as<IntVec>(_mm512_madd_epi16(bits_as<__m512i>(a), bits_as<__m512i>(b)));
#elif RECURFORMER_VECTOR_WIDTH == 8
  return sum + bits_as<IntVec>(_mm256_madd_epi16(bits_as<__m256i>(a), bits_as<__m256i>(b)));
#elif defined(__SSE2__)
  return sum + bits_as<IntVec>(_mm_madd_epi16(bits_as<__m128i>(a), bits_as<__m128i>(b)));
#else
  return sum + ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
#endif
}

namespace detail {
/// a[i], b[i], a[i + 1], b[i + 1], … within every 16 bytes, i from First on: the instructions that
/// interleave.
template <int First, class V, int... Lane>
RECURFORMER_INLINE V interleave_within(V a, V b, std::integer_sequence<int, Lane...>) {
  constexpr int lanes = sizeof...(Lane), block = 16 * lanes / static_cast<int>(sizeof(V));
  return __builtin_shufflevector(
      a, b, (Lane / block * block + First + Lane % block / 2 + (Lane % 2 == 0 ? 0 : lanes))...);
}
}  // namespace detail

/// Four rows of 4 · width bytes become quads of their columns, row 0 first. In the order of the instructions:
/// lane 4·i + j of vector v is column 16·i + 4·v + j.
RECURFORMER_INLINE void quads_of_columns(const ByteQuads (&rows)[4], IntVec (&quads)[4]) {
  using namespace detail;
  constexpr auto bytes = std::make_integer_sequence<int, 4 * width>{};
  constexpr auto shorts = std::make_integer_sequence<int, 2 * width>{};
  const auto low_a = bits_as<ShortPairs>(interleave_within<0>(rows[0], rows[1], bytes)),
             low_b = bits_as<ShortPairs>(interleave_within<0>(rows[2], rows[3], bytes)),
             high_a = bits_as<ShortPairs>(interleave_within<8>(rows[0], rows[1], bytes)),
             high_b = bits_as<ShortPairs>(interleave_within<8>(rows[2], rows[3], bytes));
  quads[0] = bits_as<IntVec>(interleave_within<0>(low_a, low_b, shorts));
  quads[1] = bits_as<IntVec>(interleave_within<4>(low_a, low_b, shorts));
  quads[2] = bits_as<IntVec>(interleave_within<0>(high_a, high_b, shorts));
  quads[3] = bits_as<IntVec>(interleave_within<4>(high_a, high_b, shorts));
}
/// The column of lane 0 of every four lanes: of lane 4·i of vector v.
constexpr int first_column_of_quads(int v, int i) { return 16 * i + 4 * v; }

}  // namespace RECURFORMER_ISA
}  // namespace rf::simd

#endif  // RECURFORMER_TILE_BYTE_QUADS_HPP
