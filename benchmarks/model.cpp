// Whole models on the CPU: decoding at the sizes of published ones, and training steps.
//
// A decoded token reads every packed weight once per call and every sequence's cache once; it multiplies
// every weight once per sequence and every visible key and value once per query. The cache is filled with
// numbers, not prefilled: decoding takes as long on any. A training step is three forward passes' products
// (forward, two gradients) and attention's.

#include "recurformer/model/model.hpp"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "ceilings.hpp"
#include "recurformer/core/random.hpp"
#include "recurformer/cpu/attention_mixer.hpp"
#include "recurformer/cpu/mamba_mixer.hpp"
#include "recurformer/model/plan_sizes.hpp"
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/mamba.hpp"
#include "recurformer/train/trainer.hpp"

namespace {

using rf::benchmarks::measure;

template <class P>
struct Spec {
  using Kinds = rf::Kinds<rf::Kind<rf::Attention<>, P>, rf::Kind<rf::Mamba<>, P>>;
  using Precision = P;
  using Widths = std::integer_sequence<int, 64>;
};

enum class Size : std::int64_t { qwen2_500m, llama_1b, many_groups_500m };

rf::ModelShape shape_of(Size size) {
  switch (size) {
    case Size::llama_1b:  // Llama 3.2 1B
      return {.vocabulary = 128256,
              .layers = 16,
              .layer = {.d_model = 2048, .d_head = 64, .kv_groups = 8, .queries_per_group = 4, .d_ff = 8192},
              .tied_embeddings = true};
    case Size::many_groups_500m:  // the same as Qwen2's, with keys and values for every head
      return {.vocabulary = 151936,
              .layers = 24,
              .layer = {.d_model = 896, .d_head = 64, .kv_groups = 14, .queries_per_group = 1, .d_ff = 4864},
              .tied_embeddings = true};
    case Size::qwen2_500m:
      break;
  }
  return {.vocabulary = 151936,
          .layers = 24,
          .layer = {.d_model = 896, .d_head = 64, .kv_groups = 2, .queries_per_group = 7, .d_ff = 4864},
          .tied_embeddings = true};
}

/// So many percent of all KV groups, spread evenly, are Mamba heads.
rf::Plan plan_of(const rf::ModelShape& shape, std::int64_t percent, const char* precision) {
  rf::Plan plan{.kinds = {{"attention", precision, {}}, {"mamba", precision, {}}}, .kind_of_group = {}};
  std::int64_t seen = 0;
  for (int layer = 0; layer < shape.layers; ++layer) {
    auto& groups = plan.kind_of_group.emplace_back();
    for (int group = 0; group < shape.layer.kv_groups; ++group, ++seen)
      groups.push_back((seen + 1) * percent / 100 > seen * percent / 100 ? 1 : 0);
  }
  return plan;
}

/// Attention heads of all layers.
template <class M>
std::int64_t attention_heads(const M& model) {
  std::int64_t groups = 0;
  for (const auto& kind_of_group : model.plan().kind_of_group)
    groups += std::count(kind_of_group.begin(), kind_of_group.end(), 0);
  return groups * model.shape().layer.queries_per_group;
}

using Model = rf::Model<Spec<rf::Bf16>>;

/// A model in inference order. The last one is kept: benchmarks of one model follow each other.
Model& model_of(Size size, std::int64_t percent) {
  static std::pair<Size, std::int64_t> made;
  static std::unique_ptr<Model> model;
  if (model == nullptr || made != std::pair(size, percent)) {
    model.reset();
    model = std::make_unique<Model>(shape_of(size), plan_of(shape_of(size), percent, "bf16"));
    rf::initialise(model->weights(), 1);
    model->pack();
    made = {size, percent};
  }
  return *model;
}

/// Lets every sequence have `context` tokens behind it.
void fill(rf::Cache& cache, std::int64_t context) {
  for (std::int64_t index = 0; index < cache.sequences(); ++index) {
    cache.reserve(index, context);
    for (auto& layer : cache.sequence(index).layers)
      for (auto& run : layer)
        for (auto& field : run.fields)
          for (std::size_t p = 0; p < field.pages.size(); ++p) {
            auto* const numbers = static_cast<rf::bf16*>(field.page_pointers[p]);
            const auto count = field.pages[p].bytes() / std::int64_t{sizeof(rf::bf16)};
            for (std::int64_t i = 0; i < count; ++i)
              numbers[i] = rf::convert<rf::bf16>(static_cast<float>((i * 37 + index) % 61) * 0.05f - 1.5f);
          }
    cache.advance(index, context);
  }
}

// Arguments: size, tokens of context, sequences, percent of the KV groups that are Mamba heads.
void decode(benchmark::State& state) {
  const auto size = static_cast<Size>(state.range(0));
  const std::int64_t context = state.range(1), sequences = state.range(2), percent = state.range(3);
  Model& model = model_of(size, percent);
  const rf::ModelShape& shape = model.shape();
  rf::Cache cache = model.make_cache({.sequences = sequences});
  fill(cache, context);

  const auto parameters = static_cast<double>(rf::parameter_count(shape, model.plan()));
  const auto cached = static_cast<double>(model.cache_layout().bytes(context) * sequences);
  const auto scores = static_cast<double>(attention_heads(model) * context * sequences);
  const rf::benchmarks::Work work{
      .operations = 2 * parameters * static_cast<double>(sequences) + scores * 4 * shape.layer.d_head,
      .bytes = parameters * sizeof(rf::bf16) + cached,
      .exponentials = scores};

  std::vector<rf::SequenceTokens> parts;
  for (std::int64_t index = 0; index < sequences; ++index) parts.push_back({index, 1});
  std::vector<rf::Token> tokens(parts.size());
  std::iota(tokens.begin(), tokens.end(), 1000);
  std::vector<float> logits(static_cast<std::size_t>(sequences * shape.vocabulary));
  measure(state, work, [&] {
    model.logits(model.forward(tokens, parts, cache), sequences, logits.data());
    benchmark::ClobberMemory();
  });
  state.counters["cache_MiB"] = cached / (1 << 20);
}

void decode_arguments(benchmark::internal::Benchmark* b) {
  const auto add = [&](Size size, std::int64_t context, std::int64_t sequences, std::int64_t percent) {
    b->Args({static_cast<std::int64_t>(size), context, sequences, percent});
  };
  for (const Size size : {Size::qwen2_500m, Size::llama_1b})
    for (const std::int64_t context : {1 << 10, 1 << 13, 1 << 16}) add(size, context, 1, 0);
  for (const std::int64_t sequences : {8, 32}) {
    add(Size::qwen2_500m, 1 << 10, sequences, 0);
    add(Size::qwen2_500m, 1 << 13, sequences, 0);
    add(Size::llama_1b, 1 << 10, sequences, 0);
  }
  // What RecurFormer promises at long contexts: beside each other, all attention and 90 % replaced.
  for (const std::int64_t percent : {0, 90}) add(Size::many_groups_500m, 1 << 16, 1, percent);
  for (const std::int64_t percent : {0, 90}) add(Size::qwen2_500m, 1 << 16, 8, percent);
  b->ArgNames({"size", "context", "sequences", "replaced"})->UseRealTime()->Unit(benchmark::kMillisecond);
}
BENCHMARK(decode)->Apply(decode_arguments);

// Arguments: d_model, layers, percent of the KV groups that are Mamba heads. Eight sequences of 512 tokens.
void training_step(benchmark::State& state) {
  constexpr std::int64_t sequences = 8, length = 512;
  const auto d_model = static_cast<int>(state.range(0));
  const rf::ModelShape shape{.vocabulary = 8192,
                             .layers = static_cast<int>(state.range(1)),
                             .layer = {.d_model = d_model,
                                       .d_head = 64,
                                       .kv_groups = d_model / 128,
                                       .queries_per_group = 2,
                                       .d_ff = d_model / 32 * 88},  // 2.75 d_model, as Llama's
                             .tied_embeddings = true};
  rf::Model<Spec<rf::Fp32>> model(shape, plan_of(shape, state.range(2), "fp32"));
  rf::initialise(model.weights(), 1);
  rf::Trainer trainer(model, {.steps = 1 << 20});
  rf::Random random(1);
  rf::Batch batch;
  for (std::int64_t s = 0; s < sequences; ++s) {
    std::vector<rf::Token> tokens;
    for (std::int64_t i = 0; i <= length; ++i)
      tokens.push_back(static_cast<rf::Token>(random.uniform(0.0, static_cast<double>(shape.vocabulary))));
    const std::span<const rf::Token> all = tokens;
    batch.append(all.first(length), all.last(length));
  }
  const auto parameters = static_cast<double>(rf::parameter_count(shape, model.plan()));
  const auto scores = static_cast<double>(attention_heads(model) * sequences * length * (length + 1) / 2);
  measure(
      state,
      {.operations = 6 * parameters * sequences * length + 7 * 2 * 64 * scores, .exponentials = 2 * scores},
      [&] { trainer.step([&](std::int64_t) { return batch; }); });
  state.counters["tokens/s"] = benchmark::Counter(
      static_cast<double>(sequences * length * state.iterations()), benchmark::Counter::kIsRate);
}
BENCHMARK(training_step)
    ->ArgNames({"d_model", "layers", "replaced"})
    ->Args({384, 6, 0})
    ->Args({384, 6, 50})
    ->Args({768, 12, 0})
    ->Args({768, 12, 50})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();
