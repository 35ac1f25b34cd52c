#include "model_io.hpp"

#include <algorithm>
#include <cstdio>

#include "recurformer/spec/plan_validation.hpp"

namespace cli {

rf::BoundPlan<Model::Kinds> program_plan(const rf::ModelConfig& config) {
  rf::Plan plan = config.plan;
  for (auto& kind : plan.kinds) kind.precision = "fp32";
  return rf::bind_plan<Model::Kinds>(plan);
}

Model load(const std::string& folder) {
  const rf::ModelConfig config = rf::read_model_config(folder);
  const auto is_fp32 = [](const rf::KindChoice& kind) { return kind.precision == "fp32"; };
  if (config.dtype != rf::DType::F32 ||
      !std::all_of(config.plan.kinds.begin(), config.plan.kinds.end(), is_fp32))
    std::fprintf(stderr, "%s: weights are converted to fp32\n", folder.c_str());
  const rf::BoundPlan<Model::Kinds> plan = program_plan(config);
  const rf::ModelTensors file(folder);
  rf::check_weights_size(config.shape, plan, file);
  Model model(config.shape, plan);
  rf::map_weights(model.weights(), file);
  return model;
}

void save(Model& model, const std::string& folder, const rf::ModelConfig& like) {
  rf::ModelConfig config = rf::model_config(model);
  config.max_positions = like.max_positions;
  config.byte_vocabulary = like.byte_vocabulary;
  config.other = like.other;
  rf::save_model(model.weights(), config, folder);
}

rf::ModelConfig byte_config() {
  rf::ModelConfig config;
  config.byte_vocabulary = true;
  return config;
}

std::vector<std::string> replacement_mixers() {
  std::vector<std::string> out;
  const auto add = [&]<class K>(K) {
    const typename K::Mixer mixer;
    const auto fields = mixer.cache_fields(rf::HeadShape{});
    // Biased heads stream under the name of the others, see replacement_kind().
    if (K::Mixer::name != BiasedStreaming::name &&
        std::none_of(fields.begin(), fields.end(),
                     [](const rf::CacheField& field) { return field.kind == rf::FieldKind::rows; }))
      out.emplace_back(mixer.name);
  };
  [&]<class... K>(rf::Kinds<K...>) { (add(K{}), ...); }(ProgramSpec::Kinds{});
  return out;
}

rf::KindChoice replacement_kind(const std::string& name, const rf::Plan& of, std::int64_t sink,
                                std::int64_t window) {
  rf::KindChoice kind{name, "fp32", {}};
  if (name != rf::StreamingAttention<>::name) return kind;
  kind.options = {{"sink", sink}, {"window", window}};
  const rf::Plan used = rf::without_unused_kinds(of);
  for (const rf::KindChoice& original : used.kinds)
    if (original.mixer == BiasedAttention::name) kind.mixer = BiasedStreaming::name;
  return kind;
}

}  // namespace cli
