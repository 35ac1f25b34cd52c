// Attention of one new token per sequence over 1k to 128k cached ones: the bytes of keys and values are the
// work. Groups of four queries at d_head 128 as in large models, one query per group at d_head 64, where 64
// sequences of 128k keys are 64 GiB.
#include <cstdint>
#include <span>
#include <vector>

#include "attention.cuh"
#include "recurformer/cuda/attention_decode.hpp"

namespace rf::benchmarks {
namespace {

template <int D>
void decode(benchmark::State& state) {
  using Tuning = cuda::DecodeTuning<D>;
  const AttentionSizes sizes{.tokens = 1,
                             .past = state.range(0) - 1,
                             .groups = static_cast<int>(state.range(1)),
                             .queries = static_cast<int>(state.range(2)),
                             .sequences = static_cast<int>(state.range(3))};
  const AttentionBatch<D> batch(sizes);
  const auto parameters = batch.parameters();
  const cuda::DecodePlan plan =
      cuda::plan_decode<Tuning>(batch.sequences(), sizes.groups, sizes.queries, parameters.mask,
                                gpu().multiprocessors() * Tuning::blocks_per_multiprocessor);
  const auto items = on_device(plan.items);
  const DeviceArray<float> partials(gpu(), cuda::decode_partial_floats<D>(plan));
  const auto counters = on_device(std::vector<unsigned>(static_cast<std::size_t>(plan.counters)));
  measure(state, batch.work(), [&] {
    cuda::attention_decode<D>(gpu(), parameters, std::span(items.data(), items.size()),
                              {.partials = partials.data(), .counters = counters.data()});
  });
}

void add_sizes(benchmark::internal::Benchmark* b, int groups, int queries) {
  b->ArgNames({"keys", "groups", "queries", "sequences"});
  for (const std::int64_t keys : {1024, 4096, 16384, 131072})
    for (const std::int64_t sequences : {1, 8, 64}) b->Args({keys, groups, queries, sequences});
}

[[maybe_unused]] const bool registered = [] {
  add_sizes(add("attention_decode<64>", decode<64>), 32, 1);
  add_sizes(add("attention_decode<128>", decode<128>), 8, 4);
  return true;
}();

}  // namespace
}  // namespace rf::benchmarks
