#ifndef RECURFORMER_CPU_ATTENTION_BACKWARD_HPP
#define RECURFORMER_CPU_ATTENTION_BACKWARD_HPP

// Gradients of softmax attention on the CPU, in the manner of FlashAttention-2 (arXiv 2307.08691): nothing
// but the log-sum-exp L was saved, the weights are computed again tile by tile.
//
//   P = exp(q kᵀ/√d - L)      dP = dO vᵀ      dS = P ∘ (dP - δ),  δ = Σ_d dO ∘ O
//   dV += Pᵀ dO               dK += dSᵀ q/√d                      dQ += dS k/√d
//
// Then q and k turn back by the inverse of their rotary positions.
//
// A work item is a span of query tiles of one KV group of one sequence. It walks over tiles of queries, and
// for each over the tiles of keys it sees, as forward does: dQ of the tile is complete at the end, dK and dV
// of the span (summed over the group's heads) lie in memory of the item's own. A second loop adds the spans
// of a group in order. Long sequences have up to eight spans, whatever the number of threads, so that the
// bits do not depend on it.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numbers>
#include <span>
#include <vector>

#include "recurformer/core/parallel.hpp"
#include "recurformer/cpu/attention.hpp"
#include "recurformer/cpu/attention_keys.hpp"
#include "recurformer/cpu/mixer_kernel.hpp"
#include "recurformer/cpu/rope.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {

/// Floats for dK and dV of positions [0, keys), (keys, D) each. Whole strips of keys are added to, so that
/// there are some rows behind the last key.
struct KeyGradients {
  static constexpr std::int64_t slack = 16;
  static constexpr std::int64_t size(std::int64_t keys, int d_head) { return 2 * (keys + slack) * d_head; }
  float* keys() const { return data; }
  float* values() const { return data + (count + slack) * d_head; }

  float* data = nullptr;
  std::int64_t count = 0;
  int d_head = 0;
};

/// Everything backward needs of one KV group of one sequence.
struct AttentionGradientGroup {
  AttentionGroup<float> forward;       ///< queries, keys and values; what forward writes is not used
  const float* log_sum_exp = nullptr;  ///< as forward wrote it
  RowsView<const float> out, d_out;
  RowsView<float> d_queries;  ///< token t's heads; dk lies behind them, and dv behind dk
};

/// One tile of queries: its share of the gradients of all keys it sees, and dQ.
template <int D>
class FlashGradientTile {
 public:
  FlashGradientTile(const AttentionGradientGroup& group, const RopeTable& rope, const AttentionMask& mask,
                    std::int64_t first_query)
      : group_(group),
        rope_(rope),
        mask_(mask),
        rows_(first_query, group.forward.query_count(), group.forward.heads, 0),
        queries_(rows_.vectors()),
        d_out_(rows_.vectors()),
        log_sum_exp_(rows_.vectors()),
        delta_(rows_.vectors()) {
    load_queries<D>(queries_, rows_, group.forward.queries, score_scale(D));
    load_queries<D>(d_out_, rows_, group.d_out, 1.0f);
    for (int r = 0; r < rows_.count; ++r) {
      const std::int64_t t = rows_.token[r], column = std::int64_t{rows_.head[r]} * D;
      const float* d_out = group.d_out.row(t) + column;
      std::copy_n(group.forward.queries.row(t) + column, D, query_rows_ + r * D);
      std::copy_n(d_out, D, d_out_rows_ + r * D);
      delta_.values[r] = dot(d_out, group.out.row(t) + column);
      log_sum_exp_.values[r] = group.log_sum_exp[rows_.first + r] * static_cast<float>(std::numbers::log2e);
    }
  }

  void run(const KeyGradients& gradients) {
    tile::LaneTile<tile_queries, D> d_queries(rows_.vectors());
    d_queries.fill(0.0f);
    for_each_key_tile(group_.forward.blocks, mask_, rows_,
                      [&](const KeyBlock<float>& block, std::int64_t row, const TileMask& mask) {
                        add_tile(block, row, mask, gradients, d_queries);
                      });
    const float scale = 1.0f / std::sqrt(static_cast<float>(D));
    store_queries<D>(d_queries, tile::RowValues<tile_queries>(rows_.vectors(), scale), rows_,
                     group_.d_queries);
    for (int r = 0; r < rows_.count; ++r)
      rope_rotate_back(rope_, rows_.token[r], group_.d_queries.row(rows_.token[r]) + rows_.head[r] * D);
  }

 private:
  static float dot(const float* a, const float* b) {
    simd::Vec sum = simd::zero();
    for (int d = 0; d < D; d += simd::width) sum += simd::load(a + d) * simd::load(b + d);
    return simd::reduce_add(sum);
  }

  void add_tile(const KeyBlock<float>& block, std::int64_t row, const TileMask& mask,
                const KeyGradients& gradients, tile::LaneTile<tile_queries, D>& d_queries) {
    const auto count = static_cast<int>(mask.keys.size());
    const tile::Operand<D> keys{block.keys.row(row), count}, values{block.values.row(row), count};

    tile::LaneTile<tile_queries, tile_keys> weights(rows_.vectors()), d_weights(rows_.vectors());
    multiply_abt(weights, queries_, keys);
    mask.hide(weights);
    multiply_abt(d_weights, d_out_, values);
    differentiate_softmax(weights, d_weights, log_sum_exp_, delta_, count);

    const std::int64_t first = mask.keys.begin * D;
    multiply_atb(gradients.values() + first, weights, count,
                 tile::Operand<D>{.data = d_out_rows_, .rows = rows_.count});
    multiply_atb(gradients.keys() + first, d_weights, count,
                 tile::Operand<D>{.data = query_rows_, .rows = rows_.count});
    multiply_ab(d_queries, d_weights, keys);
  }

