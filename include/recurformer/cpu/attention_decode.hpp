#ifndef RECURFORMER_CPU_ATTENTION_DECODE_HPP
#define RECURFORMER_CPU_ATTENTION_DECODE_HPP

// Attention of a few queries over a long past. Here the bytes of keys and values are the work, so the head's
// elements lie in vector lanes, and every row is read once for all queries of the group: all its query heads
// and all new tokens.
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
#include <cstring>
#include <limits>
#include <memory>
#include <span>
#include <type_traits>
#include <vector>

#include "recurformer/core/parallel.hpp"
#include "recurformer/cpu/attention_tile.hpp"
#include "recurformer/cpu/gemm_pack.hpp"
#include "recurformer/cpu/prefetch.hpp"
#include "recurformer/math/softmax_state.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {

/// Queries of a group (tokens · heads) up to which it decodes.
inline constexpr int most_decode_queries = 16;
inline constexpr std::int64_t split_keys = 512;

/// Outputs of splits lie in the order in which values come cheapest from memory. Of every 2 · width bf16
/// these are the even ones, then the odd ones: two instructions widen them, four would in the order of
/// memory.
template <int D, class T>
inline constexpr bool keeps_pairs = std::is_same_v<T, bf16>&& D % (2 * simd::width) == 0;

/// The next elements of a row of values, as floats.
template <int D, class T, int Vectors>
[[gnu::always_inline]] inline void load_kept(const T* row, simd::Vec (&values)[Vectors]) {
  if constexpr (keeps_pairs<D, T>) {
    static_assert(Vectors % 2 == 0);
#pragma GCC unroll 16
    for (int v = 0; v < Vectors; v += 2) {
      simd::Vec pairs;
      std::memcpy(&pairs, row + v * simd::width, sizeof pairs);
      values[v] = simd::first_of_pairs(pairs);
      values[v + 1] = simd::second_of_pairs(pairs);
    }
  } else {
#pragma GCC unroll 16
    for (int v = 0; v < Vectors; ++v) values[v] = simd::load(row + v * simd::width);
  }
}

/// out[d] = factor · element d of an output.
template <int D, class T>
void store_from_kept(const float* output, float factor, float* out) {
  if constexpr (keeps_pairs<D, T>) {
    for (int d = 0; d < D; d += 2 * simd::width) {
      simd::Vec first = simd::load(output + d) * factor,
                second = simd::load(output + d + simd::width) * factor;
      simd::interleave(first, second);
      simd::store(out + d, first);
      simd::store(out + d + simd::width, second);
    }
  } else {
    for (int d = 0; d < D; d += simd::width) simd::store(out + d, simd::load(output + d) * factor);
  }
}

/// What a split leaves behind.
template <int D>
struct DecodePartial {
  SoftmaxState state[most_decode_queries];
  alignas(64) float output[most_decode_queries][D];
};

/// All queries of a group over one range of keys.
template <int D, class T>
class DecodeSplit {
 public:
  DecodeSplit(const AttentionGroup<T>& group, const AttentionMask& mask, DecodePartial<D>& result)
      : group_(group), mask_(mask), count_(static_cast<int>(group.query_count())), result_(result) {
    const float scale = score_scale(D);
    for (int q = 0; q < count_; ++q) {
      const float* query = group.queries.row(q / group.heads) + q % group.heads * D;
      for (int d = 0; d < D; d += simd::width) {
        simd::store(queries_[q] + d, simd::load(query + d) * scale);
        simd::store(result_.output[q] + d, simd::zero());
      }
      result_.state[q] = {};
    }
  }

  void run(const KeyRange& range) {
    for (std::size_t b = 0; b < group_.blocks.size(); ++b) {
      const KeyBlock<T>& block = group_.blocks[b];
      const std::int64_t begin = std::max(range.begin, block.position),
                         end = std::min(range.end, block.end());
      for (std::int64_t p = begin; p < end; p += step_keys) {
        const KeyRange step{p, std::min<std::int64_t>(p + step_keys, end)};
        const bool last = step.end == block.end() && b + 1 < group_.blocks.size();
        add_keys(block.keys.from(p - block.position), block.values.from(p - block.position), step,
                 last ? group_.blocks[b + 1].keys : block.keys.from(step.end - block.position));
      }
    }
  }

