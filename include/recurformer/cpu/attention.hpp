#ifndef RECURFORMER_CPU_ATTENTION_HPP
#define RECURFORMER_CPU_ATTENTION_HPP

// Attention forward on the CPU. Work items are tiles of 48 queries of one KV group of one sequence, the
// longest first; each walks over its keys, copied to floats before, with the tile program of
// kernel/attention.hpp. Groups of few queries go through attention_decode.hpp instead.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <span>
#include <type_traits>
#include <vector>

#include "recurformer/core/parallel.hpp"
#include "recurformer/cpu/attention_decode.hpp"
#include "recurformer/cpu/attention_keys.hpp"
#include "recurformer/cpu/attention_tile.hpp"
#include "recurformer/kernel/attention.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {

/// The recency probe's sums beside the row sum.
struct ProbeSums {
  explicit ProbeSums(int vectors) : recent(vectors), sink(vectors), both(vectors) {}
  tile::RowValues<tile_queries> recent, sink, both;
};
struct NoProbeSums {
  explicit NoProbeSums(int) {}
};

/// The CPU's backend of kernel::flash_attention_forward, for one tile of queries.
template <int D, bool Probing>
class FlashTile {
 public:
  using Rows = tile::RowValues<tile_queries>;
  static constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

  /// The rows of `group` are D floats, one behind the other, with 16 more behind the last.
  FlashTile(const AttentionGroup<float>& group, const AttentionMask& mask, std::int64_t first_query)
      : group_(group),
        mask_(mask),
        rows_(first_query, group.query_count(), group.heads, group.position),
        queries_(rows_.vectors()),
        probe_(rows_.vectors()) {
    load_queries<D>(queries_, rows_, group.queries, score_scale(D));
  }

  Rows rows(float value) const { return Rows(rows_.vectors(), value); }
  auto scores() const { return tile::LaneTile<tile_queries, tile_keys>(rows_.vectors()); }
  auto output() const {
    tile::LaneTile<tile_queries, D> zeros(rows_.vectors());
    zeros.fill(0.0f);
    return zeros;
  }
  const auto& queries() const { return queries_; }

  template <class F>
  void stream(F f) {
    for_each_key_tile(group_.blocks, mask_, rows_,
                      [&](const KeyBlock<float>& block, std::int64_t row, const TileMask& mask) {
                        const auto count = static_cast<int>(mask.keys.size());
                        f(tile::Operand<D>{block.keys.row(row), count},
                          tile::Operand<D>{block.values.row(row), count}, mask);
                      });
  }

  static simd::Vec finite_or_zero(simd::Vec m) { return simd::select(m == minus_infinity, simd::zero(), m); }
  static simd::Vec exp2(simd::Vec x) { return tile::exp2_nonpositive(x); }

  template <class Scores>
  void observe([[maybe_unused]] const Scores& weights, [[maybe_unused]] const TileMask& mask,
               [[maybe_unused]] const Rows& correction) {
    if constexpr (Probing) {
      const auto scale = [](simd::Vec a, simd::Vec c) { return a * c; };
      probe_.recent = zip(probe_.recent, correction, scale);
      probe_.sink = zip(probe_.sink, correction, scale);
      probe_.both = zip(probe_.both, correction, scale);
      for (std::int64_t c = 0; c < mask.keys.size(); ++c) add_to_probe(weights, mask.keys.begin + c, c);
    }
  }

  void finish(const tile::LaneTile<tile_queries, D>& output, const Rows& maximum, const Rows& sum) {
    const Rows inverse =
        zip(sum, sum, [](simd::Vec l, simd::Vec) { return simd::select(l == 0.0f, l, 1.0f / l); });
    store_queries<D>(output, inverse, rows_, group_.out);
    const Rows log_sum_exp = zip(maximum, sum, [](simd::Vec m, simd::Vec l) {
      return m * static_cast<float>(std::numbers::ln2) + simd::log(l);
    });
    if (group_.log_sum_exp)
      for (int r = 0; r < rows_.count; ++r) group_.log_sum_exp[rows_.first + r] = log_sum_exp.values[r];
    if constexpr (Probing) {
      const auto scale = [](simd::Vec a, simd::Vec c) { return a * c; };
      write_probe(group_.probe.log_sum_exp, log_sum_exp);
      write_probe(group_.probe.recent_mass, zip(probe_.recent, inverse, scale));
      write_probe(group_.probe.sink_mass, zip(probe_.sink, inverse, scale));
      write_probe(group_.probe.recent_sink_mass, zip(probe_.both, inverse, scale));
    }
  }

