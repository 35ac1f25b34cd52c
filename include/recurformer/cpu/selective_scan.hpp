#ifndef RECURFORMER_CPU_SELECTIVE_SCAN_HPP
#define RECURFORMER_CPU_SELECTIVE_SCAN_HPP

// The selective scan of Mamba (arXiv 2312.00752, algorithm 2) on the CPU. For every channel c and state n
//
//   s[n][c] ← exp(Δ_t[c] · A[n][c]) · s[n][c] + Δ_t[c] · x_t[c] · B_t[n]
//   y_t[c]  = Σ_n s[n][c] · C_t[n] + D[c] · x_t[c]
//
// Vectors run over channels, time runs inside, and the states of one vector of channels stay in registers:
// 16 of them with AVX-512. The exponential dominates, so it is reduced to what a decay can be, 2^x for
// x <= 0. Everything is float.

#include <algorithm>
#include <cstdint>

#include "recurformer/core/error.hpp"
#include "recurformer/core/parallel.hpp"
#include "recurformer/cpu/mixer_kernel.hpp"
#include "recurformer/cpu/prefetch.hpp"
#include "recurformer/cpu/scratch.hpp"
#include "recurformer/tile/simd.hpp"

namespace rf::cpu {

/// Tokens between two states that a scan saves for its backward.
inline constexpr std::int64_t scan_chunk = 16;

/// Channels come in multiples of this, the widest vector.
inline constexpr std::int64_t scan_channel_multiple = 16;

/// Chunks, hence saved states, of a sequence.
constexpr std::int64_t scan_chunks(std::int64_t rows) { return (rows + scan_chunk - 1) / scan_chunk; }

/// One scan over `rows` tokens of one sequence.
struct SelectiveScan {
  std::int64_t rows = 0;
  std::int64_t channels = 0;    ///< a multiple of scan_channel_multiple
  RowsView<const float> x;      ///< (rows, channels)
  RowsView<const float> delta;  ///< (rows, channels), >= 0
  RowsView<const float> b;      ///< (rows, d_state)
  RowsView<const float> c;      ///< (rows, d_state)
  const float* a = nullptr;     ///< (d_state, channels), < 0
  const float* skip = nullptr;  ///< (channels), D
  RowsView<float> y;            ///< (rows, channels), written
  float* state = nullptr;       ///< (d_state, channels): before the first token, then after the last
  /// (scan_chunks(rows) · d_state, channels): the states before each chunk, written unless data is null
  RowsView<float> chunk_states = {};
};

inline namespace RECURFORMER_ISA {

inline constexpr float log2_e = 1.44269504088896341f;

/// 2^x for x <= 0; relative error <= 2e-7, exactly 1 at 0, slope at 0 right to 3e-7 (a slow decay must not
/// drift), 0 below -127. NaN stays NaN.
RECURFORMER_INLINE simd::Vec exp2_decay(simd::Vec x) {
  x = simd::max(simd::broadcast(-127.0f), x);  // in this order NaN passes
  const simd::Vec shifted = x + 12582912.0f;   // 1.5 · 2^23 puts the nearest integer into the low bits
  const simd::Vec f = x - (shifted - 12582912.0f);
  simd::Vec y = simd::broadcast(1.3264748267829418e-3f);
  y = y * f + 9.671512059867382e-3f;
  y = y * f + 5.550733581185341e-2f;
  y = y * f + 2.4022242426872253e-1f;
  y = y * f + 6.931470036506653e-1f;
  y = y * f + 1.0f;
  const simd::UintVec exponent = simd::detail::bits_as<simd::UintVec>(shifted) << 23;
  return simd::detail::bits_as<simd::Vec>(simd::detail::bits_as<simd::UintVec>(y) + exponent);
}

namespace detail {

/// States that one pass over time holds in registers.
inline constexpr int states_per_pass = 16;

/// States [First, First + Count) of the channels [channel, channel + width), tokens [begin, end). y is
/// started with D·x by the pass of state 0 and added to by later ones. ask(t, channel) is called for each.
template <int First, int Count, class Ask>
void scan_pass(const SelectiveScan& scan, std::int64_t channel, std::int64_t begin, std::int64_t end,
               const Ask& ask) {
  simd::Vec s[Count];
  const float* a = scan.a + First * scan.channels + channel;
  float* state = scan.state + First * scan.channels + channel;
#pragma GCC unroll 16
  for (int n = 0; n < Count; ++n) s[n] = simd::load(state + n * scan.channels);
  for (std::int64_t t = begin; t < end; ++t) {
    if (First == 0) ask(t, channel);
    const simd::Vec x = simd::load(scan.x.row(t) + channel);
    const simd::Vec delta = simd::load(scan.delta.row(t) + channel);
    const simd::Vec input = delta * x;
    const simd::Vec exponent = delta * log2_e;
    const float* b = scan.b.row(t) + First;
    const float* c = scan.c.row(t) + First;
    float* y = scan.y.row(t) + channel;
    simd::Vec sum[2] = {First == 0 ? x * simd::load(scan.skip + channel) : simd::load(y), simd::zero()};
#pragma GCC unroll 16
    for (int n = 0; n < Count; ++n) {
      s[n] = exp2_decay(exponent * simd::load(a + n * scan.channels)) * s[n] + input * b[n];
      sum[n % 2] += s[n] * c[n];
    }
    simd::store(y, sum[0] + sum[1]);
  }
#pragma GCC unroll 16
  for (int n = 0; n < Count; ++n) simd::store(state + n * scan.channels, s[n]);
}

template <int First, int States, class Ask>
void scan_passes(const SelectiveScan& scan, std::int64_t channel, std::int64_t begin, std::int64_t end,
                 const Ask& ask) {
  constexpr int count = std::min(States - First, states_per_pass);
  scan_pass<First, count>(scan, channel, begin, end, ask);
  if constexpr (First + count < States) scan_passes<First + count, States>(scan, channel, begin, end, ask);
}

}  // namespace detail

/// Scans the channels [first_channel, end_channel), multiples of scan_channel_multiple, on this thread. Calls
/// ask(t, channel) once per token and vector of channels, for what is to be asked of memory meanwhile.
template <int States, class Ask = detail::AskForNothing>
void scan_channels(const SelectiveScan& scan, std::int64_t first_channel, std::int64_t end_channel,
                   const Ask& ask = {}) {
  const bool save = scan.chunk_states.data != nullptr;
  const std::int64_t step = save ? scan_chunk : scan.rows;
  for (std::int64_t channel = first_channel; channel < end_channel; channel += simd::width)
    for (std::int64_t begin = 0; begin < scan.rows; begin += step) {
      for (int n = 0; save && n < States; ++n)
        simd::store(scan.chunk_states.row(begin / scan_chunk * States + n) + channel,
                    simd::load(scan.state + n * scan.channels + channel));
      detail::scan_passes<0, States>(scan, channel, begin, std::min(begin + step, scan.rows), ask);
    }
}

/// Throws ArgumentError unless kernels can work on this many channels.
inline void check_channels(std::int64_t channels) {
  check(channels > 0 && channels % scan_channel_multiple == 0, "a selective scan has ", channels,
        " channels; allowed are multiples of ", scan_channel_multiple, ", pad with zeros");
}

namespace detail {

/// Channels and tokens that a scan works on at a time, copied together: in a wide matrix, pieces of 64 bytes
/// that are a power of two apart would evict each other from the first cache. The next such tokens are asked
/// for meanwhile, as the hardware does not follow short pieces far apart.
inline constexpr std::int64_t scan_slice_channels = 64;
inline constexpr std::int64_t scan_slice_rows = 64;

inline void copy_rows(RowsView<const float> from, RowsView<float> to, std::int64_t rows, std::int64_t count) {
  for (std::int64_t i = 0; i < rows; ++i) std::copy_n(from.row(i), count, to.row(i));
}

/// At most scan_slice_channels channels of a scan, all tokens.
template <int States>
void scan_slice(const SelectiveScan& scan, std::int64_t first, std::int64_t channels) {
  const std::int64_t rows = std::min(scan_slice_rows, scan.rows);
  Scratch scratch((2 * States + 3 * rows) * channels);
  const auto take = [&](std::int64_t count) {
    return RowsView<float>{scratch.take(count * channels), channels};
  };
  const RowsView<float> a = take(States), state = take(States);
  const RowsView<float> x = take(rows), delta = take(rows), y = take(rows);
  copy_rows({scan.a + first, scan.channels}, a, States, channels);
  copy_rows({scan.state + first, scan.channels}, state, States, channels);
  for (std::int64_t row = 0; row < scan.rows; row += rows) {
    const std::int64_t count = std::min(rows, scan.rows - row);
    copy_rows({scan.x.row(row) + first, scan.x.stride}, x, count, channels);
    copy_rows({scan.delta.row(row) + first, scan.delta.stride}, delta, count, channels);
    RowsView<float> saved = scan.chunk_states;
    if (saved.data) saved.data = saved.row(row / scan_chunk * States) + first;
    const auto ask_for_next = [&, left = scan.rows - row - rows ](std::int64_t t, std::int64_t channel)
        __attribute__((always_inline)) {
      if (t >= left) return;
      prefetch(scan.x.row(row + rows + t) + first + channel);
      prefetch(scan.delta.row(row + rows + t) + first + channel);
      prefetch_to_write(scan.y.row(row + rows + t) + first + channel);
    };
    scan_channels<States>({.rows = count,
                           .channels = channels,
                           .x = {x.data, channels},
                           .delta = {delta.data, channels},
                           .b = {scan.b.row(row), scan.b.stride},
                           .c = {scan.c.row(row), scan.c.stride},
                           .a = a.data,
                           .skip = scan.skip + first,
                           .y = y,
                           .state = state.data,
                           .chunk_states = saved},
                          0, channels, ask_for_next);
    copy_rows({y.data, channels}, {scan.y.row(row) + first, scan.y.stride}, count, channels);
  }
  copy_rows({state.data, channels}, {scan.state + first, scan.channels}, States, channels);
}

}  // namespace detail

/// The whole scan on the process-wide pool, parallel over channels.
template <int States>
void selective_scan(const SelectiveScan& scan) {
  check_channels(scan.channels);
  const std::int64_t vectors = scan.channels / scan_channel_multiple;
  const std::int64_t fewest = (scan.channels + detail::scan_slice_channels - 1) / detail::scan_slice_channels;
  const std::int64_t slices = std::max(fewest, std::min<std::int64_t>(vectors, default_pool().threads()));
  parallel_for(slices, [&](std::int64_t i) {
    const std::int64_t first = i * vectors / slices, end = (i + 1) * vectors / slices;
    detail::scan_slice<States>(scan, first * scan_channel_multiple, (end - first) * scan_channel_multiple);
  });
}

}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_SELECTIVE_SCAN_HPP
