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
#include <cstddef>
#include <cstdint>
#include <vector>

#include "recurformer/cpu/selective_scan.hpp"
#include "recurformer/tile/transpose.hpp"

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

/// A whole sequence: gradients of selective_scan().
struct SelectiveScanGradient {
  SelectiveScan forward;         ///< as it ran; needs chunk_states, and neither y nor state
  RowsView<const float> d_y;     ///< (rows, channels)
  RowsView<float> d_x, d_delta;  ///< (rows, channels), written
  RowsView<float> d_b, d_c;      ///< (rows, d_state), written
  float* d_state = nullptr;      ///< (d_state, channels): of the final state, then of the initial one
  float* d_a = nullptr;          ///< (d_state, channels), added to
  float* d_skip = nullptr;       ///< (channels), added to
};

inline namespace RECURFORMER_ISA {
namespace detail {

/// States that one pass over a chunk works on.
inline constexpr int states_per_backward_pass = 8;

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

/// The same states backward. ask(t, channel) is called for each token.
template <int First, int Count, class Ask>
void reverse_states(const ScanChunk& chunk, std::int64_t channel, ScanPassMemory<Count>& memory,
                    const Ask& ask) {
  simd::Vec carry[Count], d_a[Count];
#pragma GCC unroll 16
  for (int n = 0; n < Count; ++n) {
    carry[n] = simd::load(chunk.d_state + (First + n) * chunk.channels + channel);
    d_a[n] = simd::load(chunk.d_a + (First + n) * chunk.channels + channel);
  }
  for (std::int64_t t = chunk.rows - 1; t >= 0; --t) {
    if (First == 0) ask(t, channel);
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
  for (std::int64_t i = 0; i < chunk.rows * row; i += simd::width) {
    const float* lanes = &memory.lanes[0][0][0] + i * simd::width;
    simd::Vec v[simd::width];
#pragma GCC unroll 16
    for (int j = 0; j < simd::width; ++j) v[j] = simd::load(lanes + j * simd::width);
    simd::store(sums + i, simd::reduce_each(v));
  }
  for (std::int64_t t = 0; t < chunk.rows; ++t) {
    std::copy_n(sums + t * row, Count, chunk.d_b.row(t) + First);
    std::copy_n(sums + t * row + Count, Count, chunk.d_c.row(t) + First);
  }
}

template <int First, int States, class Ask>
void scan_chunk_passes(const ScanChunk& chunk, const Ask& ask) {
  constexpr int count = std::min(States - First, states_per_backward_pass);
  ScanPassMemory<count> memory;
  std::fill_n(&memory.lanes[0][0][0], sizeof memory.lanes / sizeof(float), 0.0f);
  for (std::int64_t channel = 0; channel < chunk.channels; channel += simd::width) {
    replay_states<First, count>(chunk, channel, memory);
    reverse_states<First, count>(chunk, channel, memory, ask);
  }
  reduce_pass<First, count>(chunk, memory);
  if constexpr (First + count < States) scan_chunk_passes<First + count, States>(chunk, ask);
}

}  // namespace detail

/// Gradients of one chunk, on this thread. Channels are a multiple of scan_channel_multiple. Calls ask(t,
/// channel) once per token and vector of channels, for what is to be asked of memory meanwhile.
template <int States, class Ask = detail::AskForNothing>
void scan_chunk_backward(const ScanChunk& chunk, const Ask& ask = {}) {
  detail::scan_chunk_passes<0, States>(chunk, ask);
  for (std::int64_t channel = 0; channel < chunk.channels; channel += simd::width) {
    simd::Vec sum = simd::load(chunk.d_skip + channel);
    for (std::int64_t t = 0; t < chunk.rows; ++t)
      sum += simd::load(chunk.d_y.row(t) + channel) * simd::load(chunk.x.row(t) + channel);
    simd::store(chunk.d_skip + channel, sum);
  }
}

namespace detail {

/// Channels that share one partial sum of dB and dC: an eighth of them, so that several threads have some,
/// but rows of at least two lines, and no more than the second cache holds a chunk of.
constexpr std::int64_t scan_gradient_slice(std::int64_t channels) {
  constexpr std::int64_t least = 32, most = 128;
  return std::clamp(channels / 8 / least * least, least, most);
}

/// Channels [first, first + channels) of all chunks, each copied together and the next one asked for as in
/// scan_slice(); d_b and d_c (rows, States) of these channels.
template <int States>
void scan_slice_backward(const SelectiveScanGradient& g, std::int64_t first, std::int64_t channels,
                         float* d_b, float* d_c) {
  const SelectiveScan& f = g.forward;
  Scratch scratch((4 * States + 6 * scan_chunk) * channels);
  const auto take = [&](std::int64_t count) {
    return RowsView<float>{scratch.take(count * channels), channels};
  };
  const auto states = [&](float* of) { return RowsView<float>{of + first, f.channels}; };
  const auto read_only = [](RowsView<float> view) { return RowsView<const float>{view.data, view.stride}; };
  const RowsView<float> a = take(States), state = take(States), d_state = take(States), d_a = take(States);
  const RowsView<float> x = take(scan_chunk), delta = take(scan_chunk), d_y = take(scan_chunk);
  const RowsView<float> y = take(scan_chunk), d_x = take(scan_chunk), d_delta = take(scan_chunk);
  copy_rows({f.a + first, f.channels}, a, States, channels);
  copy_rows(read_only(states(g.d_state)), d_state, States, channels);
  copy_rows(read_only(states(g.d_a)), d_a, States, channels);
  for (std::int64_t index = scan_chunks(f.rows) - 1; index >= 0; --index) {
    const std::int64_t row = index * scan_chunk, rows = std::min(scan_chunk, f.rows - row);
    const auto from = [&](auto view) { return decltype(view){view.row(row) + first, view.stride}; };
    copy_rows(from(f.x), x, rows, channels);
    copy_rows(from(f.delta), delta, rows, channels);
    copy_rows(from(g.d_y), d_y, rows, channels);
    copy_rows({f.chunk_states.row(index * States) + first, f.chunk_states.stride}, state, States, channels);
    const auto ask_for_next = [&](std::int64_t t, std::int64_t channel) __attribute__((always_inline)) {
      if (index == 0) return;
      const std::int64_t at = row - scan_chunk + t;
      prefetch(f.x.row(at) + first + channel);
      prefetch(f.delta.row(at) + first + channel);
      prefetch(g.d_y.row(at) + first + channel);
      prefetch_to_write(g.d_x.row(at) + first + channel);
      prefetch_to_write(g.d_delta.row(at) + first + channel);
      for (std::int64_t n = t; n < States; n += scan_chunk)
        prefetch(f.chunk_states.row((index - 1) * States + n) + first + channel);
    };
    scan_chunk_backward<States>({.rows = rows,
                                 .channels = channels,
                                 .x = read_only(x),
                                 .delta = read_only(delta),
                                 .b = {f.b.row(row), f.b.stride},
                                 .c = {f.c.row(row), f.c.stride},
                                 .a = a.data,
                                 .skip = f.skip + first,
                                 .state = state.data,
                                 .y = y,
                                 .d_y = read_only(d_y),
                                 .d_x = d_x,
                                 .d_delta = d_delta,
                                 .d_b = {d_b + row * States, States},
                                 .d_c = {d_c + row * States, States},
                                 .d_state = d_state.data,
                                 .d_a = d_a.data,
                                 .d_skip = g.d_skip + first},
                                ask_for_next);
    copy_rows(read_only(d_x), from(g.d_x), rows, channels);
    copy_rows(read_only(d_delta), from(g.d_delta), rows, channels);
  }
  copy_rows(read_only(d_state), states(g.d_state), States, channels);
  copy_rows(read_only(d_a), states(g.d_a), States, channels);
}

}  // namespace detail

/// The whole backward on the process-wide pool, parallel over slices of channels, whose sums of dB and dC are
/// added in order.
template <int States>
void selective_scan_backward(const SelectiveScanGradient& g) {
  const SelectiveScan& f = g.forward;
  check_channels(f.channels);
  const std::int64_t slice = detail::scan_gradient_slice(f.channels);
  const std::int64_t slices = (f.channels + slice - 1) / slice;
  const std::int64_t partial = f.rows * States;
  std::vector<float> sums(static_cast<std::size_t>(slices * 2 * partial));
  parallel_for(slices, [&](std::int64_t i) {
    const std::int64_t first = i * slice;
    float* d_b = sums.data() + i * 2 * partial;
    detail::scan_slice_backward<States>(g, first, std::min(slice, f.channels - first), d_b, d_b + partial);
  });
  parallel_for(scan_chunks(f.rows), [&](std::int64_t chunk) {
    for (std::int64_t t = chunk * scan_chunk; t < std::min((chunk + 1) * scan_chunk, f.rows); ++t)
      for (int n = 0; n < States; ++n) {
        float d_b = 0, d_c = 0;
        for (std::int64_t i = 0; i < slices; ++i) {
          d_b += sums[static_cast<std::size_t>(i * 2 * partial + t * States + n)];
          d_c += sums[static_cast<std::size_t>((i * 2 + 1) * partial + t * States + n)];
        }
        g.d_b.row(t)[n] = d_b;
        g.d_c.row(t)[n] = d_c;
      }
  });
}

}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_SELECTIVE_SCAN_BACKWARD_HPP
