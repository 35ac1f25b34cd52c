// Prefill and decode of four layers of a model of 8B parameters (grouped queries, d_head 128) through
// rf::Model: all attention, and half of the groups Mamba2. The host's time, its own work included; `us/layer`
// is a quarter of it. A vocabulary of 1024 makes the logits cost nothing.
#include <cstdint>
#include <string>
#include <vector>

#include "model.cuh"

namespace rf::benchmarks {
namespace {

using Spec = HybridSpec<Mamba2<>, 128>;

constexpr HybridPlan plan_with(int attention_groups) {
  return {.shape = {.vocabulary = 1024,
                    .layers = 4,
                    .layer = {.d_model = 4096,
                              .d_head = 128,
                              .kv_groups = 8,
                              .queries_per_group = 4,
                              .d_ff = 14336,
                              .rope_base = 500000.0},
                    .tied_embeddings = true},
          .attention_groups = attention_groups};
}

/// Times body(), which waits for the device, as the host sees it.
template <class Body>
void measure_on_host(benchmark::State& state, const Work& work, double tokens, Body&& body) {
  body();
  double total = 0;
  for (auto _ : state) {
    const double seconds = host_seconds(body);
    state.SetIterationTime(seconds);
    total += seconds;
  }
  const double seconds = total / static_cast<double>(state.iterations());
  report(state, work, seconds);
  state.counters["us/layer"] = seconds * 1e6 / plan_with(0).shape.layers;
  state.counters["tokens/s"] = tokens / seconds;
}

void prefill(benchmark::State& state, int attention_groups) {
  auto& loaded = loaded_model<Spec>(plan_with(attention_groups));
  const std::int64_t count = state.range(0);
  const std::vector<Token> tokens = random_tokens(count, loaded.plan().shape.vocabulary);
  auto cache = loaded.model().make_cache();
  measure_on_host(state, loaded.prefill_work(count), static_cast<double>(count), [&] {
    cache.reset();
    loaded.model().next_logits(tokens, cache);
  });
}

void decode(benchmark::State& state, int attention_groups) {
  auto& loaded = loaded_model<Spec>(plan_with(attention_groups));
  const std::int64_t past = state.range(0), sequences = state.range(1);
  auto cache = loaded.model().make_cache({.sequences = sequences});
  feed(loaded, cache, past);
  std::vector<Token> tokens(static_cast<std::size_t>(sequences), 1);
  measure_on_host(state, loaded.decode_work(sequences, past), static_cast<double>(sequences),
                  [&] { step(loaded, cache, tokens); });
}

void add_plan(const std::string& name, int attention_groups) {
  add("layer_prefill/" + name, [=](benchmark::State& state) { prefill(state, attention_groups); })
      ->ArgNames({"tokens"})
      ->Iterations(5)
      ->Args({2048})
      ->Args({8192})
      ->Args({32768});
  auto* const decoding =
      add("layer_decode/" + name, [=](benchmark::State& state) { decode(state, attention_groups); });
  decoding->ArgNames({"past", "sequences"})->Repetitions(3);
  for (const std::int64_t past : {1024, 8192, 32768})
    for (const std::int64_t sequences : {1, 2, 4, 8}) decoding->Args({past, sequences});
}

[[maybe_unused]] const bool registered = [] {
  add_plan("attention", 8);
  add_plan("half_mamba2", 4);
  return true;
}();

}  // namespace
}  // namespace rf::benchmarks
