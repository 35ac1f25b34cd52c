#ifndef RECURFORMER_TILE_SIMD_HPP
#define RECURFORMER_TILE_SIMD_HPP

// CPU vectors: `simd::Vec` is one register of floats in the compiler's vector extension (GCC, Clang, also
// under nvcc), `simd::width` floats wide: 16 with AVX-512, 8 with AVX2 + FMA, otherwise 4. Loads widen bf16,
// fp16 and 8-bit integers to float, stores round them back, so that a kernel is written once for all storage
// types.
//
// The transcendental functions are branch-free; their error bounds against the exact value are tested.

#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "recurformer/core/config.hpp"
#if defined(__SSE2__)
#include <immintrin.h>
#endif
#include "recurformer/core/dtype.hpp"

namespace rf::simd {
inline namespace RECURFORMER_ISA {

#if defined(__ELF__) && !defined(__CUDA_ARCH__)
namespace detail {
/// Files compiled for different sets would silently share what has no set in its name, such as a layer:
/// weights packed for one set and multiplied by another, or AVX-512 on a machine without. The linker refuses
/// them for a symbol in this function, which nobody calls: it keeps one function of a name, and so one per
/// set, but takes no symbol twice.
[[gnu::used, gnu::noinline]] inline void refuse_other_sets() {
  asm(".globl recurformer_kernels_of_two_instruction_sets\n"
      ".hidden recurformer_kernels_of_two_instruction_sets\n"
      "recurformer_kernels_of_two_instruction_sets:");
}
}  // namespace detail
#endif

inline constexpr int width = RECURFORMER_VECTOR_WIDTH;

using Vec = float __attribute__((vector_size(width * 4)));
using IntVec = std::int32_t __attribute__((vector_size(width * 4)));
using UintVec = std::uint32_t __attribute__((vector_size(width * 4)));
using HalfVec = std::uint16_t __attribute__((vector_size(width * 2)));
using ByteVec = std::int8_t __attribute__((vector_size(width)));

#define RECURFORMER_INLINE [[gnu::always_inline]] inline

// x - 0 rather than x + 0, which is not x for -0 and would cost an addition.
RECURFORMER_INLINE Vec broadcast(float x) { return x - Vec{}; }
RECURFORMER_INLINE Vec zero() { return Vec{}; }

namespace detail {
template <class To, class From>
RECURFORMER_INLINE To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
/// Zero extension of 16-bit lanes: with AVX-512 one instruction, of which GCC makes six.
RECURFORMER_INLINE UintVec widen(HalfVec h) {
#if RECURFORMER_VECTOR_WIDTH == 16
  return bits_as<UintVec>(_mm512_maskz_cvtepu16_epi32(0xffff, bits_as<__m256i>(h)));
#else
  return __builtin_convertvector(h, UintVec);
#endif
}
/// Sign extension of 8-bit lanes, for the same reason.
RECURFORMER_INLINE IntVec widen(ByteVec b) {
#if RECURFORMER_VECTOR_WIDTH == 16
  return bits_as<IntVec>(_mm512_maskz_cvtepi8_epi32(0xffff, bits_as<__m128i>(b)));
#elif RECURFORMER_VECTOR_WIDTH == 8
  return bits_as<IntVec>(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(bits_as<long long>(b))));
#else
  return __builtin_convertvector(b, IntVec);
#endif
}
RECURFORMER_INLINE HalfVec narrow(UintVec u) { return __builtin_convertvector(u, HalfVec); }
RECURFORMER_INLINE UintVec uint_broadcast(std::uint32_t x) { return UintVec{} + x; }
RECURFORMER_INLINE UintVec uint_select(IntVec mask, UintVec a, UintVec b) {
  const auto m = bits_as<UintVec>(mask);
  return (a & m) | (b & ~m);
}
}  // namespace detail

/// mask ? a : b, lane by lane; a mask lane is all ones or all zeros, as comparisons make it.
RECURFORMER_INLINE Vec select(IntVec mask, Vec a, Vec b) { return mask ? a : b; }
/// a > b ? a : b and a < b ? a : b, so that the result is b where either is NaN: one instruction, which GCC
/// does not make of the conditional.
RECURFORMER_INLINE Vec max(Vec a, Vec b) {
#if RECURFORMER_VECTOR_WIDTH == 16
  return detail::bits_as<Vec>(
      _mm512_maskz_max_ps(0xffff, detail::bits_as<__m512>(a), detail::bits_as<__m512>(b)));
#elif RECURFORMER_VECTOR_WIDTH == 8
  return detail::bits_as<Vec>(_mm256_max_ps(detail::bits_as<__m256>(a), detail::bits_as<__m256>(b)));
#elif defined(__SSE2__)
  return detail::bits_as<Vec>(_mm_max_ps(detail::bits_as<__m128>(a), detail::bits_as<__m128>(b)));
#else
  return a > b ? a : b;
#endif
}
RECURFORMER_INLINE Vec min(Vec a, Vec b) {
#if RECURFORMER_VECTOR_WIDTH == 16
  return detail::bits_as<Vec>(
      _mm512_maskz_min_ps(0xffff, detail::bits_as<__m512>(a), detail::bits_as<__m512>(b)));
#elif RECURFORMER_VECTOR_WIDTH == 8
  return detail::bits_as<Vec>(_mm256_min_ps(detail::bits_as<__m256>(a), detail::bits_as<__m256>(b)));
#elif defined(__SSE2__)
  return detail::bits_as<Vec>(_mm_min_ps(detail::bits_as<__m128>(a), detail::bits_as<__m128>(b)));
#else
  return a < b ? a : b;
#endif
}
RECURFORMER_INLINE Vec abs(Vec a) {
  return detail::bits_as<Vec>(detail::bits_as<UintVec>(a) & detail::uint_broadcast(0x7fffffffu));
}

/// Square root, correctly rounded. The vector extension has none, hence the instruction's name per set.
RECURFORMER_INLINE Vec sqrt(Vec a) {
#if RECURFORMER_VECTOR_WIDTH == 16
  return detail::bits_as<Vec>(_mm512_maskz_sqrt_ps(0xffff, detail::bits_as<__m512>(a)));
#elif RECURFORMER_VECTOR_WIDTH == 8
  return detail::bits_as<Vec>(_mm256_sqrt_ps(detail::bits_as<__m256>(a)));
#elif defined(__SSE2__)
  return detail::bits_as<Vec>(_mm_sqrt_ps(detail::bits_as<__m128>(a)));
#else
  for (int i = 0; i < width; ++i) a[i] = __builtin_sqrtf(a[i]);
  return a;
#endif
}

/// 0, 1, 2, … : lane numbers.
RECURFORMER_INLINE IntVec iota() {
  IntVec out;
  for (int i = 0; i < width; ++i) out[i] = i;
  return out;
}

/// Reads `width` consecutive elements, no alignment required.
RECURFORMER_INLINE Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
RECURFORMER_INLINE Vec load(const bf16* p) {
  HalfVec h;
  std::memcpy(&h, p, sizeof h);
  return detail::bits_as<Vec>(detail::widen(h) << 16);
}
/// Of the two bf16 in every 32 bits: the one that comes first in memory, and the one behind it.
RECURFORMER_INLINE Vec first_of_pairs(Vec pairs) {
  return detail::bits_as<Vec>(detail::bits_as<UintVec>(pairs) << 16);
}
RECURFORMER_INLINE Vec second_of_pairs(Vec pairs) {
  return detail::bits_as<Vec>(detail::bits_as<UintVec>(pairs) & detail::uint_broadcast(0xffff0000u));
}
RECURFORMER_INLINE Vec load(const fp16* p) {
  HalfVec h;
  std::memcpy(&h, p, sizeof h);
#if RECURFORMER_VECTOR_WIDTH == 16
  return detail::bits_as<Vec>(_mm512_maskz_cvtph_ps(0xffff, detail::bits_as<__m256i>(h)));
#else
  const UintVec u = detail::widen(h);
  const UintVec sign = (u & detail::uint_broadcast(0x8000u)) << 16;
  const UintVec magnitude = (u & detail::uint_broadcast(0x7fffu)) << 13;
  const Vec finite = detail::bits_as<Vec>(magnitude) * 0x1p112f;
  const UintVec special = magnitude | detail::uint_broadcast(0x7f800000u);
  const IntVec is_special = magnitude >= detail::uint_broadcast(0x7c00u << 13);
  return detail::bits_as<Vec>(detail::uint_select(is_special, special, detail::bits_as<UintVec>(finite)) |
                              sign);
#endif
}
RECURFORMER_INLINE Vec load(const std::int8_t* p) {
  ByteVec b;
  std::memcpy(&b, p, sizeof b);
  return __builtin_convertvector(detail::widen(b), Vec);
}

/// Writes `width` consecutive elements, rounding to nearest even where T is narrower than float. Integers are
/// not saturated: numbers must be between -128 and 127; a NaN is written as any integer.
RECURFORMER_INLINE void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }
RECURFORMER_INLINE void store(bf16* p, Vec v) {
  const auto u = detail::bits_as<UintVec>(v);
  const UintVec rounded =
      (u + detail::uint_broadcast(0x7fffu) + ((u >> 16) & detail::uint_broadcast(1u))) >> 16;
  const UintVec quiet = (u >> 16) | detail::uint_broadcast(0x40u);
  const HalfVec h = detail::narrow(detail::uint_select(v != v, quiet, rounded));
  std::memcpy(static_cast<void*>(p), &h, sizeof h);
}
RECURFORMER_INLINE void store(fp16* p, Vec v) {
  using detail::uint_broadcast;
  const auto u = detail::bits_as<UintVec>(v);
  const UintVec sign = (u >> 16) & uint_broadcast(0x8000u);
  const UintVec magnitude = u & uint_broadcast(0x7fffffffu);
  const UintVec normal = (magnitude - uint_broadcast(0x38000000u) + uint_broadcast(0xfffu) +
                          ((magnitude >> 13) & uint_broadcast(1u))) >>
                         13;
  const UintVec tiny =
      detail::bits_as<UintVec>(detail::bits_as<Vec>(magnitude) + 0.5f) - uint_broadcast(0x3f000000u);
  const UintVec nan = uint_broadcast(0x7e00u) | ((magnitude >> 13) & uint_broadcast(0x3ffu));
  UintVec out = detail::uint_select(magnitude < uint_broadcast(0x38800000u), tiny, normal);
  out = detail::uint_select(magnitude >= uint_broadcast(0x477ff000u), uint_broadcast(0x7c00u), out);
  out = detail::uint_select(v != v, nan, out);
  const HalfVec h = detail::narrow(out | sign);
  std::memcpy(static_cast<void*>(p), &h, sizeof h);
}
RECURFORMER_INLINE void store(std::int8_t* p, Vec v) {
  // 1.5 · 2^23 puts the integer, in two's complement, into the low bits.
  const ByteVec b = __builtin_convertvector(detail::bits_as<UintVec>(v + 12582912.0f), ByteVec);
  std::memcpy(p, &b, sizeof b);
}

