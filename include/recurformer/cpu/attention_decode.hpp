#ifndef RECURFORMER_CPU_ATTENTION_DECODE_HPP
#define RECURFORMER_CPU_ATTENTION_DECODE_HPP

// Attention of a few queries over a long past. Here the bytes of keys and values are the work, so every row
// is read once for all queries of the group: all its query heads and all new tokens.
//
//   1. the visible keys are cut at multiples of split_keys; each split is a work item that gives, per query,
//      a softmax state and an output relative to its maximum
//   2. the splits of a group are merged in order
//
// Splits depend on positions only, never on the number of threads.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "recurformer/core/parallel.hpp"
#include "recurformer/cpu/attention_tile.hpp"
#include "recurformer/cpu/decode_products.hpp"
#include "recurformer/math/softmax_state.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {

inline constexpr std::int64_t split_keys = 512;

/// What a split leaves behind, in the order of DecodeProducts.
template <int Size>
struct DecodePartial {
  SoftmaxState state[most_decode_queries];
  alignas(64) float output[most_decode_queries][Size];
};

/// All queries of a group over one range of keys.
template <int D, class T>
class DecodeSplit {
 public:
  static constexpr int output_size = DecodeProducts<D, T>::output_size;

  DecodeSplit(const AttentionGroup<T>& group, const AttentionMask& mask, DecodePartial<output_size>& result)
      : group_(group), mask_(mask), count_(static_cast<int>(group.query_count())), result_(result) {
    for (int q = 0; q < count_; ++q) {
      // in units of log 2 of the score
      products_.set_query(q, group.queries.row(q / group.heads) + q % group.heads * D, score_scale(D));
      std::fill_n(result_.output[q], output_size, 0.0f);
      result_.state[q] = {};
    }
  }

  void run(const KeyRange& range) {
    for (std::size_t b = 0; b < group_.blocks.size(); ++b) {
      const KeyBlock<T>& block = group_.blocks[b];
      const std::int64_t begin = std::max(range.begin, block.position),
                         end = std::min(range.end, block.end());
      for (std::int64_t p = begin; p < end; p += detail::step_keys) {
        const KeyRange step{p, std::min<std::int64_t>(p + detail::step_keys, end)};
        const bool last = step.end == block.end() && b + 1 < group_.blocks.size();
        add_keys(block.keys.from(p - block.position), block.values.from(p - block.position), step,
                 last ? group_.blocks[b + 1].keys : block.keys.from(step.end - block.position));
      }
    }
  }

 private:
  /// `next_keys` are those of the next call, or of nobody's.
  void add_keys(const KeptRows<T>& keys, const KeptRows<T>& values, const KeyRange& range,
                const KeptRows<T>& next_keys) {
    const auto count = static_cast<int>(range.size());
    products_.score(count_, keys, values, count, scores_);
    hide(range);
    for (int q = 0; q < count_; ++q) weigh(q, count);
    products_.add_values(count_, values, next_keys, count, scores_, result_.output);
  }

  /// -inf where a query must not look.
  void hide(const KeyRange& range) {
    const std::int64_t last = group_.position + group_.tokens - 1;
    if (mask_.seen_by_all(range, group_.position, last)) return;
    for (int q = 0; q < count_; ++q)
      for (std::int64_t key = range.begin; key < range.end; ++key)
        if (!mask_.visible(group_.position + q / group_.heads, key))
          scores_[q][key - range.begin] = -std::numeric_limits<float>::infinity();
  }

  /// Scores of one query become weights relative to its new maximum, its output is rescaled.
  void weigh(int q, int count) {
    using namespace simd;
    SoftmaxState& state = result_.state[q];
    float* scores = scores_[q];
    const int padded = (count + width - 1) / width * width;
    std::fill(scores + count, scores + padded, -std::numeric_limits<float>::infinity());
    Vec largest = broadcast(state.maximum);
    for (int k = 0; k < padded; k += width) largest = max(load(scores + k), largest);
    const float maximum = reduce_max(largest);
    const float offset = maximum == -std::numeric_limits<float>::infinity() ? 0.0f : maximum;
    Vec sum = zero();
    for (int k = 0; k < padded; k += width) {
      const Vec weight = tile::exp2_nonpositive(load(scores + k) - offset);
      store(scores + k, weight);
      sum += weight;
    }
    const float factor = softmax_rescale(state.maximum, offset);
    state = {.maximum = maximum, .sum = state.sum * factor + reduce_add(sum)};
    if (factor != 1.0f)
      for (int d = 0; d < output_size; d += width)
        store(result_.output[q] + d, load(result_.output[q] + d) * factor);
  }

  const AttentionGroup<T>& group_;
  const AttentionMask& mask_;
  int count_;
  DecodePartial<output_size>& result_;
  DecodeProducts<D, T> products_;
  alignas(64) detail::StepScores scores_;
};

/// A range of keys of one group as a work item.
struct DecodeItem {
  std::size_t group = 0;
  KeyRange keys;
};

/// All splits, group by group in the order of positions.
template <class T>
std::vector<DecodeItem> decode_items(std::span<const AttentionGroup<T>> groups, const AttentionMask& mask) {
  std::vector<DecodeItem> items;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const std::int64_t first = groups[g].position, last = first + groups[g].tokens - 1;
    for (const KeyRange& range : mask.seen_by_any(first, last))
      for (std::int64_t p = range.begin; p < range.end;) {
        const std::int64_t end = std::min((p / split_keys + 1) * split_keys, range.end);
        items.push_back({.group = g, .keys = {p, end}});
        p = end;
      }
  }
  return items;
}

/// Merges the splits of one group in order and writes its outputs.
template <int D, class T>
void merge_splits(const AttentionGroup<T>& group,
                  std::span<DecodePartial<DecodeSplit<D, T>::output_size>> splits) {
  for (int q = 0; q < static_cast<int>(group.query_count()); ++q) {
    SoftmaxState state = splits[0].state[q];
    float* sum = splits[0].output[q];
    for (std::size_t i = 1; i < splits.size(); ++i) {
      const SoftmaxMerge merged = merge(state, splits[i].state[q]);
      state = merged.state;
      for (int d = 0; d < DecodeSplit<D, T>::output_size; d += simd::width)
        simd::store(sum + d,
                    simd::load(sum + d) * merged.left + simd::load(splits[i].output[q] + d) * merged.right);
    }
    const float inverse = state.sum == 0.0f ? 0.0f : 1.0f / state.sum;
    float* out = group.out.row(q / group.heads) + q % group.heads * D;
    DecodeProducts<D, T>::store(sum, inverse, out);
  }
}

/// Computes out of every group; each has at most most_decode_queries queries.
template <int D, class T>
void attention_decode(std::span<const AttentionGroup<T>> groups, const AttentionMask& mask) {
  const std::vector<DecodeItem> items = decode_items(groups, mask);
  using Split = DecodeSplit<D, T>;
  const auto partials = std::make_unique_for_overwrite<DecodePartial<Split::output_size>[]>(items.size());
  parallel_ranges(static_cast<std::int64_t>(items.size()), [&](std::int64_t begin, std::int64_t end) {
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i)
      Split(groups[items[i].group], mask, partials[i]).run(items[i].keys);
  });
  std::size_t first = 0;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    std::size_t end = first;
    while (end < items.size() && items[end].group == g) ++end;
    merge_splits<D>(groups[g], std::span(partials.get() + first, end - first));
    first = end;
  }
}

}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_ATTENTION_DECODE_HPP