 private:
  static constexpr int step_keys = 64;        // between two looks at the maximum
  static constexpr int least_transposed = 5;  // queries whose scores are worth transposing the keys
  static constexpr int vectors = D / simd::width;

  /// Integers are worked with as they are: a score is multiplied by its key's scale, a weight by its value's.
  /// `next_keys` are those of the next call, or of nobody's.
  void add_keys(const KeptRows<T>& keys, const KeptRows<T>& values, const KeyRange& range,
                const KeptRows<T>& next_keys) {
    const auto count = static_cast<int>(range.size());
    if (count_ < least_transposed)
      in_query_blocks<4, 2, 1>([&](auto block, int q) { score<block()>(q, keys, values, count); });
    else
      in_even_blocks([&](auto block, int q) { score_columns<block()>(q, keys, values, count); });
    if constexpr (has_scales<T>) multiply_scores(keys.scales, count);
    hide(range);
    for (int q = 0; q < count_; ++q) weigh(q, count);
    if constexpr (has_scales<T>) multiply_scores(values.scales, count);
    in_query_blocks<4, 3, 2, 1>([&](auto block, int q) { add_values<block()>(q, values, next_keys, count); });
  }

  void multiply_scores(const float* scales, int count) {
    for (int q = 0; q < count_; ++q)
      simd::for_lanes(count, [&](std::int64_t k, auto n) {
        simd::store_n(scores_[q] + k, simd::load_n(scores_[q] + k, n) * simd::load_n(scales + k, n), n);
      });
  }

  /// Calls f(number of queries as a constant, first of them) for all queries in blocks of these sizes, the
  /// larger ones first.
  template <int... Sizes, class F>
  void in_query_blocks(F f) const {
    int q = 0;
    const auto blocks = [&](auto size) {
      for (; q + size() <= count_; q += size()) f(size, q);
    };
    (blocks(std::integral_constant<int, Sizes>{}), ...);
  }

  /// The same for least_transposed queries and more, in as few blocks as possible.
  template <class F>
  void in_even_blocks(F f) const {
    for (int q = 0, blocks = (count_ + 7) / 8; blocks > 0; --blocks) {
      const int size = (count_ - q + blocks - 1) / blocks;
      const auto call_if = [&](auto constant) { return size == constant() && (f(constant, q), true); };
      (void)(call_if(std::integral_constant<int, 8>{}) || call_if(std::integral_constant<int, 7>{}) ||
             call_if(std::integral_constant<int, 6>{}) || call_if(std::integral_constant<int, 5>{}) ||
             call_if(std::integral_constant<int, 4>{}));  // behind one of 5
      q += size;
    }
  }

  /// scores_[q …][key] of `Queries` queries from transposed keys, in whose lanes sums need not be added up.
  template <int Queries>
  void score_columns(int q, const KeptRows<T>& keys, const KeptRows<T>& values, int count) {
    for (int k = 0; k < count; k += simd::width) {
      const int lanes = std::min(simd::width, count - k);
      simd::Vec sums[Queries] = {};
      detail::for_each_transposed(keys.row(k), keys.stride, lanes, D, [&](std::int64_t d, simd::Vec column) {
        // Row after row between the products: all at once would keep the loads of keys waiting.
        if (q == 0 && d % vectors == 0) ask_for(values.row(k + static_cast<int>(d) / vectors));
#pragma GCC unroll 8
        for (int i = 0; i < Queries; ++i) sums[i] += column * queries_[q + i][d];
      });
#pragma GCC unroll 8
      for (int i = 0; i < Queries; ++i) simd::store(scores_[q + i] + k, sums[i]);
    }
  }

  /// scores_[q …][key] of `Queries` queries: width / Queries keys at a time, so that their sums over lanes
  /// are one transposing reduction of `width` vectors. Key after key from front to back, which is the order
  /// that the hardware's prefetcher sees as a stream.
  template <int Queries>
  void score(int q, const KeptRows<T>& keys, const KeptRows<T>& values, int count) {
    using namespace simd;
    constexpr int rows = width / Queries;
    for (int k = 0; k < count; k += rows) {
      Vec sums[width];
#pragma GCC unroll 16
      for (int j = 0; j < rows; ++j) {
        const int at = std::min(k + j, count - 1);
        if (q == 0) ask_for(values.row(at));
        Vec dot[Queries] = {};
#pragma GCC unroll 16
        for (int d = 0; d < D; d += width) {
          const Vec key = load(keys.row(at) + d);
#pragma GCC unroll 4
          for (int i = 0; i < Queries; ++i) dot[i] += key * load(queries_[q + i] + d);
        }
#pragma GCC unroll 4
        for (int i = 0; i < Queries; ++i) sums[i * rows + j] = dot[i];
      }
      alignas(64) float dots[width];
      store(dots, reduce_each(sums));
      for (int i = 0; i < Queries; ++i) std::copy_n(dots + i * rows, rows, scores_[q + i] + k);
    }
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
      for (int d = 0; d < D; d += width) store(result_.output[q] + d, load(result_.output[q] + d) * factor);
  }

