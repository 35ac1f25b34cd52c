#include "steps.hpp"

#include <cstring>
#include <filesystem>

#include "recurformer/model/plan_sizes.hpp"
#include "recurformer/train/checkpointing.hpp"

namespace cli {

std::vector<LossPoint> train(rf::Trainer<Model>& trainer, const rf::MixedData& data, const std::string& label,
                             const std::optional<SavedRun>& saved) {
  if (saved && std::filesystem::exists(saved->path)) {
    rf::load_training_state(trainer, saved->run, saved->path);
    std::fprintf(stderr, "%s: resumed at step %lld of %lld\n", label.c_str(),
                 static_cast<long long>(trainer.steps()), static_cast<long long>(trainer.options().steps));
  }
  const std::int64_t first = trainer.steps(), total = trainer.options().steps;
  std::vector<LossPoint> curve;
  Progress progress(label, total, first);
  const Stopwatch watch;
  std::int64_t tokens = 0, tokens_per_step = 0;
  double smoothed = 0;
  while (!trainer.done()) {
    const rf::StepReport report = trainer.step(data);
    tokens += report.tokens;
    tokens_per_step = report.tokens;
    smoothed = report.step == first + 1 ? report.loss : 0.9 * smoothed + 0.1 * report.loss;
    curve.push_back({report.step * tokens_per_step, report.loss});
    progress.update(report.step, "loss " + fixed(smoothed, 4) + "  " +
                                     fixed(static_cast<double>(tokens) / watch.seconds(), 0) + " tokens/s");
    if (saved && (report.step % saved->every == 0 || trainer.done()))
      rf::save_training_state(trainer, saved->run, saved->path);
  }
  return curve;
}

rf::ModelAnalysis analyse(Model& model, const rf::MixedData& data, std::int64_t batches,
                          const rf::AnalysisOptions& options) {
  rf::Analyser<Model> analyser(model, options);
  Progress progress("analyse", batches);
  for (std::int64_t i = 0; i < batches; ++i) {
    analyser.add(data(i));
    progress.update(i + 1);
  }
  return analyser.result();
}

Quality evaluate(Model& model, const rf::TokenText& text, std::int64_t length, std::int64_t copy_lag,
                 std::uint64_t seed, std::int64_t text_rows, std::int64_t copy_rows) {
  return {.text = rf::evaluate_text(model, text, length, text_rows, LateProgress("eval rows of text")),
          .copy_recall = rf::evaluate_task(model, rf::CopyTask{.row_length = length, .lag = copy_lag},
                                           rf::Split::held_out, copy_rows, seed, rf::Scoring::per_token,
                                           LateProgress("eval rows of copies"))
                             .accuracy()};
}

std::string score_text(const rf::TextScore& score, const rf::TokenText& text, const TextCodec& codec,
                       nlohmann::json& results) {
  std::string out = "loss " + fixed(score.loss, 4) + " per token, perplexity " + fixed(score.perplexity(), 2);
  results["loss_per_token"] = score.loss;
  results["perplexity"] = score.perplexity();
  results["tokens"] = score.tokens;
  const auto bytes = predicted_bytes(score, text, codec);
  if (!bytes || *bytes == 0) return out;
  results["bits_per_byte"] = score.bits_per_byte(*bytes);
  results["bytes"] = *bytes;
  return out + ", bits per byte " + fixed(score.bits_per_byte(*bytes), 4);
}

namespace {

/// A copy, rearranged for inference as generation does; the model itself can be trained on.
Model packed_copy(Model& model) {
  Model copy(model.shape(), model.named_plan());
  const auto from = rf::parameter_refs(model.weights()), to = rf::parameter_refs(copy.weights());
  for (std::size_t i = 0; i < from.size(); ++i)
    std::memcpy(to[i].data, from[i].data,
                static_cast<std::size_t>(from[i].size) * rf::size_of(from[i].dtype));
  copy.pack();
  return copy;
}

}  // namespace

Speed measure_speed(Model& trained, const rf::TokenText& text, std::int64_t context,
                    std::int64_t decoded_tokens) {
  Model model = packed_copy(trained);
  // The held-out text, repeated where it is shorter than the context: only the lengths matter here.
  std::vector<rf::Token> tokens;
  for (std::int64_t i = 0; i < context; ++i)
    tokens.push_back(text.held_out()[static_cast<std::size_t>(i) % text.held_out().size()]);
  rf::Cache cache = model.make_cache();
  Speed speed;
  const Stopwatch prefill;
  model.next_logits(tokens, cache);
  speed.prefill = static_cast<double>(context) / prefill.seconds();
  const Stopwatch decode;
  for (std::int64_t i = 0; i < decoded_tokens; ++i)
    model.next_logits(std::span(tokens).subspan(static_cast<std::size_t>(i % context), 1), cache);
  speed.decode = static_cast<double>(decoded_tokens) / decode.seconds();
  return speed;
}

nlohmann::json cache_json(const rf::CacheLayout& layout) {
  nlohmann::json out = nlohmann::json::object();
  for (const std::int64_t context : quoted_contexts) out[std::to_string(context)] = layout.bytes(context);
  return out;
}

std::int64_t parameter_count(const Model& model) { return rf::parameter_count(model.shape(), model.plan()); }

}  // namespace cli
