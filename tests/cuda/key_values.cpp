#include "recurformer/cuda/key_values.hpp"

#include <doctest/doctest.h>

#include <vector>

#include "recurformer/math/attention_mask.hpp"

TEST_CASE("CUDA key tiles: every visible key once, no other; full tiles are full") {
  constexpr int keys = 8, length = 40;
  const std::vector<rf::AttentionMask> masks = {{},
                                                {.sink = 0, .window = 1},
                                                {.sink = 3, .window = 4},
                                                {.sink = 9, .window = 7},
                                                {.sink = 16, .window = 8},
                                                {.sink = 100, .window = 1}};
  for (const rf::AttentionMask& mask : masks)
    for (int first = 0; first < length; ++first)
      for (int last = first; last < length; ++last) {
        const rf::cuda::KeyTiles<keys> tiles(mask, first, last);
        std::vector<int> times(length + keys);
        for (int i = 0; i < tiles.count(); ++i) {
          const rf::cuda::KeyTile tile = tiles[i];
          REQUIRE(tile.begin % keys == 0);
          REQUIRE(tile.begin + keys > tile.first);
          REQUIRE(tile.begin < tile.end);
          bool all = true;
          for (int key = tile.begin; key < tile.begin + keys; ++key) {
            const bool valid = tile.first <= key && key < tile.end;
            if (valid) ++times[static_cast<std::size_t>(key)];
            for (int query = first; query <= last; ++query) all &= valid && mask.visible(query, key);
            // what the kernels' mask makes of these four numbers
            for (int query = first; query <= last; ++query) {
              const bool shown =
                  key < tile.end && key <= query && (query - key < mask.window || key < tile.sink);
              CHECK(shown == (valid && mask.visible(query, key)));
            }
          }
          if (tiles.seen_by_all(tile)) CHECK(all);
        }
        for (int key = 0; key < length; ++key) {
          bool seen = false;
          for (int query = first; query <= last; ++query) seen |= mask.visible(query, key);
          CHECK(times[static_cast<std::size_t>(key)] == (seen ? 1 : 0));
        }
      }
}
