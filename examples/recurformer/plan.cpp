#include <cstdio>

#include "commands.hpp"
#include "model_io.hpp"
#include "recurformer/checkpoint/atomic_file.hpp"
#include "recurformer/checkpoint/plan_file.hpp"
#include "recurformer/model/plan_sizes.hpp"
#include "recurformer/plan/analysis_file.hpp"
#include "recurformer/plan/emit_header.hpp"
#include "steps.hpp"

namespace cli {

namespace {

struct PlanOptions : CommonOptions {
  std::string model, analysis, out, header, score = "recency", replacement = "mamba";
  rf::Selection selection;
  std::vector<std::string> kept_groups;
  bool minimum = false;
  std::int64_t sink = 4, window = 32;
  double recall_weight = 1.0;
};

rf::GroupScores scores_of(const PlanOptions& options, const rf::ModelShape& shape,
                          const rf::KindChoice& replacement) {
  if (options.score == "random")
    return rf::random_scores(static_cast<std::size_t>(shape.layers),
                             static_cast<std::size_t>(shape.layer.kv_groups), options.seed);
  rf::check(!options.analysis.empty(), "--score ", options.score,
            " needs --analysis, the file that analyze wrote");
  const rf::AnalysisDocument document = rf::read_analysis(options.analysis, shape);
  const rf::GroupScore how = options.minimum ? rf::GroupScore::minimum : rf::GroupScore::mean;
  if (options.score == "swap") {
    rf::check(document.swap.has_value(), options.analysis, " has no swap scores; run analyze with --swap ",
              options.replacement);
    rf::check(document.swap_replacement == replacement.name(), options.analysis, " has swap scores of ",
              document.swap_replacement, "; --replacement ", options.replacement,
              " needs those of its own: run analyze with --swap ", options.replacement);
    return rf::swap_group_scores(*document.swap, options.recall_weight);
  }
  if (options.score == "sink-free")
    return rf::group_scores(document.analysis, how,
                            [](const auto& head_or_group) { return head_or_group.sink_free_recency; });
  const auto recency = rf::group_scores(document.analysis, how,
                                        [](const auto& head_or_group) { return head_or_group.recency; });
  return options.score == "reverse" ? rf::reversed(recency) : recency;
}

std::pair<int, int> parse_group(const std::string& text) {
  int layer = 0, group = 0;
  char rest = 0;
  rf::check(std::sscanf(text.c_str(), "%d:%d%c", &layer, &group, &rest) == 2, "--keep-group is \"", text,
            "\"; expected LAYER:GROUP, e.g. 0:3");
  return {layer, group};
}

void plan(const PlanOptions& options) {
  const rf::ModelConfig config = rf::read_model_config(options.model);
  const rf::ModelShape& shape = config.shape;
  const rf::Plan original = rf::named_plan(program_plan(config));
  rf::Selection selection = options.selection;
  if (!selection.threshold && !selection.fraction && !selection.cache_bytes) selection.fraction = 0.5;
  for (const auto& text : options.kept_groups) selection.kept_groups.push_back(parse_group(text));
  const rf::KindChoice replacement =
      replacement_kind(options.replacement, original, options.sink, options.window);
  const rf::GroupScores scores = scores_of(options, shape, replacement);
  const auto layout = [&](const rf::Plan& candidate) {
    return rf::cache_layout(shape, rf::bind_plan<Model::Kinds>(candidate));
  };
  const rf::Plan found = rf::select_groups(
      original, replacement, scores, selection,
      [&](const rf::Plan& candidate) { return layout(candidate).bytes(selection.context); });

  std::size_t replaced = 0;
  for (std::size_t l = 0; l < found.kind_of_group.size(); ++l) {
    std::printf("layer %2zu", l);
    for (std::size_t g = 0; g < found.kind_of_group[l].size(); ++g) {
      const auto& kind = found.kinds[static_cast<std::size_t>(found.kind_of_group[l][g])];
      std::printf("  %s (%.3f)", kind.mixer.c_str(), scores[l][g]);
      replaced += found.kind_of_group[l][g] != original.kind_of_group[l][g] ? 1u : 0u;
    }
    std::printf("\n");
  }
  nlohmann::json cache = nlohmann::json::object();
  std::printf("%zu KV groups replaced\n", replaced);
  for (const std::int64_t context : quoted_contexts) {
    const std::int64_t before = layout(original).bytes(context), after = layout(found).bytes(context);
    cache[std::to_string(context)] = after;
    std::printf("cache at %6lld tokens: %s -> %s\n", static_cast<long long>(context),
                bytes_text(before).c_str(), bytes_text(after).c_str());
  }
  const std::map<std::string, std::string> parameters = {{"replacement", options.replacement},
                                                         {"context", std::to_string(selection.context)}};
  rf::write_plan({.plan = found,
                  .method = options.score,
                  .parameters = parameters,
                  .scores = scores,
                  .cache_bytes = layout(found).bytes(selection.context)},
                 shape, options.out);
  std::printf("wrote %s\n", options.out.c_str());
  if (!options.header.empty()) {
    rf::write_file_atomically(options.header, rf::emit_header<Model::Kinds>(shape, found));
    std::printf("wrote %s\n", options.header.c_str());
  }
  write_results(
      options,
      {{"replaced", replaced}, {"layers", found.kind_of_group}, {"scores", scores}, {"cache_bytes", cache}});
}

}  // namespace

void add_plan(CLI::App& program) {
  auto options = std::make_shared<PlanOptions>();
  auto* command = program.add_subcommand("plan", "Choose the KV groups to replace");
  command->footer(
      "Example: recurformer plan runs/original --analysis analysis.json --fraction 0.5 --out plan.json "
      "--header plan.hpp");
  command->add_option("model", options->model, "Model folder")->required();
  command->add_option("--analysis", options->analysis, "Analysis file");
  command->add_option("--out", options->out, "Plan file to write")->required();
  command->add_option("--header", options->header, "Also write the plan as a C++ header");
  command->add_option("--score", options->score, "What decides")
      ->check(CLI::IsMember({"recency", "sink-free", "swap", "random", "reverse"}))
      ->capture_default_str();
  command->add_flag("--minimum", options->minimum,
                    "A group's score is its heads' minimum instead of their mean");
  command
      ->add_option("--recall-weight", options->recall_weight,
                   "Nats of KL that a recall of 1 is worth in the swap score")
      ->capture_default_str();
  command->add_option("--replacement", options->replacement, "What replaces them")
      ->check(CLI::IsMember(replacement_mixers()))
      ->capture_default_str();
  command->add_option("--sink", options->sink, "Sink of streaming heads")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--window", options->window, "Window of streaming heads")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--threshold", options->selection.threshold, "Only groups with at least this score");
  command
      ->add_option("--fraction", options->selection.fraction,
                   "At most this share of the groups (default 0.5 if no limit is given)")
      ->check(CLI::Range(0.0, 1.0));
  command->add_flag("--per-layer", options->selection.fraction_per_layer,
                    "The fraction is of each layer's groups");
  command->add_option("--cache-bytes", options->selection.cache_bytes, "Replace until the cache fits")
      ->check(CLI::PositiveNumber);
  command->add_option("--context", options->selection.context, "Tokens at which it has to fit")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--keep-layer", options->selection.kept_layers, "Layers that stay");
  command->add_option("--keep-group", options->kept_groups, "Groups that stay, as LAYER:GROUP");
  add_common_options(*command, *options);
  command->callback([options] { plan(*options); });
}

}  // namespace cli
