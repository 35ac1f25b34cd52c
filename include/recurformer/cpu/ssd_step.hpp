#ifndef RECURFORMER_CPU_SSD_STEP_HPP
#define RECURFORMER_CPU_SSD_STEP_HPP

// The SSD recurrence token by token, for decoding: one pass over the state updates it and computes what all
// heads read from it. The state's bytes bound the time; ssd.hpp has the equations.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "recurformer/cpu/ssd_chunk.hpp"
#include "recurformer/tile/simd.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {
namespace detail {

/// Up to so many new tokens the recurrence is cheaper than a chunk padded to chunk_row_block rows.
inline constexpr std::int64_t ssd_step_rows = 6;

/// Vectors of the state's row that a step works on at once: the largest divisor of a row with one accumulator
/// per head and the new value's vector in registers.
constexpr int ssd_step_vectors(int vectors, int heads) {
  const int most = (simd::width == 16 ? 24 : 10) / (heads + 1);
  for (int v = most; v > 1; --v)
    if (vectors % v == 0) return v;
  return 1;
}

/// Token t for heads [head, head + Heads). Update: the state takes up the token first.
template <SsdForm Form, int Heads, bool Update>
void ssd_step_heads(const SsdSequence& s, std::int64_t t, int head, float decay, float* state) {
  using simd::Vec, simd::width;
  constexpr int N = Form.keys, P = Form.values, V = ssd_step_vectors(P / width, Heads);
  const float step = s.step[t * s.stride];
  const float* q = s.q + t * s.stride + head * N;
  const float* k = s.k + t * s.stride;
  for (int column = 0; column < P; column += V * width) {
    Vec value[V], sum[Heads][V];
#pragma GCC unroll 16
    for (int j = 0; j < V; ++j) {
      value[j] = step * simd::load(s.v + t * s.stride + column + j * width);
#pragma GCC unroll 4
      for (int h = 0; h < Heads; ++h) sum[h][j] = simd::zero();
    }
    for (int row = 0; row < N; ++row) {
      float* at = state + row * P + column;
#pragma GCC unroll 16
      for (int j = 0; j < V; ++j) {
        Vec x = simd::load(at + j * width);
        if constexpr (Update) {
          x = decay * x + k[row] * value[j];
          simd::store(at + j * width, x);
        }
#pragma GCC unroll 4
        for (int h = 0; h < Heads; ++h) sum[h][j] += q[h * N + row] * x;
      }
    }
    for (int j = 0; j < V; ++j) {
      const int c = column + j * width;
      if constexpr (Form.constant_key) {
        Vec constant = simd::load(state + N * P + c);
        if constexpr (Update) {
          constant = decay * constant + value[j];
          simd::store(state + N * P + c, constant);
        }
        for (int h = 0; h < Heads; ++h) sum[h][j] = s.c1[head + h] * sum[h][j] + s.c0[head + h] * constant;
      }
      const Vec v = simd::load(s.v + t * s.stride + c);
      for (int h = 0; h < Heads; ++h) {
        const Vec skip = simd::load(s.skip + (head + h) * P + c);
        simd::store(s.y + t * s.y_stride + (head + h) * P + c, sum[h][j] + skip * v);
      }
    }
  }
}

/// Token t for all heads; the first heads update the state.
template <SsdForm Form>
void ssd_step(const SsdSequence& s, std::int64_t t, float* state) {
  const float decay =
      static_cast<float>(std::exp(static_cast<double>(s.step[t * s.stride]) * static_cast<double>(s.rate)));
  const int first = s.heads >= 4 ? 4 : s.heads >= 2 ? 2 : 1;
  if (first == 4)
    ssd_step_heads<Form, 4, true>(s, t, 0, decay, state);
  else if (first == 2)
    ssd_step_heads<Form, 2, true>(s, t, 0, decay, state);
  else
    ssd_step_heads<Form, 1, true>(s, t, 0, decay, state);
  int head = first;
  for (; head + 4 <= s.heads; head += 4) ssd_step_heads<Form, 4, false>(s, t, head, decay, state);
  for (; head < s.heads; ++head) ssd_step_heads<Form, 1, false>(s, t, head, decay, state);
}

/// All tokens of a sequence, one after the other.
template <SsdForm Form>
void ssd_steps(std::int64_t i, const SsdSequence& s, SsdHook prepare, SsdHook finish) {
  constexpr std::int64_t size = Form.size();
  struct State {
    alignas(64) float values[static_cast<std::size_t>(size)];
  };
  float* state = s.final_state != nullptr ? s.final_state : ssd_scratch<State>().values;
  if (s.initial_state == nullptr)
    std::fill_n(state, size, 0.0f);
  else if (s.initial_state != state)
    std::copy_n(s.initial_state, size, state);
  if (s.chunk_states != nullptr) std::copy_n(state, size, s.chunk_states);
  prepare(i, 0, s.rows);
  for (std::int64_t t = 0; t < s.rows; ++t) ssd_step<Form>(s, t, state);
  finish(i, 0, s.rows);
}

}  // namespace detail
}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_SSD_STEP_HPP