  /// Adds weighted values to the outputs of `Queries` queries, a panel of the head's elements at a time.
  template <int Queries>
  void add_values(int q, const KeptRows<T>& values, const KeptRows<T>& next_keys, int count) {
    using namespace simd;
    constexpr int panel = panel_vectors(tile::vector_registers / 2 / Queries);
    for (int d = 0; d < D; d += panel * width) {
      Vec sums[Queries][panel];
#pragma GCC unroll 4
      for (int i = 0; i < Queries; ++i)
#pragma GCC unroll 16
        for (int v = 0; v < panel; ++v) sums[i][v] = load(result_.output[q + i] + d + v * width);
      for (int k = 0; k < count; ++k) {
        const T* row = values.row(k) + d;
        if (q == 0 && d == 0) ask_for(next_keys.row(k));
        Vec value[panel];
        load_kept<D>(row, value);
#pragma GCC unroll 4
        for (int i = 0; i < Queries; ++i)
#pragma GCC unroll 16
          for (int v = 0; v < panel; ++v) sums[i][v] += value[v] * scores_[q + i][k];
      }
#pragma GCC unroll 4
      for (int i = 0; i < Queries; ++i)
#pragma GCC unroll 16
        for (int v = 0; v < panel; ++v) store(result_.output[q + i] + d + v * width, sums[i][v]);
    }
  }

  /// Asks for a row that is needed in the next phase: values while keys are read, the next keys while values
  /// are, so that memory works through both.
  RECURFORMER_INLINE static void ask_for(const T* row) {
#pragma GCC unroll 16
    for (int line = 0; line * detail::line_bytes < D * static_cast<int>(sizeof(T)); ++line)
      detail::prefetch(row, line * detail::line_bytes / static_cast<int>(sizeof(T)));
  }

  /// The largest divisor of the head's vectors that is at most `most`.
  static constexpr int panel_vectors(int most) {
    int panel = std::min(most, vectors);
    while (vectors % panel != 0) --panel;
    return panel;
  }

  const AttentionGroup<T>& group_;
  const AttentionMask& mask_;
  int count_;
  DecodePartial<D>& result_;
  alignas(64) float queries_[most_decode_queries][D];  // in units of log 2 of the score
  alignas(64) float scores_[most_decode_queries][step_keys];
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
void merge_splits(const AttentionGroup<T>& group, std::span<DecodePartial<D>> splits) {
  for (int q = 0; q < static_cast<int>(group.query_count()); ++q) {
    SoftmaxState state = splits[0].state[q];
    float* sum = splits[0].output[q];
    for (std::size_t i = 1; i < splits.size(); ++i) {
      const SoftmaxMerge merged = merge(state, splits[i].state[q]);
      state = merged.state;
      for (int d = 0; d < D; d += simd::width)
        simd::store(sum + d,
                    simd::load(sum + d) * merged.left + simd::load(splits[i].output[q] + d) * merged.right);
    }
    const float inverse = state.sum == 0.0f ? 0.0f : 1.0f / state.sum;
    float* out = group.out.row(q / group.heads) + q % group.heads * D;
    store_from_kept<D, T>(sum, inverse, out);
  }
}

/// Computes out of every group; each has at most most_decode_queries queries.
template <int D, class T>
void attention_decode(std::span<const AttentionGroup<T>> groups, const AttentionMask& mask) {
  const std::vector<DecodeItem> items = decode_items(groups, mask);
  const auto partials = std::make_unique_for_overwrite<DecodePartial<D>[]>(items.size());
  parallel_ranges(static_cast<std::int64_t>(items.size()), [&](std::int64_t begin, std::int64_t end) {
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i)
      DecodeSplit<D, T>(groups[items[i].group], mask, partials[i]).run(items[i].keys);
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
