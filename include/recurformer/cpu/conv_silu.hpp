#ifndef RECURFORMER_CPU_CONV_SILU_HPP
#define RECURFORMER_CPU_CONV_SILU_HPP

// A short causal convolution along time, every channel by itself, and silu:
//
//   p_t = bias + Σ_j weight[j] ∘ x_{t - (taps-1) + j},   u = silu(p)
//
// and its gradients
//
//   dp = du ∘ silu'(p),   dx_t = Σ_j weight[j] ∘ dp_{t + (taps-1) - j},
//   d_weight[j] = Σ_t dp_t ∘ x_{t - (taps-1) + j},   d_bias = Σ_t dp_t.
//
// Everything is float; a call works on at most conv_channels channels of one sequence, a multiple of 16,
// which callers distribute over threads. Rows are taken in blocks, so that those of all channels stay in the
// first cache.

#include <algorithm>
#include <cstdint>

#include "recurformer/cpu/gate.hpp"
#include "recurformer/tile/simd.hpp"

namespace rf::cpu {

/// Channels of one call.
inline constexpr std::int64_t conv_channels = 256;

/// Some channels of one sequence.
struct ConvInput {
  std::int64_t rows = 0;
  std::int64_t channels = 0;
  const float* x = nullptr;       ///< (rows, channels)
  std::int64_t stride = 0;        ///< floats from one row of x to the next
  const float* weight = nullptr;  ///< (taps, channels)
  std::int64_t weight_stride = 0;
  const float* bias = nullptr;  ///< (channels)
};

inline namespace RECURFORMER_ISA {
namespace detail {

inline constexpr std::int64_t conv_block_rows = 64;

}  // namespace detail

/// u (rows, channels), rows u_stride floats apart; may be x with the same stride. `past` (taps - 1,
/// channels), dense, has the inputs before the first row, oldest first, and afterwards those before the next
/// one.
template <int Taps>
void conv_silu(const ConvInput& in, float* past, float* u, std::int64_t u_stride) {
  using simd::Vec;
  for (std::int64_t first = 0; first < in.rows; first += detail::conv_block_rows) {
    const std::int64_t last = std::min(first + detail::conv_block_rows, in.rows);
    for (std::int64_t c = 0; c < in.channels; c += simd::width) {
      Vec weight[Taps], window[Taps];  // the latest inputs, oldest first
#pragma GCC unroll 8
      for (int j = 0; j < Taps; ++j) weight[j] = simd::load(in.weight + j * in.weight_stride + c);
#pragma GCC unroll 8
      for (int j = 0; j + 1 < Taps; ++j) window[j] = simd::load(past + j * in.channels + c);
      const Vec bias = simd::load(in.bias + c);
      for (std::int64_t t = first; t < last; ++t) {
        window[Taps - 1] = simd::load(in.x + t * in.stride + c);
        Vec p = bias;
#pragma GCC unroll 8
        for (int j = 0; j < Taps; ++j) p += weight[j] * window[j];
        simd::store(u + t * u_stride + c, simd::silu(p));
#pragma GCC unroll 8
        for (int j = 0; j + 1 < Taps; ++j) window[j] = window[j + 1];
      }
#pragma GCC unroll 8
      for (int j = 0; j + 1 < Taps; ++j) simd::store(past + j * in.channels + c, window[j]);
    }
  }
}

/// Gradients of conv_silu on a whole sequence, with nothing before it. d (rows, channels), rows d_stride
/// floats apart, is du before and dx after; d_weight (taps, channels), rows in.weight_stride floats apart,
/// and d_bias (channels) are added to.
template <int Taps>
void conv_silu_backward(const ConvInput& in, float* d, std::int64_t d_stride, float* d_weight,
                        float* d_bias) {
  using simd::Vec;
  float next[(Taps - 1) * conv_channels] = {};  // (taps - 1, channels): dp of the rows behind the block
  const auto input = [&](std::int64_t t, std::int64_t c) {
    return t >= 0 ? simd::load(in.x + t * in.stride + c) : simd::zero();
  };
  for (std::int64_t last = in.rows; last > 0; last -= std::min(last, detail::conv_block_rows)) {
    const std::int64_t first = last - std::min(last, detail::conv_block_rows);
    for (std::int64_t c = 0; c < in.channels; c += simd::width) {
      Vec weight[Taps], sum[Taps], dp[Taps];  // d_weight; dp of a row and of those behind it
#pragma GCC unroll 8
      for (int j = 0; j < Taps; ++j) {
        weight[j] = simd::load(in.weight + j * in.weight_stride + c);
        sum[j] = simd::load(d_weight + j * in.weight_stride + c);
        if (j > 0) dp[j] = simd::load(next + (j - 1) * in.channels + c);
      }
      const Vec bias = simd::load(in.bias + c);
      Vec bias_sum = simd::load(d_bias + c);
      for (std::int64_t t = last - 1; t >= first; --t) {
        Vec window[Taps], p = bias;
#pragma GCC unroll 8
        for (int j = 0; j < Taps; ++j) {
          window[j] = input(t - (Taps - 1) + j, c);
          p += weight[j] * window[j];
        }
        dp[0] = simd::load(d + t * d_stride + c) * detail::silu_slope(p);
        bias_sum += dp[0];
        Vec dx = simd::zero();
#pragma GCC unroll 8
        for (int j = 0; j < Taps; ++j) {
          sum[j] += dp[0] * window[j];
          dx += weight[Taps - 1 - j] * dp[j];
        }
        simd::store(d + t * d_stride + c, dx);
#pragma GCC unroll 8
        for (int j = Taps - 1; j > 0; --j) dp[j] = dp[j - 1];
      }
#pragma GCC unroll 8
      for (int j = 0; j < Taps; ++j) {
        simd::store(d_weight + j * in.weight_stride + c, sum[j]);
        if (j > 0) simd::store(next + (j - 1) * in.channels + c, dp[j]);
      }
      simd::store(d_bias + c, bias_sum);
    }
  }
}

}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_CONV_SILU_HPP
