#ifndef RECURFORMER_CPU_ATTENTION_MIXER_HPP
#define RECURFORMER_CPU_ATTENTION_MIXER_HPP

// Attention and StreamingAttention as mixers. Columns of one group in `projected`:
// q (queries · d_head) | k (d_head) | v (d_head), all float.
//
//   forward   1. q and k go through the layer's norms, where it has them, and turn to their positions, in
//                place; with a cache, k and v are rounded to Precision::Cache, into pages (Attention) or
//                scratch (StreamingAttention); 8-bit integers have a scale for every row
//             2. attention over past and new keys: tiles of queries, or decode where there are few
//             3. StreamingAttention: the new rows enter the ring
//   saved     log-sum-exp, (groups, rows, queries per group); with norms, then q and k as projected,
//             (groups, rows, queries per group + 1, d_head)
//   backward  from q, k, v as forward left them, out and the log-sum-exp
//
// Without a cache (training, analysis) keys and values are read as the floats they were projected to, also
// where Precision::Cache is narrower.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "recurformer/core/parallel.hpp"
#include "recurformer/core/precision.hpp"
#include "recurformer/cpu/attention.hpp"
#include "recurformer/cpu/attention_backward.hpp"
#include "recurformer/cpu/attention_cache.hpp"
#include "recurformer/cpu/mixer_kernel.hpp"
#include "recurformer/cpu/rms_norm.hpp"
#include "recurformer/cpu/rope.hpp"
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/streaming_attention.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {

/// Rows of the packed batch.
inline std::int64_t packed_rows(std::span<const SequenceRows> sequences) {
  std::int64_t rows = 0;
  for (const SequenceRows& sequence : sequences) rows = std::max(rows, sequence.first_row + sequence.rows);
  return rows;
}

/// Forward of one run, for both mixers.
template <int D, class Cache>
class AttentionForward {
 public:
  AttentionForward(const ForwardArguments& arguments, const AttentionMask& mask, bool ring)
      : a_(arguments),
        mask_(mask),
        ring_(ring),
        heads_(arguments.shape.queries_per_group),
        rows_(packed_rows(arguments.sequences)) {}

  void run() {
    if (ring_ && !a_.cache.empty()) {
      const auto rows = static_cast<std::size_t>(2 * group_count() * rows_);
      scratch_ = std::make_unique_for_overwrite<Cache[]>(rows * D);
      if constexpr (has_scales<Cache>) scratch_scales_ = std::make_unique_for_overwrite<float[]>(rows);
    }
    rotate_and_store();
    if (a_.cache.empty()) {
      attend<float>();
    } else {
      attend<Cache>();
      if (ring_) fill_rings();
    }
  }

 private:
  std::int64_t group_count() const { return static_cast<std::int64_t>(a_.groups.size()); }
  std::int64_t group_columns() const { return std::int64_t{heads_ + 2} * D; }
  /// q of one token and group; k and v lie behind it.
  float* queries(std::int64_t row, std::int64_t group) const {
    return a_.projected.row(row) + group * group_columns();
  }
  /// The new key (field 0) or value (field 1) of a row of the batch in one group of a streaming run; those of
  /// later rows lie behind it.
  RowTarget<Cache> scratch(int field, std::int64_t group, std::int64_t row) const {
    const std::int64_t at = (field * group_count() + group) * rows_ + row;
    return {scratch_.get() + at * D, has_scales<Cache> ? scratch_scales_.get() + at : nullptr};
  }
  AttentionFields fields(std::size_t sequence, std::int64_t group) const {
    const auto field = [&](std::size_t index) {
      RowField out{.rows = a_.cache.field(sequence, index), .scales = {}, .group = group};
      if constexpr (has_scales<Cache>) out.scales = a_.cache.field(sequence, 2 + index);
      return out;
    };
    return {.key = field(0), .value = field(1)};
  }

  void rotate_and_store() const {
    struct Chunk {
      std::size_t sequence;
      std::int64_t token, end;
    };
    constexpr std::int64_t chunk_tokens = 32;
    std::vector<Chunk> chunks;
    for (std::size_t s = 0; s < a_.sequences.size(); ++s)
      for (std::int64_t t = 0; t < a_.sequences[s].rows; t += chunk_tokens)
        chunks.push_back({s, t, std::min(t + chunk_tokens, a_.sequences[s].rows)});
    parallel_for(static_cast<std::int64_t>(chunks.size()), [&](std::int64_t i) {
      const Chunk& chunk = chunks[static_cast<std::size_t>(i)];
      for (std::int64_t t = chunk.token; t < chunk.end; ++t)
        for (std::int64_t g = 0; g < group_count(); ++g) rotate_and_store_row(chunk.sequence, t, g);
    });
  }

  void rotate_and_store_row(std::size_t s, std::int64_t token, std::int64_t group) const {
    const std::int64_t row = a_.sequences[s].first_row + token, position = a_.sequences[s].position + token;
    float* q = queries(row, group);
    float* key = q + heads_ * D;
    if (a_.shape.qk_norm) normalise_row(row, group);
    rope_rotate(*a_.rope, position, q, heads_ + 1);
    if (a_.cache.empty()) return;
    if (ring_) {
      store_row<D>(scratch(0, group, row), key);
      store_row<D>(scratch(1, group, row), key + D);
    } else {
      const AttentionFields to = fields(s, group);
      store_row<D>(to.key.page_row<D, Cache>(position), key);
      store_row<D>(to.value.page_row<D, Cache>(position), key + D);
    }
  }

  /// The queries and the key of one token; backward gets them as they were.
  void normalise_row(std::int64_t row, std::int64_t group) const {
    float* q = queries(row, group);
    if (a_.saved)
      std::copy_n(q, (heads_ + 1) * D,
                  a_.saved + group_count() * rows_ * heads_ + (group * rows_ + row) * (heads_ + 1) * D);
    for (int head = 0; head <= heads_; ++head) {
      const float* gain = head < heads_ ? a_.query_norm : a_.key_norm;
      rms_norm_row(q + head * D, gain, a_.shape.norm_epsilon, D, q + head * D);
    }
  }

  template <class T>
  void add_blocks(std::vector<KeyBlock<T>>& blocks, std::size_t s, std::int64_t group) const {
    const SequenceRows& sequence = a_.sequences[s];
    if (a_.cache.empty()) {
      if constexpr (std::is_same_v<T, float>) {
        const float* key = queries(sequence.first_row, group) + heads_ * D;
        blocks.push_back({.keys = {key, a_.projected.stride},
                          .values = {key + D, a_.projected.stride},
                          .rows = sequence.rows});
      }
    } else if constexpr (std::is_same_v<T, Cache>) {
      if (ring_) {
        add_ring_blocks<D, Cache>(blocks, fields(s, group), mask_, sequence.position);
        blocks.push_back({.keys = scratch(0, group, sequence.first_row).rows(D),
                          .values = scratch(1, group, sequence.first_row).rows(D),
                          .position = sequence.position,
                          .rows = sequence.rows});
      } else {
        add_page_blocks<D, Cache>(blocks, fields(s, group), sequence.position + sequence.rows);
      }
    }
  }

  template <class T>
  void attend() const {
    std::vector<KeyBlock<T>> blocks;
    std::vector<std::size_t> first_block;  // of each of `work`, and an end
    std::vector<AttentionGroup<T>> work;
    for (std::size_t s = 0; s < a_.sequences.size(); ++s) {
      if (a_.sequences[s].rows == 0) continue;
      for (std::int64_t g = 0; g < group_count(); ++g) {
        first_block.push_back(blocks.size());
        add_blocks(blocks, s, g);
        work.push_back(group_of<T>(s, g));
      }
    }
    first_block.push_back(blocks.size());
    for (std::size_t i = 0; i < work.size(); ++i)
      work[i].blocks = std::span(blocks).subspan(first_block[i], first_block[i + 1] - first_block[i]);
    attention_forward<D, T>(work, mask_, a_.probe != nullptr);
  }

  template <class T>
  AttentionGroup<T> group_of(std::size_t s, std::int64_t group) const {
    const SequenceRows& sequence = a_.sequences[s];
    const std::int64_t head = std::int64_t{a_.groups[static_cast<std::size_t>(group)]} * heads_;
    AttentionGroup<T> result{
        .queries = {.data = queries(sequence.first_row, group), .stride = a_.projected.stride},
        .heads = heads_,
        .tokens = sequence.rows,
        .position = sequence.position,
        .blocks = {},
        .out = {.data = a_.out.row(sequence.first_row) + head * D, .stride = a_.out.stride},
        .log_sum_exp = a_.saved ? a_.saved + (group * rows_ + sequence.first_row) * heads_ : nullptr,
        .probe = {}};
    if (a_.probe) {
      const std::int64_t at = sequence.first_row * a_.probe->stride + head;
      const auto moved = [&](float* array) { return array ? array + at : nullptr; };
      result.probe = *a_.probe;
      result.probe.recent_mass = moved(a_.probe->recent_mass);
      result.probe.sink_mass = moved(a_.probe->sink_mass);
      result.probe.recent_sink_mass = moved(a_.probe->recent_sink_mass);
      result.probe.log_sum_exp = moved(a_.probe->log_sum_exp);
    }
    return result;
  }

  void fill_rings() const {
    const auto sequences = static_cast<std::int64_t>(a_.sequences.size());
    parallel_for(sequences * group_count(), [&](std::int64_t i) {
      const auto s = static_cast<std::size_t>(i / group_count());
      const std::int64_t group = i % group_count();
      const SequenceRows& sequence = a_.sequences[s];
      const AttentionFields to = fields(s, group);
      const auto append = [&](const RowField& field, int index) {
        append_to_ring<D, Cache>(field, mask_, scratch(index, group, sequence.first_row).rows(D),
                                 sequence.position, sequence.rows);
      };
      append(to.key, 0);
      append(to.value, 1);
    });
  }

  const ForwardArguments& a_;
  AttentionMask mask_;
  bool ring_;
  int heads_;
  std::int64_t rows_;                        // of the packed batch
  std::unique_ptr<Cache[]> scratch_;         // (key or value, group, row, D): the new rows of a streaming run
  std::unique_ptr<float[]> scratch_scales_;  // (key or value, group, row), if rows have scales
};

/// What both mixers' kernels have in common.
template <class Precision, class Widths>
void attention_mixer_forward(const ForwardArguments& a, const AttentionMask& mask, bool ring) {
  with_d_head(Widths{}, a.shape.d_head, [&](auto d_head) {
    AttentionForward<d_head(), typename Precision::Cache>(a, mask, ring).run();
  });
}

inline std::int64_t attention_saved_size(const HeadShape& shape, std::int64_t groups,
                                         std::span<const SequenceRows> sequences) {
  const std::int64_t heads = shape.queries_per_group;
  const std::int64_t before_norms = shape.qk_norm ? (heads + 1) * shape.d_head : 0;
  return groups * (heads + before_norms) * packed_rows(sequences);
}

/// Takes the gradients of queries and keys back through their norms, in place, and adds those of the gains:
/// summed per chunk of tokens and then over chunks in order, so that the bits do not depend on the number of
/// threads.
template <int D>
void query_key_norms_backward(const BackwardArguments& a) {
  const int heads = a.shape.queries_per_group;
  const std::int64_t rows = packed_rows(a.sequences), vectors = heads + 1;
  const auto groups = static_cast<std::int64_t>(a.groups.size());
  const float* before = a.saved + groups * rows * heads;
  constexpr std::int64_t chunk_rows = 64;
  const std::int64_t chunks = (rows + chunk_rows - 1) / chunk_rows;
  std::vector<float> partials(static_cast<std::size_t>(chunks * 2 * D), 0.0f);
  parallel_for(chunks, [&](std::int64_t chunk) {
    float* d_query = partials.data() + chunk * 2 * D;
    for (std::int64_t row = chunk * chunk_rows; row < std::min(rows, (chunk + 1) * chunk_rows); ++row)
      for (std::int64_t g = 0; g < groups; ++g)
        for (std::int64_t v = 0; v < vectors; ++v) {
          const float* x = before + ((g * rows + row) * vectors + v) * D;
          float* gradient = a.d_projected.row(row) + (g * (vectors + 1) + v) * D;
          detail::rms_norm_backward_row(x, v < heads ? a.query_norm : a.key_norm,
                                        reciprocal_rms(x, a.shape.norm_epsilon, D), gradient, D, gradient,
                                        Accumulate::no, d_query + (v < heads ? 0 : D));
        }
  });
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk)
    for (int d = 0; d < D; ++d) {
      a.d_query_norm[d] += partials[static_cast<std::size_t>(chunk * 2 * D + d)];
      a.d_key_norm[d] += partials[static_cast<std::size_t>((chunk * 2 + 1) * D + d)];
    }
}

