#include "recurformer/cuda/attention_items.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <tuple>
#include <vector>

namespace {

struct Tuning {
  static constexpr int warps = 4;
  static constexpr int queries = 16;
  static constexpr int keys = 16;
};

const std::vector<rf::SequenceRows> sequences = {{.first_row = 0, .rows = 5, .position = 700},
                                                 {.first_row = 5, .rows = 0, .position = 9},
                                                 {.first_row = 5, .rows = 1, .position = 0},
                                                 {.first_row = 6, .rows = 40, .position = 30}};

}  // namespace

TEST_CASE("CUDA attention items: every query once, the longest first within a section") {
  const rf::AttentionMask mask;
  for (const std::int64_t section_keys : {std::int64_t{65536}, std::int64_t{100}}) {
    const auto items = rf::cuda::plan_prefill<Tuning>(sequences, 2, 3, mask, section_keys);
    std::map<std::tuple<int, int, int>, int> times;
    std::int64_t longest = std::int64_t{1} << 40;
    for (const rf::cuda::AttentionItem& item : items) {
      ++times[{item.sequence, item.group, item.first_query}];
      const rf::SequenceRows& s = sequences[static_cast<std::size_t>(item.sequence)];
      const std::int64_t last = std::min<std::int64_t>(item.first_query + Tuning::queries, s.rows * 3) - 1;
      const std::int64_t keys = s.position + last / 3 + 1;
      if (section_keys == 65536) CHECK(keys <= longest);
      longest = keys;
    }
    CHECK(items.size() == 2 * (1 + 1 + 8));
    CHECK(times.size() == items.size());
    // sections keep the groups of a sequence apart
    if (section_keys == 100) CHECK(items[1].group == 1);
  }
}

TEST_CASE("CUDA attention items: splits cover all tiles of keys in order and fill the machine") {
  for (const rf::AttentionMask& mask : {rf::AttentionMask{}, rf::AttentionMask{.sink = 20, .window = 300}})
    for (const int blocks : {1, 20, 40, 1000}) {
      const rf::cuda::DecodePlan plan = rf::cuda::plan_decode<Tuning>(sequences, 2, 3, mask, blocks);
      std::map<std::tuple<int, int, int>, std::vector<rf::cuda::DecodeItem>> parts;
      for (const rf::cuda::DecodeItem& item : plan.items)
        parts[{item.queries.sequence, item.queries.group, item.queries.first_query}].push_back(item);
      CHECK(parts.size() == 2 * (1 + 1 + 8));
      std::vector<int> partials(static_cast<std::size_t>(plan.partials)),
          counters(static_cast<std::size_t>(plan.counters));
      for (auto& [query_tile, splits] : parts) {
        std::sort(splits.begin(), splits.end(),
                  [](const auto& a, const auto& b) { return a.split < b.split; });
        int tile = 0;
        for (std::size_t i = 0; i < splits.size(); ++i) {
          CHECK(splits[i].split == static_cast<int>(i));
          CHECK(splits[i].splits == static_cast<int>(splits.size()));
          CHECK(splits[i].first_tile == tile);
          CHECK(splits[i].end_tile > tile);
          tile = splits[i].end_tile;
          if (splits.size() > 1) ++partials[static_cast<std::size_t>(splits[i].partial + splits[i].split)];
        }
        const rf::SequenceRows& s = sequences[static_cast<std::size_t>(std::get<0>(query_tile))];
        const int query = std::get<2>(query_tile);
        const auto last = std::min<std::int64_t>(query + Tuning::queries, s.rows * 3) - 1;
        CHECK(tile == rf::cuda::KeyTiles<Tuning::keys>(mask, static_cast<int>(s.position + query / 3),
                                                       static_cast<int>(s.position + last / 3))
                          .count());
        if (splits.size() > 1) ++counters[static_cast<std::size_t>(splits[0].counter)];
      }
      CHECK(partials == std::vector<int>(partials.size(), 1));
      CHECK(counters == std::vector<int>(counters.size(), 1));
      if (blocks == 1) CHECK(plan.partials == 0);
      if (blocks == 40) CHECK(plan.items.size() > 20);
      // where there are more tiles of queries than blocks, no more than one split per block is added
      if (blocks >= 40) CHECK(plan.items.size() <= static_cast<std::size_t>(blocks));
      if (blocks <= 20) CHECK(plan.items.size() <= static_cast<std::size_t>(blocks) + parts.size());
    }
}
