#include <cstdio>

#include "commands.hpp"
#include "model_io.hpp"
#include "recurformer/checkpoint/plan_file.hpp"
#include "recurformer/checkpoint/tokenizer_files.hpp"
#include "recurformer/model/plan_sizes.hpp"
#include "recurformer/plan/analysis_file.hpp"
#include "recurformer/plan/convert_files.hpp"
#include "steps.hpp"

namespace cli {

namespace {

struct ConvertOptions : CommonOptions {
  std::string model, plan, analysis, out;
};

void convert(const ConvertOptions& options) {
  const rf::ModelConfig config = rf::read_model_config(options.model);
  const rf::Plan plan = rf::read_plan(options.plan, config.shape).plan;
  rf::ModelProfiles profiles;
  if (!options.analysis.empty())
    profiles = rf::profiles_of(rf::read_analysis(options.analysis, config.shape).analysis);
  const std::string memory = check_memory("converting", rf::conversion_memory<Model::Kinds>(config, plan));
  std::printf("memory: %s, beside the files, which are read in place\n", memory.c_str());
  rf::convert_files<Model::Kinds>(options.model, plan, profiles, options.seed, options.out,
                                  LateProgress("convert layers"));
  rf::copy_tokenizer_files(options.model, options.out);
  const auto after_plan = program_plan(rf::read_model_config(options.out));
  const rf::CacheLayout before = rf::cache_layout(config.shape, program_plan(config)),
                        after = rf::cache_layout(config.shape, after_plan);
  for (const std::int64_t context : quoted_contexts)
    std::printf(
        "cache at %6lld tokens: %s -> %s (%.1f %%)\n", static_cast<long long>(context),
        bytes_text(before.bytes(context)).c_str(), bytes_text(after.bytes(context)).c_str(),
        100.0 * static_cast<double>(after.bytes(context)) / static_cast<double>(before.bytes(context)));
  std::printf("wrote %s\n", options.out.c_str());
  write_results(options, {{"cache_bytes_before", cache_json(before)},
                          {"cache_bytes_after", cache_json(after)},
                          {"parameters", rf::parameter_count(config.shape, after_plan)}});
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
