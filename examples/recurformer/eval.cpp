#include <cstdio>
#include <utility>

#include "commands.hpp"
#include "data_options.hpp"
#include "model_io.hpp"
#include "steps.hpp"

namespace cli {

namespace {

struct EvalOptions : CommonOptions {
  std::string model;
  DataOptions data;
  std::int64_t text_rows = 512, task_rows = 128;
  bool int8_weights = false;
};

/// Prints what a model scores, and returns it.
nlohmann::json print_scores(Model& model, const EvalOptions& options, const rf::TokenText& text,
                            const TextCodec& codec) {
  const rf::TextScore score = rf::evaluate_text(model, text, options.data.length, options.text_rows,
                                                LateProgress("eval rows of text"));
  nlohmann::json results;
  std::printf("%s  (%lld held-out tokens)\n", score_text(score, text, codec, results).c_str(),
              static_cast<long long>(score.tokens));
  const auto task = [&](const char* name, const auto& definition, rf::Scoring scoring) {
    const rf::TaskScore task_score =
        rf::evaluate_task(model, definition, rf::Split::held_out, options.task_rows, options.seed, scoring,
                          LateProgress(rf::text("eval rows of ", name)));
    std::printf("%-15s %.4f  (%lld of %lld)\n", name, task_score.accuracy(),
                static_cast<long long>(task_score.correct), static_cast<long long>(task_score.total));
    results[name] = task_score.accuracy();
  };
  task("copy", rf::CopyTask{.row_length = options.data.length, .lag = options.data.copy_lag},
       rf::Scoring::per_token);
  task("mqar", rf::MqarTask{.row_length = options.data.length, .vocabulary = 256}, rf::Scoring::per_token);
  if (codec.is_bytes()) {  // its rows are text, letter by letter
    task("hash-hop-1", rf::HashHopTask{}, rf::Scoring::whole_answers);
    task("hash-hop-2", rf::HashHopTask{.chains = 4, .hops = 2}, rf::Scoring::whole_answers);
  }
  return results;
}

/// By how much scores differ. Integers are counts, which do not.
nlohmann::json difference(const nlohmann::json& from, const nlohmann::json& to) {
  nlohmann::json out;
  for (const auto& [name, value] : to.items())
    if (value.is_number_float()) out[name] = value.get<double>() - from.at(name).get<double>();
  return out;
}

void eval(const EvalOptions& options) {
  options.data.validate();
  const rf::ModelConfig config = rf::read_model_config(options.model);
  const TextCodec codec(options.model, config);
  Model model = load(options.model);
  const rf::TokenText text = options.data.read(codec);
  use_cpu(options);
  nlohmann::json results = print_scores(model, options, text, codec);
  if (options.int8_weights) {
    rf::round_to_int8(model.weights());
    std::printf("\nwith weights in 8-bit integers:\n");
    nlohmann::json rounded = print_scores(model, options, text, codec);
    rounded["difference"] = difference(results, rounded);
    std::printf("\ndifference:\n");
    for (const auto& [name, value] : rounded["difference"].items())
      std::printf("%-15s %+.4f\n", name.c_str(), value.get<double>());
    results["int8_weights"] = std::move(rounded);
  }
  write_results(options, results);
}

}  // namespace

void add_eval(CLI::App& program) {
  auto options = std::make_shared<EvalOptions>();
  auto* command = program.add_subcommand(
      "eval",
      "Loss on held-out text, per token and per byte; recall on copies, MQAR and, for bytes, HashHop");
  command->footer("Example: recurformer eval runs/hybrid --text book.txt --json eval.json");
  command->add_option("model", options->model, "Model folder")->required();
  add_data_options(*command, options->data);
  command->add_option("--text-rows", options->text_rows, "Held-out rows of text, at most")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--task-rows", options->task_rows, "Rows per task")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_flag("--int8-weights", options->int8_weights,
                    "Evaluate again with weights rounded to 8-bit integers, and print the difference");
  add_common_options(*command, *options);
  command->callback([options] { eval(*options); });
}

}  // namespace cli