/// Reads the first n < width elements and fills the other lanes with `fill`; touches no memory beyond them.
template <class T>
RECURFORMER_INLINE Vec load_partial(const T* p, int n, float fill = 0.0f) {
  Vec v = broadcast(fill);
  for (int i = 0; i < n; ++i) v[i] = convert<float>(p[i]);
  return v;
}
/// Writes the first n < width lanes only.
template <class T>
RECURFORMER_INLINE void store_partial(T* p, Vec v, int n) {
  for (int i = 0; i < n; ++i) p[i] = convert<T>(float(v[i]));
}

/// Calls f(i, n) for i = 0, width, 2·width, … below count, n lanes each; n < width only in the last call.
template <class F>
RECURFORMER_INLINE void for_lanes(std::int64_t count, F f) {
  std::int64_t i = 0;
  for (; i + width <= count; i += width) f(i, std::integral_constant<int, width>{});
  if (i < count) f(i, static_cast<int>(count - i));
}
/// load / store of n lanes as for_lanes hands them out.
template <class T, class N>
RECURFORMER_INLINE Vec load_n(const T* p, N n, float fill = 0.0f) {
  if constexpr (std::is_same_v<N, std::integral_constant<int, width>>)
    return load(p);
  else
    return load_partial(p, n, fill);
}
template <class T, class N>
RECURFORMER_INLINE void store_n(T* p, Vec v, N n) {
  if constexpr (std::is_same_v<N, std::integral_constant<int, width>>)
    store(p, v);
  else
    store_partial(p, v, n);
}

