#include <cstdio>

#include "commands.hpp"
#include "data_options.hpp"
#include "device_model.hpp"
#include "model_io.hpp"
#include "recurformer/plan/analysis_file.hpp"
#include "recurformer/plan/swap.hpp"
#include "steps.hpp"

namespace cli {

namespace {

struct AnalyzeOptions : CommonOptions {
  std::string model, out, swap, device = "auto";
  DataOptions data;
  rf::AnalysisOptions analysis;
  std::int64_t batches = 16, swap_window = 32;
};

/// Held-out-free batches of their own: the analysis must not look at what eval measures.
std::vector<rf::Batch> swap_batches(const rf::MixedData& data) {
  rf::MixedData text_only = data;
  text_only.copy_rows = 0;
  std::vector<rf::Batch> batches;
  for (std::int64_t i = 0; i < 2; ++i) batches.push_back(text_only(1'000'000 + i));
  return batches;
}

void print(const rf::AnalysisDocument& document) {
  const rf::ModelAnalysis& analysis = document.analysis;
  std::printf(
      "recency ratio (window %lld) +- standard error, over %lld sequences; in brackets without the first "
      "%lld tokens\n",
      static_cast<long long>(analysis.options.window), static_cast<long long>(analysis.sequences),
      static_cast<long long>(analysis.options.sink));
  if (analysis.short_sequences > 0)
    std::printf("%lld more sequences are too short for it\n",
                static_cast<long long>(analysis.short_sequences));
  const auto print_ratios = [](const auto& head_or_group) {
    const auto &recency = head_or_group.recency, &sink_free = head_or_group.sink_free_recency;
    std::printf("%.3f +- %.3f  (%.3f +- %.3f)", recency.mean, recency.error, sink_free.mean, sink_free.error);
  };
  const auto queries = static_cast<std::size_t>(analysis.queries_per_group);
  for (std::size_t l = 0; l < analysis.groups.size(); ++l)
    for (std::size_t g = 0; g < analysis.groups[l].size(); ++g) {
      std::printf("layer %2zu group %2zu  ", l, g);
      print_ratios(analysis.groups[l][g]);
      if (document.swap)
        std::printf("  swap: KL %.4f, recall drop %.3f", document.swap->divergence[l][g],
                    document.swap->recall_drop[l][g]);
      for (std::size_t h = g * queries; h < (g + 1) * queries; ++h) {
        std::printf("\n          head %2zu  ", h);
        print_ratios(analysis.heads[l][h]);
        std::printf("  sink mass %.3f", analysis.heads[l][h].sink_mass.mean);
      }
      std::printf("\n");
    }
}

rf::ModelAnalysis analyse_on_device(const AnalyzeOptions& options, const std::string& device,
                                    const rf::MixedData& data) {
  const auto model = load_on_device(options.model, device);
  use_device(*model);
  Progress progress("analyse", options.batches);
  return model->analyse(data, options.batches, options.analysis,
                        [&](std::int64_t done) { progress.update(done); });
}

/// Scores every group by swapping it alone; on the CPU, whatever device the analysis ran on.
void add_swap_scores(const AnalyzeOptions& options, Model& model, const rf::MixedData& data,
                     rf::AnalysisDocument& document) {
  const rf::KindChoice replacement =
      replacement_kind(options.swap, model.named_plan(), options.analysis.sink, options.swap_window);
  Progress progress("swap", std::int64_t{model.shape().layers} * model.shape().layer.kv_groups);
  document.swap = rf::swap_scores(model, rf::profiles_of(document.analysis), swap_batches(data),
                                  {.replacement = replacement,
                                   .copy = {.row_length = options.data.length, .lag = options.data.copy_lag},
                                   .seed = options.seed},
                                  [&](std::int64_t done, std::int64_t) { progress.update(done); });
  document.swap_replacement = replacement.name();
}

void analyze(const AnalyzeOptions& options) {
  const auto [device, why] = choose_device(options.device, options.model);
  const TextCodec codec(options.model, rf::read_model_config(options.model));
  const rf::TokenText text = options.data.read(codec);
  const rf::MixedData data = options.data.mixed(text, options.seed);
  rf::AnalysisDocument document;
  if (device != "cpu") document.analysis = analyse_on_device(options, device, data);
  if (device == "cpu" || !options.swap.empty()) {
    Model model = load(options.model);
    use_cpu(options, why);
    if (device == "cpu") document.analysis = analyse(model, data, options.batches, options.analysis);
    if (!options.swap.empty()) add_swap_scores(options, model, data, document);
  }
  print(document);
  rf::write_analysis(document, options.out);
  std::printf("wrote %s\n", options.out.c_str());
  write_results(options, rf::analysis_json(document));
}

}  // namespace

void add_analyze(CLI::App& program) {
  auto options = std::make_shared<AnalyzeOptions>();
  auto* command = program.add_subcommand("analyze", "Measure where every attention head looks");
  command->footer(
      "Example: recurformer analyze runs/original --text book.txt --out analysis.json --swap mamba");
  command->add_option("model", options->model, "Model folder")->required();
  command->add_option("--out", options->out, "Analysis file to write")->required();
  add_data_options(*command, options->data);
  command->add_option("--window", options->analysis.window, "Latest tokens that count as recent")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--sink", options->analysis.sink, "First tokens, counted apart")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--batches", options->batches, "Batches of rows to measure")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--swap", options->swap, "Also score each KV group by swapping it alone for this")
      ->check(CLI::IsMember(replacement_mixers()));
  command->add_option("--swap-window", options->swap_window, "Window of --swap streaming")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  add_device_option(*command, options->device);
  add_common_options(*command, *options);
  command->callback([options] { analyze(*options); });
}

}  // namespace cli
