#ifndef RECURFORMER_CPU_MAMBA_FORWARD_HPP
#define RECURFORMER_CPU_MAMBA_FORWARD_HPP

// Forward of Mamba heads (reference/mamba.hpp says what; arXiv 2312.00752). One iteration of the parallel
// loop owns one head and some sequences; it lays out the head's parameters once, then takes the tokens of
// each sequence in blocks that stay in the first caches:
//
//   window ← x;  u, (δ, B, C), Δ (mamba_block.hpp);  out ← scan (selective_scan.hpp);  out ← out ∘ gate(z)
//
// When heads and sequences do not fill the threads, an iteration owns only some of the head's channels and
// computes u and (δ, B, C) redundantly: the bits stay the same.

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "recurformer/cpu/gate.hpp"
#include "recurformer/cpu/mamba_block.hpp"
#include "recurformer/cpu/selective_scan.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {
namespace detail {

/// Where one head of one sequence lives.
template <class State>
struct MambaPlace {
  RowsView<const float> x, z;  // (rows, d_head) of the sequence
  RowsView<float> out;         // (rows, d_head)
  State* conv = nullptr;       // cached (taps - 1, d_head), or null
  State* scan = nullptr;       // cached (states, d_head), or null
  float* saved = nullptr;      // (scan_chunks(rows), states, d_head), or null
};

/// Sequences in packs, so that many short ones share what is done once per iteration. Depends on the lengths
/// only.
class SequencePacks {
 public:
  SequencePacks(std::span<const SequenceRows> sequences, std::int64_t rows_per_pack) {
    std::int64_t rows = rows_per_pack;
    for (std::size_t s = 0; s < sequences.size(); ++s) {
      if (rows >= rows_per_pack) begin_.push_back(s), rows = 0;
      rows += sequences[s].rows;
    }
    begin_.push_back(sequences.size());
  }
  std::int64_t count() const { return static_cast<std::int64_t>(begin_.size()) - 1; }
  /// First sequence of a pack and the first beyond it.
  std::pair<std::size_t, std::size_t> operator[](std::int64_t pack) const {
    const auto i = static_cast<std::size_t>(pack);
    return {begin_[i], begin_[i + 1]};
  }

 private:
  std::vector<std::size_t> begin_;
};

/// Saved states (of one head) of the sequences before `sequence`.
inline std::int64_t saved_chunks_before(std::span<const SequenceRows> sequences, std::size_t sequence) {
  std::int64_t chunks = 0;
  for (std::size_t s = 0; s < sequence; ++s) chunks += scan_chunks(sequences[s].rows);
  return chunks;
}
/// Saved states before those of one head of one sequence: (sequence, head, chunk).
inline std::int64_t saved_offset(std::span<const SequenceRows> sequences, std::size_t sequence,
                                 std::int64_t heads, std::int64_t head) {
  return saved_chunks_before(sequences, sequence) * heads + head * scan_chunks(sequences[sequence].rows);
}

template <class Mixer, class State>
class MambaForward {
 public:
  explicit MambaForward(const ForwardArguments& arguments)
      : arguments_(arguments),
        size_(arguments.shape),
        queries_(arguments.shape.queries_per_group),
        heads_(static_cast<std::int64_t>(arguments.groups.size()) * queries_),
        packs_(arguments.sequences, rows_per_pack),
        splits_(channel_splits()) {}

  void run() const {
    parallel_for(packs_.count() * heads_ * splits_,
                 [&](std::int64_t i) { pack(i / splits_ / heads_, i / splits_ % heads_, i % splits_); });
    if (splits_ == 1 || arguments_.cache.empty()) return;
    // Every split read the old tail of the convolution; only now may it change.
    parallel_for(heads_, [&](std::int64_t head) {
      for (std::size_t s = 0; s < arguments_.sequences.size(); ++s) keep_conv(place(s, head), s);
    });
  }

 private:
  /// A batch of decode steps lays out a head's parameters once for this many tokens.
  static constexpr std::int64_t rows_per_pack = 16;
  /// Shorter sequences are not worth the redundant work of splitting a head's channels.
  static constexpr std::int64_t rows_worth_splitting = 64;

  /// Channel blocks of a head: more than one where packs and heads would leave threads idle.
  std::int64_t channel_splits() const {
    std::int64_t longest = 0;
    for (const SequenceRows& s : arguments_.sequences) longest = std::max(longest, s.rows);
    const std::int64_t items = packs_.count() * heads_;
    if (longest < rows_worth_splitting || items == 0) return 1;
    return std::clamp<std::int64_t>(default_pool().threads() / items, 1,
                                    size_.d_head / scan_channel_multiple);
  }