namespace detail {
/// Lane i becomes lane i + Step, those behind the last one start over.
template <int Step, int... Lane>
RECURFORMER_INLINE Vec rotated(Vec v, std::integer_sequence<int, Lane...>) {
  return __builtin_shufflevector(v, v, ((Lane + Step) % width)...);
}
/// Combines the lower half of 2·Step lanes with the upper one, and so on down to one: in registers, because
/// through memory the halves would wait for each other's stores.
template <int Step, class F>
RECURFORMER_INLINE float fold_lanes(Vec v, F combine) {
  v = combine(v, rotated<Step>(v, std::make_integer_sequence<int, width>{}));
  if constexpr (Step > 1)
    return fold_lanes<Step / 2>(v, combine);
  else
    return v[0];
}
}  // namespace detail

/// Sum of the lanes, in a fixed (pairwise) order.
RECURFORMER_INLINE float reduce_add(Vec v) {
  return detail::fold_lanes<width / 2>(v, [](Vec a, Vec b) { return a + b; });
}
/// Largest lane.
RECURFORMER_INLINE float reduce_max(Vec v) {
  return detail::fold_lanes<width / 2>(v, [](Vec a, Vec b) { return max(a, b); });
}

/// 2^x; exactly 0 below -126, infinity from 128. Relative error <= 1.5e-7 (degree-6 polynomial on [-1/2,
/// 1/2], the exponent rounded by adding 1.5·2^23).
RECURFORMER_INLINE Vec exp2(Vec x) {
  const Vec clamped = max(min(x, broadcast(128.0f)), broadcast(-127.0f));
  const Vec shifted = clamped + 12582912.0f;
  const Vec whole = shifted - 12582912.0f;
  const Vec f = clamped - whole;  // in [-1/2, 1/2]
  Vec y = broadcast(1.535336188319500e-4f);
  y = y * f + 1.339887440266574e-3f;
  y = y * f + 9.618437357674640e-3f;
  y = y * f + 5.550332471162809e-2f;
  y = y * f + 2.402264791363012e-1f;
  y = y * f + 6.931472028550421e-1f;
  y = y * f + 1.0f;
  const UintVec exponent = detail::bits_as<UintVec>(shifted) << 23;
  Vec r = detail::bits_as<Vec>(detail::bits_as<UintVec>(y) + exponent);
  r = select(x < -126.0f, zero(), r);
  r = select(x >= 128.0f, broadcast(std::numeric_limits<float>::infinity()), r);
  return select(x != x, x, r);
}

