// A prompt of 1k to 64k tokens, a first token and 64 more, end to end: a model of 1B parameters with one
// query head per group, all of its heads attention or 29 of 32 in every layer Mamba (β = 0.9). The time is
// the host's for both; GB/s and share are decode's. The ratio of the two models' decode_bytes is the speed-up
// that bytes allow.
#include <cstdint>
#include <string>
#include <vector>

#include "model.cuh"

namespace rf::benchmarks {
namespace {

using Spec = HybridSpec<Mamba<>, 64>;

constexpr int generated = 64;

constexpr HybridPlan plan_with(int attention_groups) {
  return {.shape = {.vocabulary = 32000,
                    .layers = 16,
                    .layer = {.d_model = 2048,
                              .d_head = 64,
                              .kv_groups = 32,
                              .queries_per_group = 1,
                              .d_ff = 8192,
                              .rope_base = 500000.0},
                    .tied_embeddings = true},
          .attention_groups = attention_groups};
}

void generation(benchmark::State& state, int attention_groups) {
  auto& loaded = loaded_model<Spec>(plan_with(attention_groups));
  const std::int64_t prompt = state.range(0), sequences = state.range(1);
  double prefill_seconds = 0, decode_seconds = 0;
  std::int64_t cache_bytes = 0;
  for (auto _ : state) {
    auto cache = loaded.model().make_cache({.sequences = sequences});
    std::vector<Token> tokens(static_cast<std::size_t>(sequences), 1);
    prefill_seconds = host_seconds([&] {
      feed(loaded, cache, prompt);
      step(loaded, cache, tokens);  // the first token finds the cache full, and has it grow
    });
    decode_seconds = host_seconds([&] {
      for (int i = 0; i < generated; ++i) step(loaded, cache, tokens);
    });
    state.SetIterationTime(prefill_seconds + decode_seconds);
    cache_bytes = cache.layout().bytes(cache.length()) * sequences;
  }
  const Work work = loaded.decode_work(sequences, prompt + generated / 2);
  report(state, work, decode_seconds / generated);
  state.counters["prefill_tokens/s"] = static_cast<double>(prompt * sequences) / prefill_seconds;
  state.counters["decode_tokens/s"] = generated * static_cast<double>(sequences) / decode_seconds;
  state.counters["decode_bytes"] = work.bytes;
  state.counters["cache_bytes"] = static_cast<double>(cache_bytes);
}

void add_plan(const std::string& name, int attention_groups) {
  auto* const b =
      add("generation/" + name, [=](benchmark::State& state) { generation(state, attention_groups); });
  b->ArgNames({"prompt", "sequences"})->Iterations(1)->Repetitions(3)->Unit(benchmark::kMillisecond);
  for (const std::int64_t prompt : {1024, 4096, 16384, 65536}) b->Args({prompt, 1});
  b->Args({4096, 8});
}

[[maybe_unused]] const bool registered = [] {
  add_plan("attention", 32);
  add_plan("hybrid", 3);
  return true;
}();

}  // namespace
}  // namespace rf::benchmarks