 private:
  template <class Scores>
  void add_to_probe(const Scores& weights, std::int64_t key, std::int64_t column) {
    const bool is_sink = key < group_.probe.sink;
    if (!is_sink && rows_.first_position - key >= group_.probe.window) return;
    const auto window = static_cast<std::int32_t>(std::min(group_.probe.window, AttentionMask::unlimited));
    for (int v = 0; v < weights.vectors; ++v) {
      const simd::Vec weight = simd::load(weights.column(static_cast<int>(column)) + v * simd::width);
      const simd::IntVec lag = rows_.position_vector(v) - static_cast<std::int32_t>(key);
      const simd::Vec recent = simd::select(lag < window, weight, simd::zero());
      probe_.recent.set(v, probe_.recent[v] + recent);
      if (!is_sink) continue;
      probe_.sink.set(v, probe_.sink[v] + weight);
      probe_.both.set(v, probe_.both[v] + recent);
    }
  }
  void write_probe(float* target, const Rows& values) const {
    if (!target) return;
    for (int r = 0; r < rows_.count; ++r)
      target[rows_.token[r] * group_.probe.stride + rows_.head[r]] = values.values[r];
  }

  const AttentionGroup<float>& group_;
  const AttentionMask& mask_;
  QueryRows rows_;
  tile::LaneTile<tile_queries, D> queries_;
  [[no_unique_address]] std::conditional_t<Probing, ProbeSums, NoProbeSums> probe_;
};

/// A tile of queries as a work item.
struct AttentionItem {
  std::size_t group = 0;
  std::int64_t first_query = 0;
  std::int64_t keys = 0;  ///< that its last query sees, about: the cost
};

/// All tiles of all groups, the longest first, so that no thread starts a long one at the end.
inline std::vector<AttentionItem> attention_items(std::span<const AttentionGroup<float>> groups,
                                                  const AttentionMask& mask) {
  std::vector<AttentionItem> items;
  for (std::size_t g = 0; g < groups.size(); ++g)
    for (std::int64_t q = 0; q < groups[g].query_count(); q += tile_queries) {
      const std::int64_t position = groups[g].position + q / groups[g].heads;
      const auto ranges = mask.seen_by_any(position, position);
      items.push_back({.group = g, .first_query = q, .keys = ranges[0].size() + ranges[1].size()});
    }
  std::stable_sort(items.begin(), items.end(),
                   [](const AttentionItem& a, const AttentionItem& b) { return a.keys > b.keys; });
  return items;
}

/// Computes out, and log_sum_exp and the probe's arrays where asked for, of every group.
template <int D, class T>
void attention_prefill(std::span<const AttentionGroup<T>> groups, const AttentionMask& mask, bool probing) {
  for (std::size_t first = 0; first < groups.size();) {
    const CopiedGroups<D, T> copied(groups, first, mask);
    first = copied.end();
    const std::vector<AttentionItem> items = attention_items(copied.groups(), mask);
    parallel_for(static_cast<std::int64_t>(items.size()), [&](std::int64_t i) {
      const AttentionItem& item = items[static_cast<std::size_t>(i)];
      const AttentionGroup<float>& group = copied.groups()[item.group];
      if (probing) {
        FlashTile<D, true> tile(group, mask, item.first_query);
        kernel::flash_attention_forward(tile);
      } else {
        FlashTile<D, false> tile(group, mask, item.first_query);
        kernel::flash_attention_forward(tile);
      }
    });
  }
}

/// The same by decode for groups of few queries, where nothing but out is wanted.
template <int D, class T>
void attention_forward(std::span<const AttentionGroup<T>> groups, const AttentionMask& mask, bool probing) {
  std::vector<AttentionGroup<T>> few, many;
  for (const AttentionGroup<T>& group : groups) {
    const bool decodes = !probing && !group.log_sum_exp && group.query_count() <= most_decode_queries;
    (decodes ? few : many).push_back(group);
  }
  if (!few.empty()) attention_decode<D, T>(few, mask);
  if (!many.empty()) attention_prefill<D, T>(many, mask, probing);
}

}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_ATTENTION_HPP