  /// One head of a pack of sequences, channels of one split.
  void pack(std::int64_t index, std::int64_t head, std::int64_t split) const {
    const auto [begin, end] = packs_[index];
    std::int64_t longest = 0;
    for (std::size_t s = begin; s < end; ++s) longest = std::max(longest, arguments_.sequences[s].rows);
    if (longest == 0) return;
    const std::int64_t blocks = size_.d_head / scan_channel_multiple;
    const std::int64_t first = split * blocks / splits_ * scan_channel_multiple;
    const std::int64_t last = (split + 1) * blocks / splits_ * scan_channel_multiple;

    const std::int64_t rows = std::min(longest, mamba_block);
    Scratch scratch(MambaHead<Mixer>::scratch(size_) + (rows * 4 + size_.taps + size_.states) * size_.d_head +
                    rows * size_.stride);
    const MambaHead<Mixer> parameters(arguments_.shape, arguments_.local, head, scratch);
    MambaBlock block;
    block.window = scratch.take((size_.taps - 1 + rows) * size_.d_head);
    block.u = scratch.take(rows * size_.d_head);
    block.p = block.u;
    block.coefficients = scratch.take(rows * size_.stride);
    block.delta = scratch.take(rows * size_.d_head);
    block.y = scratch.take(rows * size_.d_head);
    float* state = scratch.take(size_.states * size_.d_head);
    for (std::size_t s = begin; s < end; ++s)
      if (arguments_.sequences[s].rows > 0)
        sequence(parameters, place(s, head), s, block, state, first, last);
  }

  void sequence(const MambaHead<Mixer>& head, const MambaPlace<State>& at, std::size_t s,
                const MambaBlock& block, float* state, std::int64_t first, std::int64_t last) const {
    const std::int64_t d = size_.d_head, past = (size_.taps - 1) * d;
    load_state(at.conv, past, block.window);
    load_state(at.scan, size_.states * d, state);
    const std::int64_t rows = arguments_.sequences[s].rows;
    for (std::int64_t t = 0; t < rows; t += mamba_block) {
      const std::int64_t count = std::min(mamba_block, rows - t);
      for (std::int64_t i = 0; i < count; ++i) std::copy_n(at.x.row(t + i), d, block.window + past + i * d);
      mamba_inputs(head, block, count, first, last);
      const float* coefficients = block.coefficients + size_.rank;
      // Rows of one head are short pieces far apart, which the hardware does not foresee.
      const auto ask = [&](std::int64_t i, std::int64_t channel) __attribute__((always_inline)) {
        if (i >= rows - t - mamba_block) return;
        detail::prefetch(at.x.row(t + mamba_block + i) + channel);
        detail::prefetch(at.z.row(t + mamba_block + i) + channel);
      };
      scan_channels<static_cast<int>(MambaSizes<Mixer>::states)>(
          {.rows = count,
           .channels = d,
           .x = {block.u, d},
           .delta = {block.delta, d},
           .b = {coefficients, size_.stride},
           .c = {coefficients + size_.states, size_.stride},
           .a = head.a,
           .skip = head.skip,
           .y = {block.y, d},
           .state = state,
           .chunk_states = {at.saved ? at.saved + t / scan_chunk * size_.states * d : nullptr, d}},
          first, last, ask);
      for (std::int64_t i = 0; i < count; ++i) {
        const float* z = at.z.row(t + i);
        float* out = at.out.row(t + i);
        for (std::int64_t c = first; c < last; c += simd::width)
          simd::store(out + c, simd::load(block.y + i * d + c) * gate<Mixer::policy.gate>(simd::load(z + c)));
      }
      std::copy_n(block.window + count * d, past, block.window);
    }
    if (at.scan)
      for (std::int64_t n = 0; n < size_.states; ++n)
        for (std::int64_t c = first; c < last; c += simd::width)
          simd::store(at.scan + n * d + c, simd::load(state + n * d + c));
    if (splits_ == 1) keep_conv(at, s);
  }

  MambaPlace<State> place(std::size_t s, std::int64_t head) const {
    const ForwardArguments& a = arguments_;
    const std::int64_t d = size_.d_head, group = head / queries_, query = head % queries_;
    const SequenceRows& rows = a.sequences[s];
    const float* x = a.projected.row(rows.first_row) + (group * 2 * queries_ + query) * d;
    MambaPlace<State> at;
    at.x = {x, a.projected.stride};
    at.z = {x + queries_ * d, a.projected.stride};
    at.out = {a.out.row(rows.first_row) + (a.groups[static_cast<std::size_t>(group)] * queries_ + query) * d,
              a.out.stride};
    if (!a.cache.empty()) {
      at.conv = static_cast<State*>(a.cache.field(s, 0).data) + head * (size_.taps - 1) * d;
      at.scan = static_cast<State*>(a.cache.field(s, 1).data) + head * size_.states * d;
    }
    if (a.saved) at.saved = a.saved + saved_offset(a.sequences, s, heads_, head) * size_.states * d;
    return at;
  }

  /// Moves the cached tail of the convolution's inputs past the new tokens.
  void keep_conv(const MambaPlace<State>& at, std::size_t s) const {
    if (!at.conv) return;
    const std::int64_t d = size_.d_head, past = size_.taps - 1, rows = arguments_.sequences[s].rows;
    for (std::int64_t j = 0; j < past; ++j) {
      const std::int64_t from = rows - past + j;  // ascending j: a row is read before it is overwritten
      for (std::int64_t c = 0; c < d; c += simd::width)
        simd::store(at.conv + j * d + c,
                    from >= 0 ? simd::load(at.x.row(from) + c) : simd::load(at.conv + (j + rows) * d + c));
    }
  }

  static void load_state(const State* from, std::int64_t count, float* to) {
    for (std::int64_t i = 0; i < count; i += simd::width)
      simd::store(to + i, from ? simd::load(from + i) : simd::zero());
  }

  const ForwardArguments& arguments_;
  MambaSizes<Mixer> size_;
  std::int64_t queries_, heads_;
  SequencePacks packs_;
  std::int64_t splits_;
};

}  // namespace detail
}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_MAMBA_FORWARD_HPP