  const AttentionGradientGroup& group_;
  const RopeTable& rope_;
  const AttentionMask& mask_;
  QueryRows rows_;
  tile::LaneTile<tile_queries, D> queries_, d_out_;  // queries in units of log 2 of the score
  tile::RowValues<tile_queries> log_sum_exp_, delta_;
  alignas(64) float query_rows_[tile_queries * D];
  alignas(64) float d_out_rows_[tile_queries * D];
};

/// A span of query tiles as a work item.
struct GradientItem {
  std::size_t group = 0;
  std::int64_t first_query = 0, end_query = 0;
  KeyGradients gradients;
  double cost = 0;
};

/// Cuts every group into spans: a number of them that depends on its length only.
inline std::vector<GradientItem> gradient_items(std::span<const AttentionGradientGroup> groups, int d_head) {
  constexpr std::int64_t span_tokens = 512, most_spans = 8;
  std::vector<GradientItem> items;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const AttentionGroup<float>& group = groups[g].forward;
    const std::int64_t spans = std::clamp<std::int64_t>(group.tokens / span_tokens, 1, most_spans);
    const std::int64_t tiles = (group.query_count() + tile_queries - 1) / tile_queries;
    for (std::int64_t i = 0; i < spans; ++i) {
      GradientItem item{.group = g,
                        .first_query = tiles * i / spans * tile_queries,
                        .end_query = std::min(tiles * (i + 1) / spans * tile_queries, group.query_count()),
                        .gradients = {}};
      item.gradients = {.count = (item.end_query - 1) / group.heads + 1, .d_head = d_head};
      item.cost = static_cast<double>(item.end_query - item.first_query) *
                  static_cast<double>(item.first_query + item.end_query);
      items.push_back(item);
    }
  }
  return items;
}

/// dK and dV of some tokens of a group: the sum over its spans, k turned back.
template <int D>
void write_key_gradients(const AttentionGradientGroup& group, const RopeTable& rope,
                         std::span<const GradientItem> spans, std::int64_t begin, std::int64_t end) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(D));
  for (std::int64_t t = begin; t < end; ++t) {
    float* d_key = group.d_queries.row(t) + group.forward.heads * D;
    for (int d = 0; d < D; d += simd::width) {
      simd::Vec key = simd::zero(), value = simd::zero();
      for (const GradientItem& span : spans) {
        if (t >= span.gradients.count) continue;  // the span's queries come before this key
        key += simd::load(span.gradients.keys() + t * D + d);
        value += simd::load(span.gradients.values() + t * D + d);
      }
      simd::store(d_key + d, key * scale);
      simd::store(d_key + D + d, value);
    }
    rope_rotate_back(rope, t, d_key);
  }
}

/// All gradients of groups whose keys and values have been copied.
template <int D>
void copied_attention_backward(std::span<const AttentionGradientGroup> groups, const RopeTable& rope,
                               const AttentionMask& mask) {
  std::vector<GradientItem> items = gradient_items(groups, D);
  std::int64_t floats = 0;
  for (const GradientItem& item : items) floats += KeyGradients::size(item.gradients.count, D);
  const auto memory = std::make_unique_for_overwrite<float[]>(static_cast<std::size_t>(floats));
  floats = 0;
  for (GradientItem& item : items) {
    item.gradients.data = memory.get() + floats;
    floats += KeyGradients::size(item.gradients.count, D);
  }
  std::vector<const GradientItem*> longest_first;
  for (const GradientItem& item : items) longest_first.push_back(&item);
  std::stable_sort(longest_first.begin(), longest_first.end(),
                   [](const GradientItem* a, const GradientItem* b) { return a->cost > b->cost; });
  parallel_for(static_cast<std::int64_t>(items.size()), [&](std::int64_t i) {
    const GradientItem& item = *longest_first[static_cast<std::size_t>(i)];
    std::fill_n(item.gradients.data, KeyGradients::size(item.gradients.count, D), 0.0f);
    for (std::int64_t q = item.first_query; q < item.end_query; q += tile_queries)
      FlashGradientTile<D>(groups[item.group], rope, mask, q).run(item.gradients);
  });

  std::vector<std::size_t> first_item;  // of every group, and an end
  for (std::size_t i = 0; i < items.size(); ++i)
    if (items[i].first_query == 0) first_item.push_back(i);
  first_item.push_back(items.size());
  parallel_for(static_cast<std::int64_t>(groups.size()), [&](std::int64_t i) {
    const auto g = static_cast<std::size_t>(i);
    write_key_gradients<D>(groups[g], rope,
                           std::span(items).subspan(first_item[g], first_item[g + 1] - first_item[g]), 0,
                           groups[g].forward.tokens);
  });
}

/// All gradients of all groups.
template <int D>
void attention_backward(std::span<const AttentionGradientGroup> groups, const RopeTable& rope,
                        const AttentionMask& mask) {
  std::vector<AttentionGroup<float>> forward;
  for (const AttentionGradientGroup& group : groups) forward.push_back(group.forward);
  for (std::size_t first = 0; first < groups.size();) {
    const CopiedGroups<D, float> copied(forward, first, mask);
    std::vector<AttentionGradientGroup> some(groups.begin() + static_cast<std::ptrdiff_t>(first),
                                             groups.begin() + static_cast<std::ptrdiff_t>(copied.end()));
    for (std::size_t g = 0; g < some.size(); ++g) some[g].forward = copied.groups()[g];
    copied_attention_backward<D>(some, rope, mask);
    first = copied.end();
  }
}

}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_ATTENTION_BACKWARD_HPP
