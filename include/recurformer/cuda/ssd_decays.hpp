#ifndef RECURFORMER_CUDA_SSD_DECAYS_HPP
#define RECURFORMER_CUDA_SSD_DECAYS_HPP

// Step sizes and decays of one chunk of the SSD recurrence, computed by one warp from the projected dt:
//
//   Δ_t = softplus(dt_t + dt_bias),   A_t = log2 e · Σ_{u<=t} Δ_u a       inside the chunk
//
// A is kept as the sum of two floats: what decays between two tokens is a difference of such sums, and a few
// huge steps earlier in the chunk would otherwise take all digits from it. Differences are taken before the
// exponential and only where they are <= 0, so nothing overflows.

#include <cstdint>

#include "recurformer/arch/arch.hpp"
#include "recurformer/cuda/mamba2_arguments.hpp"

namespace rf::cuda {
namespace detail {

/// high + low, |low| at most half an ulp of high.
struct SsdSum {
  float high = 0.0f, low = 0.0f;
};

/// Knuth's two-sum and the low parts behind it.
RECURFORMER_DEVICE SsdSum operator+(SsdSum x, SsdSum y) {
  const float sum = x.high + y.high, moved = sum - x.high;
  const float low = (x.high - (sum - moved)) + (y.high - moved) + (x.low + y.low);
  const float high = sum + low;
  return {high, low - (high - sum)};
}

/// 2^(x - y).
RECURFORMER_DEVICE float ssd_decay_between(SsdSum x, SsdSum y) {
  return arch::exp2((x.high - y.high) + (x.low - y.low));
}

/// The power of two above x >= 0, from 2^-60 to 2^60. Numbers divided by it cannot overflow 16 bits for being
/// products with x, and lose nothing.
RECURFORMER_DEVICE float ssd_scale_above(float x) {
  const std::uint32_t power = (rf::detail::bit_cast<std::uint32_t>(x) >> 23 & 0xffu) + 1;
  const std::uint32_t least = 127 - 60, most = 127 + 60;
  return rf::detail::bit_cast<float>((power < least ? least : power > most ? most : power) << 23);
}
/// 1 / x of a power of two, exactly.
RECURFORMER_DEVICE float ssd_inverse_scale(float x) {
  return rf::detail::bit_cast<float>((254u << 23) - rf::detail::bit_cast<std::uint32_t>(x));
}

/// The largest x of a warp, in all its lanes.
RECURFORMER_DEVICE float ssd_warp_max(float x) {
  RECURFORMER_UNROLL
  for (int bits = 16; bits > 0; bits /= 2) {
    const float other = arch::shuffle_xor(x, bits);
    x = other > x ? other : x;
  }
  return x;
}

}  // namespace detail

/// In shared memory, one entry per token of the chunk.
struct SsdDecays {
  static constexpr int rows = 64;  ///< tokens of a chunk

  float high[rows], low[rows];  ///< A = high + low
  float step[rows];             ///< Δ / scale; 0 behind the chunk's last token
  float to_end[rows];           ///< e^{A_last - A} Δ / scale
  float from_start[rows];       ///< e^{A}
  float sum_high, sum_low;      ///< A_last
  float decay;                  ///< e^{A_last}
  float scale;                  ///< a power of two

  /// Fills all of it, by one warp: `steps` are the `valid` (1 to 64) pre-activations, `stride` apart. Scaled:
  /// choose the scale so that Δ / scale <= 1, otherwise it is 1.
  template <bool Scaled, class T>
  RECURFORMER_DEVICE void fill(const T* steps, std::int64_t stride, int valid, float bias, float log2_rate) {
    const int lane = arch::lane_index();
    float delta[2];
    detail::SsdSum own[2];
    RECURFORMER_UNROLL
    for (int e = 0; e < 2; ++e) {  // a lane has two neighbouring tokens
      const int row = 2 * lane + e;
      delta[e] = row < valid ? detail::ssd_softplus(convert<float>(steps[row * stride]) + bias) : 0.0f;
      const float exponent = delta[e] * log2_rate;
      constexpr float most_negative = -1e30f;  // also keeps 0 · inf and inf - inf away: 2^-1e30 is 0
      own[e] = {.high = delta[e] == 0.0f ? 0.0f : exponent < most_negative ? most_negative : exponent};
    }
    detail::SsdSum sum = own[0] + own[1];
    RECURFORMER_UNROLL
    for (int distance = 1; distance < arch::warp_size; distance *= 2) {
      const detail::SsdSum before{arch::shuffle_up(sum.high, distance), arch::shuffle_up(sum.low, distance)};
      if (lane >= distance) sum = before + sum;
    }
    detail::SsdSum before{arch::shuffle_up(sum.high, 1), arch::shuffle_up(sum.low, 1)};
    if (lane == 0) before = {};
    const detail::SsdSum last{arch::shuffle(sum.high, 31), arch::shuffle(sum.low, 31)};
    const float largest = detail::ssd_warp_max(delta[0] > delta[1] ? delta[0] : delta[1]);
    const float chosen = Scaled ? detail::ssd_scale_above(largest) : 1.0f;
    const float inverse = detail::ssd_inverse_scale(chosen);
    RECURFORMER_UNROLL
    for (int e = 0; e < 2; ++e) {
      const int row = 2 * lane + e;
      const detail::SsdSum here = e == 0 ? before + own[0] : sum;
      high[row] = here.high;
      low[row] = here.low;
      step[row] = delta[e] * inverse;
      to_end[row] = detail::ssd_decay_between(last, here) * delta[e] * inverse;
      from_start[row] = arch::exp2(here.high + here.low);
    }
    if (lane == 0) {
      sum_high = last.high;
      sum_low = last.low;
      decay = arch::exp2(last.high + last.low);
      scale = chosen;
    }
  }

  RECURFORMER_DEVICE detail::SsdSum at(int row) const { return {high[row], low[row]}; }
};

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_SSD_DECAYS_HPP
