#ifndef RECURFORMER_CPU_MAMBA2_FORWARD_HPP
#define RECURFORMER_CPU_MAMBA2_FORWARD_HPP

// Mamba2's forward on the CPU: rotary positions and softplus before the SSD recurrence of cpu/ssd.hpp, output
// norm and gate after it, a chunk at a time while it is in the cache (spec/mamba2.hpp has the equations).
//
// It leaves in `projected` the rotated q and k, and Δ in place of its pre-activation. For backward it saves,
// sequence after sequence and group after group, the states before every chunk and y before norm and gate.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "recurformer/cpu/aligned_buffer.hpp"
#include "recurformer/cpu/mamba2_layout.hpp"
#include "recurformer/cpu/rope.hpp"
#include "recurformer/cpu/ssd.hpp"
#include "recurformer/tile/simd.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {
namespace detail {

/// Replaces `rows` pre-activations, `stride` floats apart, by step sizes.
inline void mamba2_steps(float* step, std::int64_t stride, std::int64_t rows, float bias) {
  for (std::int64_t i = 0; i < rows; i += simd::width) {
    const auto count = static_cast<int>(std::min<std::int64_t>(simd::width, rows - i));
    simd::Vec x = simd::zero();
    for (int j = 0; j < count; ++j) x[j] = step[(i + j) * stride];
    x = simd::softplus(x + bias);
    for (int j = 0; j < count; ++j) step[(i + j) * stride] = x[j];
  }
}

/// The gate's value.
template <Gate gate>
RECURFORMER_INLINE simd::Vec mamba2_gate(simd::Vec z) {
  if constexpr (gate == Gate::silu)
    return simd::silu(z);
  else
    return 2.0f * simd::sigmoid(z);
}

/// out = norm(y) ∘ gate(z) of one head; out may be y.
template <SsdPolicy Policy, int P>
RECURFORMER_INLINE void mamba2_finish_head(const float* y, const float* z, const float* gain, float* out) {
  float scale = 1.0f;
  if constexpr (Policy.norm) scale = mamba2_inverse_rms<P>(y);
  for (int c = 0; c < P; c += simd::width) {
    simd::Vec value = simd::load(y + c);
    if constexpr (Policy.norm) value *= scale * simd::load(gain + c);
    simd::store(out + c, value * mamba2_gate<Policy.gate>(simd::load(z + c)));
  }
}

/// A state as floats: the cache itself where it stores floats, otherwise a copy that write() puts back.
template <class T>
class Mamba2States {
 public:
  Mamba2States(const CacheView& cache, std::span<const Mamba2Item> items, std::int64_t size)
      : cache_(cache), items_(items), size_(size) {
    if (cache.empty() || std::is_same_v<T, float>) return;
    copies_.reserve(items.size() * static_cast<std::size_t>(size));
    for (std::size_t i = 0; i < items.size(); ++i)
      for (std::int64_t j = 0; j < size; ++j) copy(i)[j] = convert<float>(stored(i)[j]);
  }
  /// Null without a cache.
  float* state(std::size_t item) {
    if (cache_.empty()) return nullptr;
    if constexpr (std::is_same_v<T, float>)
      return stored(item);
    else
      return copy(item);
  }
  void write() {
    if (cache_.empty() || std::is_same_v<T, float>) return;
    for (std::size_t i = 0; i < items_.size(); ++i)
      for (std::int64_t j = 0; j < size_; ++j) stored(i)[j] = convert<T>(copy(i)[j]);
  }

 private:
  T* stored(std::size_t item) const {
    return static_cast<T*>(cache_.field(items_[item].sequence, 0).data) + items_[item].group * size_;
  }
  float* copy(std::size_t item) { return copies_.data() + static_cast<std::int64_t>(item) * size_; }

  CacheView cache_;
  std::span<const Mamba2Item> items_;
  std::int64_t size_;
  AlignedBuffer<float> copies_;
};

template <SsdPolicy Policy, class State, int P>
void mamba2_forward(const ForwardArguments& a) {
  const Mamba2Columns columns(a.shape);
  const int queries = a.shape.queries_per_group;
  const auto items = mamba2_items(a.sequences, a.groups.size());
  const auto saved = mamba2_saved(a.shape, a.sequences, items);
  Mamba2States<State> states(a.cache, items, ssd_state_size(P));
  const auto out = [&](std::size_t item) {
    return a.out.row(a.sequences[items[item].sequence].first_row) +
           a.groups[static_cast<std::size_t>(items[item].group)] * a.shape.group_width();
  };
  std::vector<SsdSequence> work;
  work.reserve(items.size());
  for (std::size_t i = 0; i < items.size(); ++i) {
    SsdSequence s =
        mamba2_sequence(a.shape, a.sequences[items[i].sequence], items[i].group, a.projected, a.local);
    s.initial_state = s.final_state = states.state(i);
    s.y = a.saved != nullptr ? a.saved + saved[i].y : out(i);
    s.y_stride = a.saved != nullptr ? a.shape.group_width() : a.out.stride;
    s.chunk_states = a.saved != nullptr ? a.saved + saved[i].states : nullptr;
    work.push_back(s);
  }
  const auto prepare = [&](std::int64_t index, std::int64_t first, std::int64_t count) {
    const Mamba2Item& item = items[static_cast<std::size_t>(index)];
    const SequenceRows& rows = a.sequences[item.sequence];
    float* row = a.projected.row(rows.first_row + first) + item.group * columns.width;
    mamba2_steps(row + columns.step, a.projected.stride, count, a.local[Mamba2Local::dt_bias][item.group]);
    if constexpr (Policy.rope)
      for (std::int64_t t = 0; t < count; ++t)
        rope_rotate(*a.rope, rows.position + first + t, row + t * a.projected.stride,
                    queries + 1);  // q and k
  };
  const auto finish = [&](std::int64_t index, std::int64_t first, std::int64_t count) {
    const auto i = static_cast<std::size_t>(index);
    const SsdSequence& s = work[i];
    const std::int64_t head = items[i].group * queries;
    for (std::int64_t t = first; t < first + count; ++t)
      for (int h = 0; h < queries; ++h)
        mamba2_finish_head<Policy, P>(
            s.y + t * s.y_stride + h * P, s.q + t * s.stride + columns.z + h * P,
            Policy.norm ? a.local[Mamba2Local::norm_gain] + (head + h) * P : nullptr,
            out(i) + t * a.out.stride + h * P);
  };
  ssd_forward<P>(work, prepare, finish);
  states.write();
}

}  // namespace detail
}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_MAMBA2_FORWARD_HPP
