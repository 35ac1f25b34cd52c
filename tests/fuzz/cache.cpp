// load_cache, and a rollback of what was loaded.

#include <algorithm>
#include <cstdint>
#include <string_view>

#include "recurformer/checkpoint/cache_file.hpp"
#include "small_cache.hpp"
#include "target.hpp"

namespace {

/// What the next call of a model replays has to be among the inputs that were kept.
void check_replay(rf::Cache& cache) {
  for (std::size_t run = 0; run < cache.layout().layers[0].size(); ++run) {
    const std::int64_t from = cache.memory(0, 0, run).replay_from;
    if (from >= 0 && (from > cache.length() || cache.length() - from > 2 * cache.max_rollback()))
      rf::test::report_finding(rf::text("a replay from ", from, " to ", cache.length()));
  }
}

void load_cache(std::string_view bytes) {
  rf::Cache cache = rf::test::small_cache();
  rf::load_cache(cache, rf::test::scratch_file("f.cache", bytes));
  check_replay(cache);
  const rf::detail::SequenceMemory& sequence = cache.sequence(0);
  const std::int64_t most = cache.max_rollback() - (sequence.furthest - sequence.length);
  cache.rollback(std::min(most, sequence.length));
  check_replay(cache);
}

const rf::test::RegisteredTarget cache_target{{"cache", rf::test::json_memory, 1 << 15, load_cache}};

}  // namespace
