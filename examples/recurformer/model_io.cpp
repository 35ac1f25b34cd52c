#include "model_io.hpp"

#include <algorithm>
#include <cstdio>

namespace cli {

Model load(const std::string& folder) {
  rf::ModelConfig config = rf::read_model_config(folder);
  bool converted = config.dtype != rf::DType::F32;
  for (auto& kind : config.plan.kinds) {
    converted = converted || kind.precision != "fp32";
    kind.precision = "fp32";
  }
  if (converted) std::fprintf(stderr, "%s: weights are converted to fp32\n", folder.c_str());
  rf::check_weights_size(config.shape, rf::bind_plan<ProgramSpec::Kinds>(config.plan), folder);
  Model model(config.shape, config.plan);
  rf::load_weights(model.weights(), folder);
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
    if (std::none_of(fields.begin(), fields.end(),
                     [](const rf::CacheField& field) { return field.kind == rf::FieldKind::rows; }))
      out.emplace_back(mixer.name);
  };
  [&]<class... K>(rf::Kinds<K...>) { (add(K{}), ...); }(ProgramSpec::Kinds{});
  return out;
}

rf::KindChoice replacement_kind(const std::string& name, std::int64_t sink, std::int64_t window) {
  rf::KindChoice kind{name, "fp32", {}};
  if (name == "streaming") kind.options = {{"sink", sink}, {"window", window}};
  return kind;
}

}  // namespace cli
