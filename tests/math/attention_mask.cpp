#include "recurformer/math/attention_mask.hpp"

#include <doctest/doctest.h>

#include <vector>

namespace {

/// Every pair of positions below `length`.
template <class F>
void for_each_span(std::int64_t length, F f) {
  for (std::int64_t first = 0; first < length; ++first)
    for (std::int64_t last = first; last < length; ++last) f(first, last);
}

const std::vector<rf::AttentionMask> masks = {{},
                                              {.sink = 0, .window = 1},
                                              {.sink = 3, .window = 4},
                                              {.sink = 7, .window = 2},
                                              {.sink = 100, .window = 1}};

}  // namespace

TEST_CASE("attention mask: the ranges are exactly the keys that some query sees") {
  constexpr std::int64_t length = 14;
  for (const rf::AttentionMask& mask : masks)
    for_each_span(length, [&](std::int64_t first, std::int64_t last) {
      const auto ranges = mask.seen_by_any(first, last);
      REQUIRE(ranges[0].begin <= ranges[0].end);
      REQUIRE(ranges[0].end <= ranges[1].begin);
      for (std::int64_t key = 0; key < length + 2; ++key) {
        bool seen = false, inside = false;
        for (std::int64_t query = first; query <= last; ++query) seen |= mask.visible(query, key);
        for (const rf::KeyRange& range : ranges) inside |= range.begin <= key && key < range.end;
        CHECK(seen == inside);
      }
    });
}

TEST_CASE("attention mask: a tile is full iff every query sees every key") {
  constexpr std::int64_t length = 10;
  for (const rf::AttentionMask& mask : masks)
    for_each_span(length, [&](std::int64_t first, std::int64_t last) {
      for_each_span(length, [&](std::int64_t begin, std::int64_t end) {
        bool all = true;
        for (std::int64_t query = first; query <= last; ++query)
          for (std::int64_t key = begin; key <= end; ++key) all &= mask.visible(query, key);
        // a tile that lies in sinks and window together may be masked needlessly, never the other way round
        const bool full = mask.seen_by_all({begin, end + 1}, first, last);
        if (full) CHECK(all);
        if (all && (end < mask.sink || begin >= mask.sink)) CHECK(full);
      });
    });
}
