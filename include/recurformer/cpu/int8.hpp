#ifndef RECURFORMER_CPU_INT8_HPP
#define RECURFORMER_CPU_INT8_HPP

// Numbers as 8-bit integers with a scale that a group of them shares:
//
//   scale = max |x| / 127,   q = x / scale to the nearest integer (ties to even),   x ≈ scale · q
//
// Symmetric, so that 0 stays 0 and -x becomes -q. The error is at most scale / 2, up to the rounding of
// float. Weights share a scale along int8_group inputs of one output, a row of keys or values along the whole
// row.

#include <algorithm>
#include <cstdint>
#include <limits>

#include "recurformer/core/config.hpp"
#include "recurformer/tile/simd.hpp"

namespace rf::cpu {

/// Inputs of one output whose weights share a scale: 4 bytes for 64, as much per weight as GGML's Q8_0.
inline constexpr int int8_group = 64;

inline namespace RECURFORMER_ISA {

/// The largest |x| of `count` numbers, a multiple of the vector's width; NaN if one is NaN or infinite.
inline float largest_magnitude(const float* numbers, int count) {
  using namespace simd;
  Vec largest = zero(), finite = zero();
  for (int i = 0; i < count; i += width) {
    const Vec x = load(numbers + i);
    largest = max(abs(x), largest);
    finite += x - x;  // 0, or NaN
  }
  return reduce_max(largest) + reduce_add(finite);
}

/// Writes the integers of `Count` numbers and returns their scale. Numbers whose largest magnitude is below
/// 1.5e-36, where a scale would be subnormal, become zeros. A NaN or an infinity makes the scale NaN: the
/// whole group is NaN.
template <int Count>
float quantise(const float* numbers, std::int8_t* integers) {
  using namespace simd;
  static_assert(Count % width == 0);
  constexpr float largest_scale =
      0x1.020406p+121f;  // 127 of it are finite, and the largest float is 127 of it
  float scale = std::min(largest_magnitude(numbers, Count) / 127.0f, largest_scale);
  if (scale < std::numeric_limits<float>::min()) scale = 0.0f;
  const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
  for (int i = 0; i < Count; i += width) store(integers + i, load(numbers + i) * inverse);
  return scale;
}

}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_INT8_HPP
