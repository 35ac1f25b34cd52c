#ifndef RECURFORMER_CPU_SELECTIVE_SCAN_BACKWARD_HPP
#define RECURFORMER_CPU_SELECTIVE_SCAN_BACKWARD_HPP

// Gradients of the selective scan (selective_scan.hpp), a chunk of scan_chunk tokens at a time from the last
// to the first. Within a chunk the states are computed again from the one saved before it; then, with
// e = exp(Δ_t A) and g the gradient of s_t, from the last token to the first,
//
//   g   = carry + dy_t C_t            dC_t = Σ_c dy_t s_t        dB_t = Σ_c g Δ_t x_t
//   carry = e g                       dA  += carry s_{t-1} Δ_t
//   dΔ_t = Σ_n carry s_{t-1} A + x_t Σ_n g B_t
//   dx_t = Δ_t Σ_n g B_t + D dy_t     dD  += dy_t x_t
//
// A few states at a time, so that what the chunk remembers of them stays in the first cache. Sums over
// channels are kept per lane for all channels and reduced at the end of the chunk.

#include <algorithm>
#include <cstdint>

#include "recurformer/cpu/selective_scan.hpp"

namespace rf::cpu {

/// One chunk: its inputs as in SelectiveScan, and gradients.
struct ScanChunk {
  std::int64_t rows = 0;  ///< 1 … scan_chunk
  std::int64_t channels = 0;
  RowsView<const float> x, delta;  ///< (rows, channels)
  RowsView<const float> b, c;      ///< (rows, d_state)
  const float* a = nullptr;        ///< (d_state, channels)
  const float* skip = nullptr;     ///< (channels)
  const float* state = nullptr;    ///< (d_state, channels) before the chunk
  RowsView<float> y;               ///< (rows, channels), written
  RowsView<const float> d_y;       ///< (rows, channels)
  RowsView<float> d_x, d_delta;    ///< (rows, channels), written
  RowsView<float> d_b, d_c;        ///< (rows, d_state), written
  float* d_state = nullptr;        ///< (d_state, channels): of the state after the chunk, then before it
  float* d_a = nullptr;            ///< (d_state, channels), added to
  float* d_skip = nullptr;         ///< (channels), added to
};

inline namespace RECURFORMER_ISA {
namespace detail {

/// States that one pass over a chunk works on.
inline constexpr int states_per_backward_pass = 8;

/// Pairs the sums of neighbouring lanes of a (low half) and b (high half).
template <int... Lane>
RECURFORMER_INLINE simd::Vec add_pairs(simd::Vec a, simd::Vec b, std::integer_sequence<int, Lane...>) {
  return __builtin_shufflevector(a, b, (2 * Lane)...) + __builtin_shufflevector(a, b, (2 * Lane + 1)...);
}

/// out[i] = sum of the lanes of vector i, for i < width; vectors (width, width).
RECURFORMER_INLINE void reduce_lanes(const float* vectors, float* out) {
  simd::Vec v[simd::width];
#pragma GCC unroll 16
  for (int i = 0; i < simd::width; ++i) v[i] = simd::load(vectors + i * simd::width);
#pragma GCC unroll 4
  for (int count = simd::width / 2; count > 0; count /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < count; ++i)
      v[i] = add_pairs(v[2 * i], v[2 * i + 1], std::make_integer_sequence<int, simd::width>{});
  simd::store(out, v[0]);
}

/// What one pass remembers of a chunk; all of it fits into a first cache.
template <int Count>
struct ScanPassMemory {
  alignas(64) float decay[scan_chunk][Count][simd::width];
  alignas(64) float state[scan_chunk + 1][Count][simd::width];  // before the chunk, after token 0, …
  alignas(64) float lanes[scan_chunk][2 * Count][simd::width];  // dB | dC, lane by lane
};

/// States [First, First + Count) of one vector of channels, forward again.
template <int First, int Count>
void replay_states(const ScanChunk& chunk, std::int64_t channel, ScanPassMemory<Count>& memory) {
  simd::Vec s[Count];
#pragma GCC unroll 16
  for (int n = 0; n < Count; ++n) {
    s[n] = simd::load(chunk.state + (First + n) * chunk.channels + channel);
    simd::store(memory.state[0][n], s[n]);
  }
  for (std::int64_t t = 0; t < chunk.rows; ++t) {
    const simd::Vec x = simd::load(chunk.x.row(t) + channel);
    const simd::Vec delta = simd::load(chunk.delta.row(t) + channel);
    const simd::Vec input = delta * x;
    const simd::Vec exponent = delta * log2_e;
    const float* b = chunk.b.row(t) + First;
    const float* c = chunk.c.row(t) + First;
    float* y = chunk.y.row(t) + channel;
    simd::Vec sum = First == 0 ? x * simd::load(chunk.skip + channel) : simd::load(y);
#pragma GCC unroll 16
    for (int n = 0; n < Count; ++n) {
      const simd::Vec decay =
          exp2_decay(exponent * simd::load(chunk.a + (First + n) * chunk.channels + channel));
      s[n] = decay * s[n] + input * b[n];
      sum += s[n] * c[n];
      simd::store(memory.decay[t][n], decay);
      simd::store(memory.state[t + 1][n], s[n]);
    }
    simd::store(y, sum);
  }
}

/// The same states backward.
template <int First, int Count>
void reverse_states(const ScanChunk& chunk, std::int64_t channel, ScanPassMemory<Count>& memory) {
  simd::Vec carry[Count], d_a[Count];
#pragma GCC unroll 16
  for (int n = 0; n < Count; ++n) {
    carry[n] = simd::load(chunk.d_state + (First + n) * chunk.channels + channel);
    d_a[n] = simd::load(chunk.d_a + (First + n) * chunk.channels + channel);
  }
  for (std::int64_t t = chunk.rows - 1; t >= 0; --t) {
    const simd::Vec x = simd::load(chunk.x.row(t) + channel);
    const simd::Vec delta = simd::load(chunk.delta.row(t) + channel);
    const simd::Vec d_y = simd::load(chunk.d_y.row(t) + channel);
    const simd::Vec input = delta * x;
    const float* b = chunk.b.row(t) + First;
    const float* c = chunk.c.row(t) + First;
    simd::Vec d_exponent = simd::zero(), d_input = simd::zero();  // Σ_n carry s_{t-1} A,  Σ_n g B
#pragma GCC unroll 16
    for (int n = 0; n < Count; ++n) {
      float* d_b_lanes = memory.lanes[t][n];
      float* d_c_lanes = memory.lanes[t][Count + n];
      const simd::Vec g = carry[n] + d_y * c[n];
      simd::store(d_c_lanes, simd::load(d_c_lanes) + d_y * simd::load(memory.state[t + 1][n]));
      simd::store(d_b_lanes, simd::load(d_b_lanes) + g * input);
      d_input += g * b[n];
      carry[n] = g * simd::load(memory.decay[t][n]);
      const simd::Vec d_decay = carry[n] * simd::load(memory.state[t][n]);
      d_exponent += d_decay * simd::load(chunk.a + (First + n) * chunk.channels + channel);
      d_a[n] += d_decay * delta;
    }
    float* d_x = chunk.d_x.row(t) + channel;
    float* d_delta = chunk.d_delta.row(t) + channel;
    const simd::Vec x_before = First == 0 ? d_y * simd::load(chunk.skip + channel) : simd::load(d_x);
    const simd::Vec delta_before = First == 0 ? simd::zero() : simd::load(d_delta);
    simd::store(d_x, x_before + delta * d_input);
    simd::store(d_delta, delta_before + d_exponent + x * d_input);
  }
#pragma GCC unroll 16
  for (int n = 0; n < Count; ++n) {
    simd::store(chunk.d_state + (First + n) * chunk.channels + channel, carry[n]);
    simd::store(chunk.d_a + (First + n) * chunk.channels + channel, d_a[n]);
  }
}

/// Sums the lanes of a pass over all channels into d_b and d_c.
template <int First, int Count>
void reduce_pass(const ScanChunk& chunk, const ScanPassMemory<Count>& memory) {
  constexpr std::int64_t row = 2 * Count;
  static_assert(scan_chunk % simd::width == 0);  // so that whole vectors cover all rows
  alignas(64) float sums[scan_chunk * row];
  for (std::int64_t i = 0; i < chunk.rows * row; i += simd::width)
    reduce_lanes(&memory.lanes[0][0][0] + i * simd::width, sums + i);
  for (std::int64_t t = 0; t < chunk.rows; ++t) {
    std::copy_n(sums + t * row, Count, chunk.d_b.row(t) + First);
    std::copy_n(sums + t * row + Count, Count, chunk.d_c.row(t) + First);
  }
}

template <int First, int States>
void scan_chunk_passes(const ScanChunk& chunk) {
  constexpr int count = std::min(States - First, states_per_backward_pass);
  ScanPassMemory<count> memory;
  std::fill_n(&memory.lanes[0][0][0], sizeof memory.lanes / sizeof(float), 0.0f);
  for (std::int64_t channel = 0; channel < chunk.channels; channel += simd::width) {
    replay_states<First, count>(chunk, channel, memory);
    reverse_states<First, count>(chunk, channel, memory);
  }
  reduce_pass<First, count>(chunk, memory);
  if constexpr (First + count < States) scan_chunk_passes<First + count, States>(chunk);
}

}  // namespace detail

/// Gradients of one chunk, on this thread. Channels are a multiple of scan_channel_multiple.
template <int States>
void selective_scan_backward(const ScanChunk& chunk) {
  detail::scan_chunk_passes<0, States>(chunk);
  for (std::int64_t channel = 0; channel < chunk.channels; channel += simd::width) {
    simd::Vec sum = simd::load(chunk.d_skip + channel);
    for (std::int64_t t = 0; t < chunk.rows; ++t)
      sum += simd::load(chunk.d_y.row(t) + channel) * simd::load(chunk.x.row(t) + channel);
    simd::store(chunk.d_skip + channel, sum);
  }
}

}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_SELECTIVE_SCAN_BACKWARD_HPP
