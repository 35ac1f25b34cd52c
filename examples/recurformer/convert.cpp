#include <cstdio>

#include "commands.hpp"
#include "model_io.hpp"
#include "recurformer/checkpoint/plan_file.hpp"
#include "recurformer/checkpoint/tokenizer_files.hpp"
#include "recurformer/plan/analysis_file.hpp"
#include "steps.hpp"

namespace cli {

namespace {

struct ConvertOptions : CommonOptions {
  std::string model, plan, analysis, out;
};

void convert(const ConvertOptions& options) {
  Model original = load(options.model);
  const rf::PlanDocument plan = rf::read_plan(options.plan, original.shape());
  rf::ModelProfiles profiles;
  if (!options.analysis.empty())
    profiles = rf::profiles_of(rf::read_analysis(options.analysis, original.shape()).analysis);
  Model converted = rf::convert_model(original, plan.plan, profiles, options.seed);
  save(converted, options.out, rf::read_model_config(options.model));
  rf::copy_tokenizer_files(options.model, options.out);
  const nlohmann::json before = cache_json(original), after = cache_json(converted);
  for (const std::int64_t context : quoted_contexts) {
    const std::int64_t old_bytes = original.cache_layout().bytes(context),
                       new_bytes = converted.cache_layout().bytes(context);
    std::printf("cache at %6lld tokens: %s -> %s (%.1f %%)\n", static_cast<long long>(context),
                bytes_text(old_bytes).c_str(), bytes_text(new_bytes).c_str(),
                100.0 * static_cast<double>(new_bytes) / static_cast<double>(old_bytes));
  }
  std::printf("wrote %s\n", options.out.c_str());
  write_results(options, {{"cache_bytes_before", before},
                          {"cache_bytes_after", after},
                          {"parameters", parameter_count(converted)}});
}

}  // namespace

void add_convert(CLI::App& program) {
  auto options = std::make_shared<ConvertOptions>();
  auto* command = program.add_subcommand(
      "convert", "Replace the heads that a plan names, starting them from the attention weights");
  command->footer(
      "Example: recurformer convert runs/original --plan plan.json --analysis analysis.json --out "
      "runs/converted");
  command->add_option("model", options->model, "Model folder")->required();
  command->add_option("--plan", options->plan, "Plan file")->required();
  command->add_option("--analysis", options->analysis,
                      "Analysis file; its distance profiles start recurrent heads");
  command->add_option("--out", options->out, "Folder for the converted model")->required();
  add_common_options(*command, *options);
  command->callback([options] { convert(*options); });
}

}  // namespace cli
