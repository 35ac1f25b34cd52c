#ifndef RECURFORMER_CPU_ROPE_HPP
#define RECURFORMER_CPU_ROPE_HPP

// Rotary positions (arXiv 2104.09864) in the convention of Hugging Face's Llama: the pair (x[i], x[i + d/2])
// turns by the angle position · frequency_i (see math/rope_scaling.hpp). Any even d. Callers share rows among threads.

#include <cstdint>

#include "recurformer/core/config.hpp"
#include "recurformer/math/rope_table.hpp"
#include "recurformer/tile/simd.hpp"

namespace rf::cpu {

using rf::RopeTable;

inline namespace RECURFORMER_ISA {
namespace detail {

/// Turns `heads` consecutive vectors by the angles of `position` times `direction`, which is 1 or -1.
template <int direction>
void rope_turn(const RopeTable& table, std::int64_t position, float* x, std::int64_t heads) {
  constexpr auto sign = static_cast<float>(direction);
  const std::int64_t half = table.d_head() / 2;
  const std::int64_t whole = half / simd::width * simd::width;
  const float* cosines = table.cosines(position);
  const float* sines = table.sines(position);
  for (std::int64_t head = 0; head < heads; ++head, x += 2 * half) {
    for (std::int64_t i = 0; i < whole; i += simd::width) {
      const simd::Vec low = simd::load(x + i), high = simd::load(x + half + i);
      const simd::Vec c = simd::load(cosines + i), s = simd::load(sines + i) * sign;
      simd::store(x + i, low * c - high * s);
      simd::store(x + half + i, high * c + low * s);
    }
    for (std::int64_t i = whole; i < half; ++i) {
      const float low = x[i], high = x[half + i], c = cosines[i], s = sines[i] * sign;
      x[i] = low * c - high * s;
      x[half + i] = high * c + low * s;
    }
  }
}

}  // namespace detail

/// Turns `heads` consecutive vectors of table.d_head() floats in place to `position`, which is reserved.
inline void rope_rotate(const RopeTable& table, std::int64_t position, float* x, std::int64_t heads = 1) {
  detail::rope_turn<1>(table, position, x, heads);
}

/// The gradient's way back: the transposed map, which is the inverse turn where the scaling's magnitude is 1.
inline void rope_rotate_back(const RopeTable& table, std::int64_t position, float* x,
                             std::int64_t heads = 1) {
  detail::rope_turn<-1>(table, position, x, heads);
}

}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_ROPE_HPP
