#ifndef RECURFORMER_ARCH_MATH_HPP
#define RECURFORMER_ARCH_MATH_HPP

// The special-function unit, and conversions between float and the storage types.

#include <cstdint>

#include "recurformer/arch/types.hpp"
#include "recurformer/core/dtype.hpp"
#if !defined(__CUDACC__)
#include <bit>
#include <cmath>
#include <limits>
#endif

namespace rf::arch {
inline namespace RECURFORMER_ARCH {

#if !defined(__CUDACC__)
namespace detail {
/// Subnormal numbers become zeros of their sign, as under .ftz.
inline float flushed(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x; }
}  // namespace detail
#endif

RECURFORMER_DEVICE float minus_infinity() {
#if defined(__CUDACC__)
  return __int_as_float(static_cast<int>(0xff800000u));
#else
  return -std::numeric_limits<float>::infinity();
#endif
}

/// 2^x, relative error at most 2^-22; subnormal results are 0. (ex2.approx.ftz)
RECURFORMER_DEVICE float exp2(float x) {
#if defined(__CUDACC__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return detail::flushed(std::exp2(detail::flushed(x)));
#endif
}

/// log2(x); absolute error at most 2^-22 for x in [0.5, 2], relative elsewhere. (lg2.approx.ftz)
RECURFORMER_DEVICE float log2(float x) {
#if defined(__CUDACC__)
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return std::log2(detail::flushed(x));
#endif
}

/// The larger of two numbers; of a number and a NaN, the number. (max.f32)
RECURFORMER_DEVICE float max(float a, float b) {
#if defined(__CUDACC__)
  return fmaxf(a, b);
#else
  return b > a || a != a ? b : a;
#endif
}

/// 1/x, at most 1 ulp off; subnormals are 0. (rcp.approx.ftz)
RECURFORMER_DEVICE float reciprocal(float x) {
#if defined(__CUDACC__)
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return detail::flushed(1.0f / detail::flushed(x));
#endif
}

/// 1/√x, relative error at most 2^-22; subnormals are 0. (rsqrt.approx.ftz)
RECURFORMER_DEVICE float reciprocal_sqrt(float x) {
#if defined(__CUDACC__)
  float y;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return detail::flushed(1.0f / std::sqrt(detail::flushed(x)));
#endif
}

/// `low` and `high`, rounded to nearest even, in the low and high half. T is bf16 or fp16. NaN becomes
/// 0x7fff. (cvt.rn.bf16x2.f32, cvt.rn.f16x2.f32)
template <class T>
RECURFORMER_DEVICE std::uint32_t pack(float low, float high) {
#if defined(__CUDACC__)
  std::uint32_t out;
  if constexpr (dtype_of<T> == DType::BF16)
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
#else
  const auto bits = [](float x) { return x != x ? std::uint32_t{0x7fff} : std::uint32_t{T(x).bits}; };
  return bits(low) | bits(high) << 16;
#endif
}

/// One half of a packed pair as a float.
template <class T>
RECURFORMER_DEVICE float unpack_low(std::uint32_t pair) {
  return static_cast<float>(T::from_bits(static_cast<std::uint16_t>(pair & 0xffffu)));
}
template <class T>
RECURFORMER_DEVICE float unpack_high(std::uint32_t pair) {
  return static_cast<float>(T::from_bits(static_cast<std::uint16_t>(pair >> 16)));
}

}  // namespace RECURFORMER_ARCH
}  // namespace rf::arch

#endif  // RECURFORMER_ARCH_MATH_HPP
