// 07  The whole method as library calls: a Transformer, where its heads look, a plan, conversion, continual
// training, generation.
//
//   g++ -std=c++20 -O2 -march=native -pthread -I include examples/07_convert_a_model.cpp -o
//   07_convert_a_model
//   ./07_convert_a_model
//
// The model is as small as one can be that a second of training teaches something; examples/demo.sh does the
// same at a size where qualities mean something, and the command line (examples/recurformer/) with files in
// between. Next: 08_simulated_kernel.cpp.

#include <array>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "recurformer/core/parallel.hpp"
#include "recurformer/cpu/attention_mixer.hpp"
#include "recurformer/cpu/mamba_mixer.hpp"
#include "recurformer/eval/evaluate.hpp"
#include "recurformer/model/generate.hpp"
#include "recurformer/model/model.hpp"
#include "recurformer/plan/analysis.hpp"
#include "recurformer/plan/convert.hpp"
#include "recurformer/plan/select.hpp"
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/mamba.hpp"
#include "recurformer/train/trainer.hpp"

/// The kinds of heads that this program can run; which head is of which kind is data.
struct Any {
  using Kinds = rf::Kinds<rf::Kind<rf::Attention<>, rf::Fp32>, rf::Kind<rf::Mamba<>, rf::Fp32>>;
  using Precision = rf::Fp32;
  using Widths = std::integer_sequence<int, 16>;
};
using Model = rf::Model<Any>;

const rf::ModelShape tiny{
    .vocabulary = 128,  // ASCII
    .layers = 2,
    .layer = {.d_model = 48, .d_head = 16, .kv_groups = 4, .queries_per_group = 1, .d_ff = 96},
    .tied_embeddings = true};

/// Sentences of three words, some thousand of them: what a token is depends on the ones just before it.
std::string sentences() {
  constexpr std::array<std::string_view, 4> who = {"the cat", "a dog", "one bird", "my fish"},
                                            does = {" sees ", " likes ", " hears ", " fears "},
                                            whom = {"the moon. ", "a cloud. ", "one tree. ", "my house. "};
  rf::Random random(7);
  std::string out;
  for (int i = 0; i < 4000; ++i) {
    out += who[random.below(4)];
    out += does[random.below(4)];
    out += whom[random.below(4)];
  }
  return out;
}

/// Trains to the end; returns the last loss.
double train(Model& model, const rf::MixedData& data, const rf::TrainOptions& options,
             Model* original = nullptr) {
  rf::Trainer<Model> trainer(model, options, original);
  double loss = 0;
  while (!trainer.done()) loss = trainer.step(data).loss;
  return loss;
}

double bits_per_byte(Model& model, const rf::TokenText& text) {
  const rf::TextScore score = rf::evaluate_text(model, text, 64, 16);
  return score.bits_per_byte(score.tokens);  // a token is a byte
}

/// What every KV group's heads give to the latest 8 tokens, and at which distances they look.
rf::ModelAnalysis analyse(Model& model, const rf::MixedData& data) {
  rf::Analyser<Model> analyser(model, {.window = 8, .sink = 1});
  for (std::int64_t batch = 0; batch < 4; ++batch) analyser.add(data(1000 + batch));
  return analyser.result();
}

int main() {
  rf::set_threads(1);  // so small a model is quickest on one
  const std::array<std::string, 1> documents = {sentences()};
  const auto text = rf::TokenText::of_bytes(documents);
  const rf::MixedData data{.text = &text, .rows = 4, .length = 64, .copy_rows = 0};

  // A Transformer: attention heads everywhere. (A pretrained one: rf::load_model in
  // checkpoint/model_files.hpp.)
  Model original(tiny, rf::uniform_plan({"attention", "fp32", {}}, tiny.layers, tiny.layer.kv_groups));
  rf::initialise(original.weights(), 1);
  train(original, data, {.steps = 120, .rate = 1.5e-2, .warmup = 5});
  const double before = bits_per_byte(original, text);

  // Measure, and replace the half of the KV groups that look nearby most.
  const rf::ModelAnalysis analysis = analyse(original, data);
  const rf::GroupScores scores =
      rf::group_scores(analysis, rf::GroupScore::mean, [](const auto& measured) { return measured.recency; });
  const rf::Plan plan =
      rf::select_groups(original.named_plan(), {"mamba", "fp32", {}}, scores, {.fraction = 0.5});
  for (std::size_t l = 0; l < scores.size(); ++l)
    for (std::size_t g = 0; g < scores[l].size(); ++g)
      std::printf("layer %zu, group %zu: recency ratio %.2f, %s\n", l, g, scores[l][g],
                  plan.kinds[static_cast<std::size_t>(plan.kind_of_group[l][g])].name().c_str());

  // Convert: everything else stays bit for bit; a new head starts from the weights and distances of the old
  // one.
  Model hybrid = rf::convert_model(original, plan, rf::profiles_of(analysis));
  const double converted = bits_per_byte(hybrid, text);

  // Train on: first the new heads by themselves, to do what the old ones did, then the whole model, which the
  // original holds on to.
  const double mismatch =
      train(hybrid, data,
            {.objective = rf::Objective::match_heads, .steps = 30, .new_rate = 1e-2, .warmup = 2}, &original);
  const double matched = bits_per_byte(hybrid, text);
  train(hybrid, data, {.steps = 40, .rate = 5e-3, .new_rate = 5e-3, .warmup = 2, .divergence_weight = 0.5},
        &original);
  const double after = bits_per_byte(hybrid, text);
  std::printf(
      "bits per byte: original %.3f, converted %.3f, heads matched (to %.0f %%) %.3f, trained on %.3f\n",
      before, converted, 100 * mismatch, matched, after);

  const std::int64_t whole = original.cache_layout().bytes(65536), half = hybrid.cache_layout().bytes(65536);
  std::printf("cache at 64k tokens: %lld and %lld bytes\n", static_cast<long long>(whole),
              static_cast<long long>(half));

  const std::string start = "the cat sees ";
  const std::vector<rf::Token> prompt(start.begin(), start.end());
  rf::Cache cache = hybrid.make_cache();
  std::printf("%s", start.c_str());
  rf::generate(hybrid, cache, prompt, 80, {.temperature = 0.7, .seed = 1}, [](rf::Token token) {
    std::putchar(token);
    return true;
  });
  std::printf("\n");

  // Half of the cache is gone, and the quality is the original's (which was not trained as long).
  const bool smaller = 10 * half < 6 * whole;
  return smaller && matched < converted && after < 1.1 * before + 0.05 ? 0 : 1;
}
