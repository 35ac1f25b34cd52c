// Causal attention of whole prompts, 16384 tokens per call in sequences of 512 to 16384: d_head 64 and 128 at
// the same width of 2048, and a large model's grouped queries; by the kernel for all GPUs and by Hopper's.
#include <cstdint>
#include <span>

#include "attention.cuh"
#include "recurformer/cuda/attention_prefill.hpp"
#include "recurformer/cuda/sm90/attention_prefill.hpp"

namespace rf::benchmarks {
namespace {

constexpr std::int64_t tokens_per_call = 16384;

/// Times launch(parameters, items) with the items of a tuning.
template <int D, class Tuning, class Launch>
void prefill_by(benchmark::State& state, Launch launch) {
  const AttentionSizes sizes{.tokens = state.range(0),
                             .groups = static_cast<int>(state.range(1)),
                             .queries = static_cast<int>(state.range(2)),
                             .sequences = static_cast<int>(state.range(3))};
  const AttentionBatch<D> batch(sizes);
  const auto parameters = batch.parameters();
  const auto items =
      on_device(cuda::plan_prefill<Tuning>(batch.sequences(), sizes.groups, sizes.queries, parameters.mask));
  measure(state, batch.work(), [&] { launch(parameters, std::span(items.data(), items.size())); });
}

template <int D>
void prefill(benchmark::State& state) {
  using Tuning = cuda::PrefillTuning<D>;
  prefill_by<D, Tuning>(state, [](const auto& parameters, auto items) {
    cuda::attention_prefill<D, Tuning>(gpu(), parameters, items);
  });
}

template <int D>
void prefill_sm90(benchmark::State& state) {
  using Tuning = cuda::PrefillTuningSm90<D>;
  prefill_by<D, Tuning>(state, [](const auto& parameters, auto items) {
    cuda::attention_prefill_sm90<D, Tuning>(gpu(), cuda::sm90::mapped<Tuning, D>(parameters), items);
  });
}

void add_sizes(benchmark::internal::Benchmark* b, int groups, int queries, std::int64_t shortest) {
  b->ArgNames({"tokens", "groups", "queries", "sequences"});
  for (std::int64_t tokens = shortest; tokens <= tokens_per_call; tokens *= 2)
    b->Args({tokens, groups, queries, tokens_per_call / tokens});
}

[[maybe_unused]] const bool registered = [] {
  add_sizes(add("attention_prefill<64>", prefill<64>), 32, 1, 512);
  add_sizes(add("attention_prefill<128>", prefill<128>), 16, 1, 512);
  add_sizes(add("attention_prefill<128>", prefill<128>), 8, 4, 4096);
  add_sizes(add_hopper("attention_prefill_sm90<64>", prefill_sm90<64>), 32, 1, 512);
  add_sizes(add_hopper("attention_prefill_sm90<128>", prefill_sm90<128>), 16, 1, 512);
  add_sizes(add_hopper("attention_prefill_sm90<128>", prefill_sm90<128>), 8, 4, 4096);
  return true;
}();

}  // namespace
}  // namespace rf::benchmarks