/// Backward of one run, for both mixers.
template <int D>
void attention_run_backward(const BackwardArguments& a, const AttentionMask& mask) {
  const int heads = a.shape.queries_per_group;
  const std::int64_t rows = packed_rows(a.sequences);
  const std::int64_t group_columns = std::int64_t{heads + 2} * D;
  // reserved: groups point to their block
  std::vector<KeyBlock<float>> blocks;
  blocks.reserve(a.sequences.size() * a.groups.size());
  std::vector<AttentionGradientGroup> groups;
  for (const SequenceRows& sequence : a.sequences) {
    if (sequence.rows == 0) continue;
    for (std::size_t g = 0; g < a.groups.size(); ++g) {
      const std::int64_t first = static_cast<std::int64_t>(g) * group_columns;
      const std::int64_t out_column = std::int64_t{a.groups[g]} * heads * D;
      const float* queries = a.projected.row(sequence.first_row) + first;
      const float* keys = queries + heads * D;
      blocks.push_back({.keys = {keys, a.projected.stride},
                        .values = {keys + D, a.projected.stride},
                        .rows = sequence.rows});
      AttentionGradientGroup group{
          .forward = {.queries = {.data = queries, .stride = a.projected.stride},
                      .heads = heads,
                      .tokens = sequence.rows,
                      .position = 0,
                      .blocks = std::span(&blocks.back(), 1),
                      .out = {},
                      .log_sum_exp = nullptr,
                      .probe = {}},
          .log_sum_exp = a.saved + (static_cast<std::int64_t>(g) * rows + sequence.first_row) * heads,
          .out = {.data = a.out.row(sequence.first_row) + out_column, .stride = a.out.stride},
          .d_out = {.data = a.d_out.row(sequence.first_row) + out_column, .stride = a.d_out.stride},
          .d_queries = {.data = a.d_projected.row(sequence.first_row) + first,
                        .stride = a.d_projected.stride}};
      groups.push_back(group);
    }
  }
  attention_backward<D>(groups, *a.rope, mask);
  if (a.shape.qk_norm) query_key_norms_backward<D>(a);
}

