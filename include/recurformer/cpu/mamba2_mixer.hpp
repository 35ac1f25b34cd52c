#ifndef RECURFORMER_CPU_MAMBA2_MIXER_HPP
#define RECURFORMER_CPU_MAMBA2_MIXER_HPP

// Mamba2's kernels on the CPU: rotary positions and softplus before the SSD recurrence of cpu/ssd.hpp, output
// norm and gate after it, a chunk at a time while it is in the cache (spec/mamba2.hpp has the equations).
//
// Forward leaves in `projected` the rotated q and k, and Δ in place of its pre-activation, which is all that
// backward needs of it: d softplus(x)/dx = 1 - e^{-softplus(x)}. For backward it saves, sequence after
// sequence and group after group, the states before every chunk and y before norm and gate.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "recurformer/cpu/mixer_kernel.hpp"
#include "recurformer/cpu/rope.hpp"
#include "recurformer/cpu/ssd.hpp"
#include "recurformer/spec/mamba2.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {
namespace detail {

/// Where the projected columns of one group start.
struct Mamba2Columns {
  std::int64_t k, v, z, step, width;

  explicit Mamba2Columns(const HeadShape& shape)
      : k(shape.group_width()),
        v(k + shape.d_head),
        z(v + shape.d_head),
        step(z + shape.group_width()),
        width(step + 1) {}
};

/// Positions of Mamba2's local parameters among those declared.
struct Mamba2Local {
  enum : std::size_t { dt_bias, a_log, c0, c1, skip, norm_gain };
};

/// One group of one sequence.
struct Mamba2Item {
  std::size_t sequence;
  std::int64_t group;  // of the run
};
/// Sequences vary slowest.
inline std::vector<Mamba2Item> mamba2_items(std::span<const SequenceRows> sequences, std::size_t groups) {
  std::vector<Mamba2Item> items;
  items.reserve(sequences.size() * groups);
  for (std::size_t s = 0; s < sequences.size(); ++s)
    for (std::size_t g = 0; g < groups; ++g) items.push_back({s, static_cast<std::int64_t>(g)});
  return items;
}

/// Where an item's share of `saved` lies.
struct Mamba2Saved {
  std::int64_t states = 0;  // (chunks, state)
  std::int64_t y = 0;       // (rows, group_width)
};
inline std::int64_t mamba2_saved_floats(const HeadShape& shape, std::int64_t rows) {
  return ssd_chunks(shape.d_head, rows) * ssd_state_size(shape.d_head) + rows * shape.group_width();
}
inline std::vector<Mamba2Saved> mamba2_saved(const HeadShape& shape, std::span<const SequenceRows> sequences,
                                             std::span<const Mamba2Item> items) {
  std::vector<Mamba2Saved> saved;
  saved.reserve(items.size());
  std::int64_t at = 0;
  for (const Mamba2Item& item : items) {
    const std::int64_t rows = sequences[item.sequence].rows;
    saved.push_back({at, at + ssd_chunks(shape.d_head, rows) * ssd_state_size(shape.d_head)});
    at += mamba2_saved_floats(shape, rows);
  }
  return saved;
}

/// Turns q of all heads and k of one row to their position, or back; they are neighbours among the columns.
template <bool Back>
inline void mamba2_rotate(const RopeTable& table, std::int64_t position, const HeadShape& shape, float* row) {
  for (int h = 0; h <= shape.queries_per_group; ++h)
    if constexpr (Back)
      rope_rotate_back(table, position, row + h * shape.d_head);
    else
      rope_rotate(table, position, row + h * shape.d_head);
}

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

/// 1 / √(mean(y²) + ε) of one head's output.
template <int P>
RECURFORMER_INLINE float mamba2_inverse_rms(const float* y) {
  simd::Vec sum = simd::zero();
  for (int c = 0; c < P; c += simd::width) sum += simd::load(y + c) * simd::load(y + c);
  return 1.0f /
         std::sqrt(simd::reduce_add(sum) / static_cast<float>(P) + static_cast<float>(ssd_norm_epsilon));
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

/// What forward and backward tell the recurrence alike; Projected is float or const float.
template <class Projected>
SsdSequence mamba2_sequence(const HeadShape& shape, const SequenceRows& rows, std::int64_t group,
                            const RowsView<Projected>& projected, std::span<const float* const> local) {
  const Mamba2Columns columns(shape);
  const float* first = projected.row(rows.first_row) + group * columns.width;
  const std::int64_t head = group * shape.queries_per_group;
  return {.rows = rows.rows,
          .heads = shape.queries_per_group,
          .q = first,
          .k = first + columns.k,
          .v = first + columns.v,
          .step = first + columns.step,
          .stride = projected.stride,
          .rate = -std::exp(local[Mamba2Local::a_log][group]),
          .c0 = local[Mamba2Local::c0] + head,
          .c1 = local[Mamba2Local::c1] + head,
          .skip = local[Mamba2Local::skip] + head * shape.d_head};
}

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
        mamba2_rotate<false>(*a.rope, rows.position + first + t, a.shape, row + t * a.projected.stride);
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

template <SsdPolicy Policy>
struct MixerKernel<Mamba2<Policy>> {
  template <class Precision, class Widths>
  static void forward(const Mamba2<Policy>&, const ForwardArguments& arguments) {
    with_d_head(Widths{}, arguments.shape.d_head, [&](auto d_head) {
      detail::mamba2_forward<Policy, typename Precision::State, d_head.value>(arguments);
    });
  }

  static std::int64_t saved_size(const Mamba2<Policy>&, const HeadShape& shape, std::int64_t groups,
                                 std::span<const SequenceRows> sequences) {
    std::int64_t floats = 0;
    for (const SequenceRows& rows : sequences)
      floats += groups * detail::mamba2_saved_floats(shape, rows.rows);
    return floats;
  }
};

}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_MAMBA2_MIXER_HPP
