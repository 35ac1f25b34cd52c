#include <cstdio>

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
};

void eval(const EvalOptions& options) {
  options.data.validate();
  const rf::ModelConfig config = rf::read_model_config(options.model);
  const TextCodec codec(options.model, config);
  Model model = load(options.model);
  const rf::TokenText text = options.data.read(codec);
  use_cpu(options);
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
  add_common_options(*command, *options);
  command->callback([options] { eval(*options); });
}

}  // namespace cli