/// e^x: 2^whole times e^r, r reduced with ln 2 in two parts, so that the error does not grow with |x|;
/// exactly 0 below -87.33, infinity above 88.72. Relative error <= 1.5e-7.
RECURFORMER_INLINE Vec exp(Vec x) {
  const Vec clamped = max(min(x, broadcast(89.0f)), broadcast(-88.0f));
  const Vec whole = (clamped * 1.44269504088896341f + 12582912.0f) - 12582912.0f;
  // Cody-Waite: ln 2 in a part with trailing zeros and a remainder
  Vec r = clamped - whole * 0.693359375f;
  r = r - whole * -2.12194440e-4f;
  Vec y = broadcast(1.9875691500e-4f);  // Cephes expf
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * (r * r) + r + 1.0f;
  const UintVec exponent = detail::bits_as<UintVec>(__builtin_convertvector(whole, IntVec)) << 23;
  Vec out = detail::bits_as<Vec>(detail::bits_as<UintVec>(y) + exponent);
  out = select(x < -87.33f, zero(), out);
  out = select(x > 88.72f, broadcast(std::numeric_limits<float>::infinity()), out);
  return select(x != x, x, out);
}

/// Natural logarithm of x > 0 (Cephes logf); -inf at 0, NaN below. Relative error <= 1.5e-7; subnormal
/// numbers are taken for numbers in [2^-127, 2^-126).
RECURFORMER_INLINE Vec log(Vec x) {
  const auto u = detail::bits_as<UintVec>(x);
  IntVec e = detail::bits_as<IntVec>(u >> 23) - 126;
  Vec m =
      detail::bits_as<Vec>((u & detail::uint_broadcast(0x007fffffu)) | detail::uint_broadcast(0x3f000000u));
  const IntVec low = m < 0.707106781186547524f;
  e = e + low;  // a true lane is -1
  m = select(low, m + m, m) - 1.0f;
  const Vec z = m * m;
  Vec y = broadcast(7.0376836292e-2f);
  y = y * m - 1.1514610310e-1f;
  y = y * m + 1.1676998740e-1f;
  y = y * m - 1.2420140846e-1f;
  y = y * m + 1.4249322787e-1f;
  y = y * m - 1.6668057665e-1f;
  y = y * m + 2.0000714765e-1f;
  y = y * m - 2.4999993993e-1f;
  y = y * m + 3.3333331174e-1f;
  y = y * m * z;
  const Vec fe = __builtin_convertvector(e, Vec);
  y = y + fe * -2.12194440e-4f - 0.5f * z;
  Vec out = m + y + fe * 0.693359375f;
  out = select(x == 0.0f, broadcast(-std::numeric_limits<float>::infinity()), out);
  out = select(x < 0.0f, broadcast(std::numeric_limits<float>::quiet_NaN()), out);
  out = select(x == std::numeric_limits<float>::infinity(), x, out);
  return select(x != x, x, out);
}

