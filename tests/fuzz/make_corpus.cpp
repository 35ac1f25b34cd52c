// Writes the seeds that the library's own writers make: make_fuzz_corpus <corpus>. The others are written by
// hand or copies from tests/golden.

#include <cstdint>
#include <filesystem>
#include <string>

#include "recurformer/checkpoint/cache_file.hpp"
#include "recurformer/checkpoint/hf_config.hpp"
#include "recurformer/checkpoint/plan_file.hpp"
#include "recurformer/plan/analysis_file.hpp"
#include "small_cache.hpp"
#include "small_shape.hpp"

namespace {

using rf::test::small_shape;

rf::Plan hybrid_plan() {
  return {.kinds = {{"attention", "fp32", {}},
                    {"streaming", "fp32", {{"sink", 2}, {"window", 5}}},
                    {"mamba", "fp32", {}}},
          .kind_of_group = {{0, 2}, {1, 0}}};
}

void write_configs(const std::string& folder) {
  rf::ModelConfig config{.shape = small_shape, .plan = hybrid_plan(), .byte_vocabulary = true};
  rf::write_model_config(config, folder);
  std::filesystem::rename(folder + "/config.json", folder + "/hybrid.json");
  config.plan = rf::uniform_plan({"attention", "fp32", {}}, small_shape.layers, small_shape.layer.kv_groups);
  rf::write_model_config(config, folder);
  std::filesystem::rename(folder + "/config.json", folder + "/llama.json");
}

void write_analyses(const std::string& folder) {
  rf::HeadAnalysis head;
  head.recency = {0.75, 0.01};
  head.queries = 12;
  head.skipped_queries = 1;
  head.profile = {.lag = {0, 1, 2.5}, .lags = {1, 1, 2}, .probability = {0.5, 0.25, 0.125}};
  rf::AnalysisDocument document;
  rf::ModelAnalysis& analysis = document.analysis;
  analysis.sequences = 3;
  analysis.tokens = 60;
  analysis.queries_per_group = small_shape.layer.queries_per_group;
  analysis.heads.assign(2, std::vector(4, head));
  analysis.groups.assign(2, std::vector(2, rf::GroupAnalysis{{0.7, 0.01}, {0.6, 0.02}}));
  rf::write_analysis(document, folder + "/heads.json");
  document.swap = {.divergence = {{0.1, 0.2}, {0.3, 0.4}}, .recall_drop = {{0, 1}, {0, 0.5}}};
  document.swap_replacement = "mamba:fp32";
  rf::write_analysis(document, folder + "/swap.json");
}

void write_caches(const std::string& folder) {
  rf::Cache cache = rf::test::small_cache();
  rf::save_cache(cache, folder + "/empty");
  constexpr std::int64_t tokens = 7;
  cache.reserve(0, tokens);
  cache.advance(0, tokens);
  auto& checkpoints = cache.memory(0, 0, 2).checkpoints;
  checkpoints[0].position = 4;
  checkpoints[1].position = 6;
  rf::save_cache(cache, folder + "/tokens");
  cache.rollback(1);
  rf::save_cache(cache, folder + "/rolled_back");
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) return 2;
  const std::string corpus = arguments[1];
  for (const std::string folder : {"config", "plan", "analysis", "cache"})
    std::filesystem::create_directories(corpus + "/" + folder);
  write_configs(corpus + "/config");
  const rf::PlanDocument plan{.plan = hybrid_plan(),
                              .method = "recency-ratio",
                              .parameters = {{"window", "16"}},
                              .scores = {{0.125, 0.5}, {0.25, 1}},
                              .cache_bytes = 65536};
  rf::write_plan(plan, small_shape, corpus + "/plan/hybrid.json");
  write_analyses(corpus + "/analysis");
  write_caches(corpus + "/cache");
}
