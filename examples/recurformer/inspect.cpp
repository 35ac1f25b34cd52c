#include <cstdio>

#include "commands.hpp"
#include "model_io.hpp"
#include "recurformer/model/plan_sizes.hpp"
#include "steps.hpp"

namespace cli {

namespace {

struct InspectOptions : CommonOptions {
  std::string model;
};

nlohmann::json inspect(const std::string& folder, const rf::ModelConfig& config,
                       const rf::CacheLayout& cache) {
  const rf::ModelShape& shape = config.shape;
  const rf::Plan& plan = config.plan;
  nlohmann::json layers = nlohmann::json::array();
  for (const auto& groups : plan.kind_of_group) {
    nlohmann::json names = nlohmann::json::array();
    for (const int kind : groups) names.push_back(plan.kinds[static_cast<std::size_t>(kind)].name());
    layers.push_back(names);
  }
  const auto bound = program_plan(config);
  const rf::ModelTensors file(folder);
  rf::check_weights_size(shape, bound, file);
  nlohmann::json tensors = nlohmann::json::array();
  for (const rf::FileTensor& tensor : rf::check_model_tensors<rf::Fp32>(file, shape, bound))
    tensors.push_back({{"name", tensor.name},
                       {"dtype", rf::name_of(file.find(tensor.name)->dtype)},
                       {"shape", tensor.shape}});
  return {{"model",
           {{"layers", shape.layers},
            {"d_model", shape.layer.d_model},
            {"heads", shape.layer.heads()},
            {"kv_groups", shape.layer.kv_groups},
            {"queries_per_group", shape.layer.queries_per_group},
            {"d_head", shape.layer.d_head},
            {"d_ff", shape.layer.d_ff},
            {"vocabulary", shape.vocabulary},
            {"tied_embeddings", shape.tied_embeddings},
            {"parameters", rf::parameter_count(shape, bound)}}},
          {"plan", layers},
          {"cache_bytes", cache_json(cache)},
          {"tensors", tensors}};
}

void print(const rf::CacheLayout& cache, const nlohmann::json& results) {
  for (const auto& [name, value] : results["model"].items())
    std::printf("%-18s %s\n", name.c_str(), value.dump().c_str());
  std::printf("\nplan (kind of every KV group)\n");
  std::size_t layer = 0;
  for (const auto& groups : results["plan"]) {
    std::printf("  layer %-3zu", layer++);
    for (const auto& name : groups) std::printf(" %s", name.get<std::string>().c_str());
    std::printf("\n");
  }
  std::printf("\ncache of one sequence\n");
  for (const std::int64_t context : quoted_contexts) {
    std::printf("  %6lld tokens  %12s  ", static_cast<long long>(context),
                bytes_text(cache.bytes(context)).c_str());
    std::map<std::string, std::int64_t> by_kind;
    for (const auto& item : cache.items(context)) by_kind[item.kind] += item.bytes;
    for (const auto& [kind, bytes] : by_kind) std::printf(" %s %s", kind.c_str(), bytes_text(bytes).c_str());
    std::printf("\n");
  }
  std::printf("\ntensors\n");
  for (const auto& tensor : results["tensors"])
    std::printf("  %-60s %-5s %s\n", tensor["name"].get<std::string>().c_str(),
                tensor["dtype"].get<std::string>().c_str(), tensor["shape"].dump().c_str());
}

}  // namespace

void add_inspect(CLI::App& program) {
  auto options = std::make_shared<InspectOptions>();
  auto* command =
      program.add_subcommand("inspect", "Shapes, plan per layer, and cache at 1k, 8k and 64k tokens");
  command->footer("Example: recurformer inspect runs/hybrid");
  command->add_option("model", options->model, "Model folder")->required();
  add_common_options(*command, *options);
  command->callback([options] {
    const rf::ModelConfig config = rf::read_model_config(options->model);
    const rf::CacheLayout cache = rf::cache_layout(config.shape, program_plan(config));
    const nlohmann::json results = inspect(options->model, config, cache);
    print(cache, results);
    write_results(*options, results);
  });
}

}  // namespace cli
