#ifndef RECURFORMER_CUDA_ATTENTION_ITEMS_HPP
#define RECURFORMER_CUDA_ATTENTION_ITEMS_HPP

// The work of attention on CUDA, planned on the host: a block takes one item.
//
//   prefill   an item is a tile of queries of one group of one sequence. Longest first, so that no long one
//             starts at the end; (sequence, group) pairs form sections whose keys and values fit the L2 cache
//   decode    an item is a tile of queries over a part of its keys, a split: few queries over a long past
//             would leave most of the machine idle. Splits have about equal lengths, chosen such that all of
//             them run at once (FlashInfer, arXiv 2501.01005), and belong to the plan, not to the schedule:
//             the same plan gives the same bits
//
// A plan depends on lengths only and serves all layers of a step.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "recurformer/cuda/attention_tile.hpp"
#include "recurformer/cuda/key_values.hpp"
#include "recurformer/math/attention_mask.hpp"
#include "recurformer/spec/batch.hpp"

namespace rf::cuda {

/// A tile of queries over the key tiles [first_tile, end_tile) of those it sees.
struct DecodeItem {
  AttentionItem queries;
  int first_tile = 0;
  int end_tile = 0;
  int split = 0;
  int splits = 1;   ///< of this tile of queries
  int partial = 0;  ///< where its first split leaves its result; the others follow
  int counter = 0;  ///< counts its splits that are done
};

/// What decode launches.
struct DecodePlan {
  std::vector<DecodeItem> items;
  int partials = 0;  ///< results of splits
  int counters = 0;
};

namespace detail {

inline std::int64_t key_count(const AttentionMask& mask, std::int64_t first, std::int64_t last) {
  const KeyRanges seen = mask.seen_by_any(first, last);
  return seen[0].size() + seen[1].size();
}

/// Calls f(item, first position, last position) for every tile of `most` queries.
template <class F>
void for_each_query_tile(std::span<const SequenceRows> sequences, int groups, int heads, int most, F f) {
  for (std::size_t s = 0; s < sequences.size(); ++s)
    for (int g = 0; g < groups; ++g) {
      const std::int64_t position = sequences[s].position, queries = sequences[s].rows * heads;
      for (std::int64_t q = 0; q < queries; q += most)
        f(AttentionItem{.sequence = static_cast<int>(s), .group = g, .first_query = static_cast<int>(q)},
          position + q / heads, position + (std::min(q + most, queries) - 1) / heads);
    }
}

/// Rounds per split such that about `blocks` splits come out, at least `least`.
inline std::int64_t rounds_per_split(std::span<const std::int64_t> rounds, std::int64_t blocks,
                                     std::int64_t least) {
  std::int64_t total = 0, longest = least;
  for (const std::int64_t n : rounds) total += n, longest = std::max(longest, n);
  // more tiles of queries than blocks run at once: only those are cut that would outlast the others
  if (static_cast<std::int64_t>(rounds.size()) >= blocks)
    return std::max(least, (total + blocks - 1) / blocks);
  const auto fits = [&](std::int64_t per_split) {
    std::int64_t splits = 0;
    for (const std::int64_t n : rounds) splits += (n + per_split - 1) / per_split;
    return splits <= blocks;
  };
  std::int64_t low = least, high = longest;  // `high` fits
  while (low < high) {
    const std::int64_t middle = low + (high - low) / 2;
    if (fits(middle))
      high = middle;
    else
      low = middle + 1;
  }
  return high;
}

}  // namespace detail

/// Tiles of Tuning::queries queries for prefill. `section_keys` is the number of keys of one group that, with
/// their values, may occupy the L2 cache: the default is 32 MB of 16-bit elements at d_head 128.
template <class Tuning>
std::vector<AttentionItem> plan_prefill(std::span<const SequenceRows> sequences, int groups, int heads,
                                        const AttentionMask& mask, std::int64_t section_keys = 65536) {
  struct Costed {
    AttentionItem item;
    std::int64_t keys;     // that some of its queries see
    std::int64_t section;  // of its sequence and group
  };
  std::vector<Costed> costed;
  std::int64_t keys_so_far = 0;
  detail::for_each_query_tile(
      sequences, groups, heads, Tuning::queries,
      [&](const AttentionItem& item, std::int64_t first, std::int64_t last) {
        costed.push_back({item, detail::key_count(mask, first, last), keys_so_far / section_keys});
        const SequenceRows& sequence = sequences[static_cast<std::size_t>(item.sequence)];
        if (item.first_query + Tuning::queries >= sequence.rows * heads)  // the group's last tile
          keys_so_far += detail::key_count(mask, sequence.position, last);
      });
  std::stable_sort(costed.begin(), costed.end(), [](const Costed& a, const Costed& b) {
    return a.section != b.section ? a.section < b.section : a.keys > b.keys;
  });
  std::vector<AttentionItem> items;
  for (const Costed& c : costed) items.push_back(c.item);
  return items;
}

/// Splits for decode on a machine that runs `blocks` of its blocks at once. A round is one tile of keys for
/// each warp.
template <class Tuning>
DecodePlan plan_decode(std::span<const SequenceRows> sequences, int groups, int heads,
                       const AttentionMask& mask, int blocks) {
  constexpr std::int64_t round_keys = Tuning::keys * Tuning::warps, least_keys = 128;
  std::vector<DecodeItem> whole;
  std::vector<std::int64_t> rounds;
  detail::for_each_query_tile(
      sequences, groups, heads, Tuning::queries,
      [&](const AttentionItem& item, std::int64_t first, std::int64_t last) {
        whole.push_back(
            {.queries = item,
             .end_tile =
                 KeyTiles<Tuning::keys>(mask, static_cast<int>(first), static_cast<int>(last)).count()});
        rounds.push_back((whole.back().end_tile + Tuning::warps - 1) / Tuning::warps);
      });
  const std::int64_t per_split =
      detail::rounds_per_split(rounds, blocks, (least_keys + round_keys - 1) / round_keys);

  DecodePlan plan;
  for (std::size_t i = 0; i < whole.size(); ++i) {
    const std::int64_t splits = (rounds[i] + per_split - 1) / per_split;
    for (std::int64_t s = 0; s < splits; ++s) {
      const auto tile = [&](std::int64_t split) {
        return static_cast<int>(
            std::min<std::int64_t>(rounds[i] * split / splits * Tuning::warps, whole[i].end_tile));
      };
      DecodeItem item = whole[i];
      item.first_tile = tile(s);
      item.end_tile = tile(s + 1);
      item.split = static_cast<int>(s);
      item.splits = static_cast<int>(splits);
      item.partial = plan.partials;
      item.counter = plan.counters;
      plan.items.push_back(item);
    }
    if (splits == 1) continue;
    plan.partials += static_cast<int>(splits);
    ++plan.counters;
  }
  std::stable_sort(plan.items.begin(), plan.items.end(), [](const DecodeItem& a, const DecodeItem& b) {
    return a.end_tile - a.first_tile > b.end_tile - b.first_tile;
  });
  return plan;
}

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_ATTENTION_ITEMS_HPP
