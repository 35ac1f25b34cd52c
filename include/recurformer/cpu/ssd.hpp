#ifndef RECURFORMER_CPU_SSD_HPP
#define RECURFORMER_CPU_SSD_HPP

// State space duality (Mamba-2, arXiv 2405.21060, §6): a linear recurrence with one decay per state,
//
//   s_t = e^{Δ_t a} s_{t-1} + Δ_t k'_t v_tᵀ,   y_t = q'_tᵀ s_t + D ∘ v_t,   k' = [k, 1],  q' = [c1 q, c0],
//
// or k' = k and q' = q for states without a constant key (SsdForm),
// computed in chunks of Q tokens by matrix products. With A_i = Σ_{t<=i} Δ_t a inside the chunk, s the state
// before it and L_ij = e^{A_i - A_j} for j <= i, else 0:
//
//   M = (c1 q kᵀ + c0) ∘ L                          (Q, Q)   scores, per query head
//   y = e^{A} ∘ (c1 q s + c0 r) + M (Δ v) + D ∘ v    (Q, P)   r is the last row of the state
//   s ← e^{A_Q} s + k'ᵀ (e^{A_Q - A} Δ v)            (N + 1, P)
//
// One state serves `heads` query heads, which share k, v, Δ and L. Everything is float. A_i is
// kept as a sum of two floats, because differences of cumulative sums lose what the sum's size takes away,
// and is masked before the exponential: A_i - A_j > 0 for j > i would overflow.
//
// Flow: parallel over states, each in order of its chunks. With fewer states than threads the chunks of one
// sequence are worked on together: first what every chunk adds to the state, then the carry from chunk to
// chunk, then the outputs. Both ways compute the same bits.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "recurformer/core/parallel.hpp"
#include "recurformer/cpu/aligned_buffer.hpp"
#include "recurformer/cpu/ssd_chunk.hpp"
#include "recurformer/cpu/ssd_step.hpp"

namespace rf::cpu {

inline namespace RECURFORMER_ISA {
namespace detail {

/// next += decay · state, the carry between chunks that were worked on together.
inline void ssd_carry(float decay, const float* state, float* next, std::int64_t size) {
  simd::for_lanes(size, [&](std::int64_t i, auto n) {
    simd::store_n(next + i, decay * simd::load_n(state + i, n) + simd::load_n(next + i, n), n);
  });
}

/// Stores the state before chunk `index` where backward finds it.
inline void ssd_keep_state(const SsdSequence& s, std::int64_t index, const float* state, std::int64_t size) {
  if (s.chunk_states == nullptr) return;
  if (state != nullptr)
    std::copy_n(state, size, s.chunk_states + index * size);
  else
    std::fill_n(s.chunk_states + index * size, size, 0.0f);
}

/// One state, its chunks in order.
template <SsdForm Form>
void ssd_in_order(std::int64_t i, const SsdSequence& s, SsdHook prepare, SsdHook finish) {
  constexpr int Q = SsdChunk<Form>::Q;
  constexpr std::int64_t size = Form.size();
  struct Scratch {
    SsdChunk<Form> chunk;
    alignas(64) float state[static_cast<std::size_t>(size)];
  };
  auto& [chunk, own_state] = ssd_scratch<Scratch>();
  const std::int64_t chunks = ssd_chunks(Form.values, s.rows);
  const float* state = s.initial_state;
  for (std::int64_t c = 0; c < chunks; ++c) {
    prepare(i, c * Q, std::min<std::int64_t>(Q, s.rows - c * Q));
    ssd_load_chunk(s, c, chunk);
    ssd_relative_decays(chunk);
    ssd_chunk_output(s, c, state, chunk);
    ssd_keep_state(s, c, state, size);
    if (c + 1 < chunks || s.final_state != nullptr) {
      float* next = c + 1 < chunks ? own_state : s.final_state;
      ssd_chunk_state(chunk, state, next);
      state = next;
    }
    finish(i, c * Q, chunk.rows);
  }
}

/// One state, its chunks in parallel, a block of them at a time to bound the memory of their states.
template <SsdForm Form>
void ssd_together(std::int64_t i, const SsdSequence& s, SsdHook prepare, SsdHook finish) {
  constexpr int Q = SsdChunk<Form>::Q, P = Form.values;
  const std::int64_t size = Form.size(), chunks = ssd_chunks(P, s.rows);
  const std::int64_t block = std::min<std::int64_t>(chunks, 4 * default_pool().threads());
  AlignedBuffer<float> states(
      static_cast<std::size_t>((block + 1) * size));  // before every chunk of the block
  AlignedBuffer<float> decays(static_cast<std::size_t>(block));
  float* const before = states.data();
  if (s.initial_state != nullptr) std::copy_n(s.initial_state, size, before);
  for (std::int64_t first = 0; first < chunks; first += block) {
    const std::int64_t count = std::min(block, chunks - first);
    const bool from_zero = first == 0 && s.initial_state == nullptr;
    parallel_for(count, [&](std::int64_t c) {
      auto& chunk = ssd_scratch<SsdChunk<Form>>();
      prepare(i, (first + c) * Q, std::min<std::int64_t>(Q, s.rows - (first + c) * Q));
      ssd_load_chunk(s, first + c, chunk);
      ssd_chunk_state(chunk, nullptr, before + (c + 1) * size);
      decays.data()[c] = chunk.decay;
    });
    parallel_for(Form.rows(), [&](std::int64_t row) {
      for (std::int64_t c = from_zero ? 1 : 0; c < count; ++c)
        ssd_carry(decays.data()[c], before + c * size + row * P, before + (c + 1) * size + row * P, P);
    });
    parallel_for(count, [&](std::int64_t c) {
      auto& chunk = ssd_scratch<SsdChunk<Form>>();
      const float* state = from_zero && c == 0 ? nullptr : before + c * size;
      ssd_load_chunk(s, first + c, chunk);
      ssd_relative_decays(chunk);
      ssd_chunk_output(s, first + c, state, chunk);
      ssd_keep_state(s, first + c, state, size);
      finish(i, (first + c) * Q, chunk.rows);
    });
    std::copy_n(before + count * size, size, before);
  }
  if (s.final_state != nullptr) std::copy_n(before, size, s.final_state);
}

}  // namespace detail

/// All sequences of a batch; a sequence with rows 0 is left alone, its final state included. Before the
/// kernel reads rows [first, first + count) of sequence i it calls prepare(i, first, count), and after having
/// written their y, finish(i, first, count); they may change those rows.
template <SsdForm Form>
void ssd_forward(std::span<const SsdSequence> sequences, SsdHook prepare = {}, SsdHook finish = {}) {
  const auto count = static_cast<std::int64_t>(sequences.size());
  const bool enough_states = count >= default_pool().threads();
  const auto alone = [&](const SsdSequence& s) {
    return enough_states || ssd_chunks(Form.values, s.rows) <= 1;
  };
  parallel_for(count, [&](std::int64_t i) {
    const SsdSequence& s = sequences[static_cast<std::size_t>(i)];
    if (s.rows == 0 || !alone(s)) return;
    if (s.rows <= detail::ssd_step_rows)
      detail::ssd_steps<Form>(i, s, prepare, finish);
    else
      detail::ssd_in_order<Form>(i, s, prepare, finish);
  });
  for (std::int64_t i = 0; i < count; ++i)
    if (const SsdSequence& s = sequences[static_cast<std::size_t>(i)]; !alone(s))
      detail::ssd_together<Form>(i, s, prepare, finish);
}

}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_SSD_HPP