template <class Widths>
void attention_mixer_backward(const BackwardArguments& a, const AttentionMask& mask) {
  with_d_head(Widths{}, a.shape.d_head, [&](auto d_head) { attention_run_backward<d_head()>(a, mask); });
}

}  // namespace RECURFORMER_ISA

template <AttentionPolicy Policy>
struct MixerKernel<Attention<Policy>> {
  template <class Precision, class Widths>
  static void forward(const Attention<Policy>& mixer, const ForwardArguments& arguments) {
    attention_mixer_forward<Precision, Widths>(arguments, mixer.mask(), false);
  }
  static std::int64_t saved_size(const Attention<Policy>&, const HeadShape& shape, std::int64_t groups,
                                 std::span<const SequenceRows> sequences) {
    return attention_saved_size(shape, groups, sequences);
  }
  template <class Precision, class Widths>
  static void backward(const Attention<Policy>& mixer, const BackwardArguments& arguments) {
    attention_mixer_backward<Widths>(arguments, mixer.mask());
  }
};

template <StreamingWindow Default, AttentionPolicy Policy>
struct MixerKernel<StreamingAttention<Default, Policy>> {
  using Mixer = StreamingAttention<Default, Policy>;

  template <class Precision, class Widths>
  static void forward(const Mixer& mixer, const ForwardArguments& arguments) {
    attention_mixer_forward<Precision, Widths>(arguments, mixer.mask(), true);
  }
  static std::int64_t saved_size(const Mixer&, const HeadShape& shape, std::int64_t groups,
                                 std::span<const SequenceRows> sequences) {
    return attention_saved_size(shape, groups, sequences);
  }
  template <class Precision, class Widths>
  static void backward(const Mixer& mixer, const BackwardArguments& arguments) {
    attention_mixer_backward<Widths>(arguments, mixer.mask());
  }
};

}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_ATTENTION_MIXER_HPP
