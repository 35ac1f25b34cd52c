#ifndef RECURFORMER_CPU_MAMBA2_FORWARD_HPP
#define RECURFORMER_CPU_MAMBA2_FORWARD_HPP

// Mamba2's forward on the CPU: rotary positions and softplus before the SSD recurrence of cpu/ssd.hpp, output
// norm and gate after it, a chunk at a time while it is in the cache (spec/mamba2.hpp has the equations).
//
// It leaves in `projected` the rotated q and k, and Δ in place of its pre-activation. For backward it saves,
// sequence after sequence and group after group, the states before every chunk and y before norm and gate.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "recurformer/cpu/gate.hpp"
#include "recurformer/cpu/mamba2_layout.hpp"
#include "recurformer/cpu/rope.hpp"
#include "recurformer/cpu/ssd.hpp"
#include "recurformer/tile/simd.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {
namespace detail {

/// out = norm(y) ∘ gate(z) of one head; out may be y.
template <SsdPolicy Policy, int P>
RECURFORMER_INLINE void mamba2_finish_head(const float* y, const float* z, const float* gain, float* out) {
  float scale = 1.0f;
  if constexpr (Policy.norm) scale = mamba2_inverse_rms<P>(y);
  for (int c = 0; c < P; c += simd::width) {
    simd::Vec value = simd::load(y + c);
    if constexpr (Policy.norm) value *= scale * simd::load(gain + c);
    simd::store(out + c, value * gate<Policy.gate>(simd::load(z + c)));
  }
}

template <SsdPolicy Policy, class State, int P>
void mamba2_forward(const ForwardArguments& a) {
  const Mamba2Columns columns(a.shape);
  const int queries = a.shape.queries_per_group;
  const auto items = ssd_items(a.sequences, static_cast<std::int64_t>(a.groups.size()));
  const auto saved = mamba2_saved(a.shape, a.sequences, items);
  SsdStates<State> states(a.cache, 0, items, mamba2_form(P).size());
  const auto out = [&](std::size_t item) {
    return a.out.row(a.sequences[items[item].sequence].first_row) +
           a.groups[static_cast<std::size_t>(items[item].state)] * a.shape.group_width();
  };
  std::vector<SsdSequence> work;
  work.reserve(items.size());
  for (std::size_t i = 0; i < items.size(); ++i) {
    SsdSequence s =
        mamba2_sequence(a.shape, a.sequences[items[i].sequence], items[i].state, a.projected, a.local);
    s.initial_state = s.final_state = states.state(i);
    s.y = a.saved != nullptr ? a.saved + saved[i].y : out(i);
    s.y_stride = a.saved != nullptr ? a.shape.group_width() : a.out.stride;
    s.chunk_states = a.saved != nullptr ? a.saved + saved[i].states : nullptr;
    work.push_back(s);
  }
  const auto prepare = [&](std::int64_t index, std::int64_t first, std::int64_t count) {
    const SsdItem& item = items[static_cast<std::size_t>(index)];
    const SequenceRows& rows = a.sequences[item.sequence];
    float* row = a.projected.row(rows.first_row + first) + item.state * columns.width;
    float* step = row + columns.step;
    ssd_step_sizes({step, a.projected.stride}, count, a.local[Mamba2Local::dt_bias][item.state], {},
                   {step, a.projected.stride});
    if constexpr (Policy.rope)
      for (std::int64_t t = 0; t < count; ++t)
        rope_rotate(*a.rope, rows.position + first + t, row + t * a.projected.stride,
                    queries + 1);  // q and k
  };
  const auto finish = [&](std::int64_t index, std::int64_t first, std::int64_t count) {
    const auto i = static_cast<std::size_t>(index);
    const SsdSequence& s = work[i];
    const std::int64_t head = items[i].state * queries;
    for (std::int64_t t = first; t < first + count; ++t)
      for (int h = 0; h < queries; ++h)
        mamba2_finish_head<Policy, P>(
            s.y + t * s.y_stride + h * P, s.q + t * s.stride + columns.z + h * P,
            Policy.norm ? a.local[Mamba2Local::norm_gain] + (head + h) * P : nullptr,
            out(i) + t * a.out.stride + h * P);
  };
  ssd_forward<mamba2_form(P)>(work, prepare, finish);
  states.write();
}

}  // namespace detail
}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_MAMBA2_FORWARD_HPP