/// 1 / (1 + e^-x); exactly 0 below -88.72. Relative error <= 2.5e-7 above -87.
RECURFORMER_INLINE Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp(-x)); }
/// x · sigmoid(x); 0 for finite x below -88.72. Relative error <= 2.5e-7 above -87.
RECURFORMER_INLINE Vec silu(Vec x) { return x * sigmoid(x); }
/// log(1 + e^x) without overflow: max(x, 0) + log1p(t), t = e^-|x| in [0, 1], log1p(t) = t times a
/// polynomial. Relative error <= 3e-7 above -87; 0 below -87.33.
RECURFORMER_INLINE Vec softplus(Vec x) {
  const Vec t = exp(-abs(x));
  Vec y = broadcast(5.232691764831543e-3f);
  y = y * t - 2.9505237936973572e-2f;
  y = y * t + 7.822597026824951e-2f;
  y = y * t - 1.3663248717784882e-1f;
  y = y * t + 1.9106008112430573e-1f;
  y = y * t - 2.4842983484268188e-1f;
  y = y * t + 3.331909775733948e-1f;
  y = y * t - 4.999949336051941e-1f;
  y = y * t + 9.999999403953552e-1f;
  return max(x, zero()) + t * y;
}

}  // namespace RECURFORMER_ISA
}  // namespace rf::simd

#endif  // RECURFORMER_TILE_SIMD_HPP
