#ifndef RECURFORMER_CHECKPOINT_HF_MAMBA_HPP
#define RECURFORMER_CHECKPOINT_HF_MAMBA_HPP

// Checkpoints of Mamba (arXiv 2312.00752) as `transformers` saves them: models without an MLP, each of whose
// layers is one head of standard Mamba, d_inner wide. A program reads them with the kind
// Mamba<ScanShape{}, standard_mamba>, or with a ScanShape of its own where state_size, conv_kernel or
// time_step_rank are not Mamba's usual ones: tensors of other sizes are refused by name.

#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "recurformer/checkpoint/json.hpp"
#include "recurformer/checkpoint/model_config.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/model/parameters.hpp"
#include "recurformer/spec/mamba.hpp"
#include "recurformer/spec/plan.hpp"

namespace rf::detail {

inline constexpr std::string_view mamba_checkpoint_mixer = Mamba<ScanShape{}, standard_mamba>::name;

/// True if these are the sizes and the plan of such a checkpoint.
inline bool is_mamba_checkpoint(const ModelShape& shape, const Plan& used) {
  return shape.layer.kv_groups == 1 && shape.layer.queries_per_group == 1 && shape.layer.d_ff == 0 &&
         used.kinds.size() == 1 && used.kinds[0].mixer == mamba_checkpoint_mixer;
}

inline bool is_mamba_config(const JsonReader& reader) { return reader.at("model_type").string() == "mamba"; }

/// Fields that are read below, or follow from these; all others are ModelConfig::other's.
inline constexpr std::array<std::string_view, 11> mamba_fields = {
    "architectures",     "model_type", "hidden_size",
    "intermediate_size", "expand",     "layer_norm_epsilon",
    "num_hidden_layers", "vocab_size", "tie_word_embeddings",
    "torch_dtype",       "dtype"};

/// config.json of a Mamba model, without ModelConfig::other. FileError naming the field, what was found and
/// what is supported.
inline ModelConfig read_mamba_config(const JsonReader& reader) {
  constexpr std::int64_t most = 1 << 24;
  check_architecture(reader, "MambaForCausalLM");
  check_boolean(reader, "use_bias", false);
  check_boolean(reader, "use_conv_bias", true);

  ModelConfig config;
  LayerShape& layer = config.shape.layer;
  layer.d_model = static_cast<int>(reader.at("hidden_size").integer(1, most));
  constexpr int expand = 2;  // Mamba's default
  const auto width = reader.optional("intermediate_size");
  const std::int64_t d_inner = width ? width->integer(1, most) : std::int64_t{expand} * layer.d_model;
  if (d_inner > most || !is_mamba_width(static_cast<int>(d_inner)))
    reader.fail("intermediate_size: found ", d_inner, "; supported: multiples of ", mamba_width_step,
                " up to ", mamba_width_limit);
  layer.d_head = static_cast<int>(d_inner);
  layer.kv_groups = 1;
  const auto epsilon = reader.optional("layer_norm_epsilon");
  layer.norm_epsilon = epsilon ? epsilon->number() : 1e-5;
  if (!(layer.norm_epsilon > 0)) fail_unsupported(*epsilon, "a positive number");
  config.shape.layers = static_cast<int>(reader.at("num_hidden_layers").integer(1, 1 << 12));
  config.shape.vocabulary = static_cast<int>(reader.at("vocab_size").integer(1, most));
  const auto tied = reader.optional("tie_word_embeddings");
  config.shape.tied_embeddings = !tied || tied->boolean();
  const ConfigDType& dtype = read_dtype(reader);
  config.dtype = dtype.dtype;
  config.plan = uniform_plan({std::string(mamba_checkpoint_mixer), std::string(dtype.precision), {}},
                             config.shape.layers, 1);
  return config;
}

/// The config.json of a model that is_mamba_checkpoint().
inline nlohmann::json mamba_config_json(const ModelConfig& config, const ConfigDType& dtype) {
  const LayerShape& layer = config.shape.layer;
  nlohmann::json out = config.other;
  out.update({{"architectures", nlohmann::json::array({"MambaForCausalLM"})},
              {"model_type", "mamba"},
              {"hidden_size", layer.d_model},
              {"intermediate_size", layer.d_head},
              {"expand", static_cast<double>(layer.d_head) / layer.d_model},
              {"layer_norm_epsilon", layer.norm_epsilon},
              {"num_hidden_layers", config.shape.layers},
              {"vocab_size", config.shape.vocabulary},
              {"tie_word_embeddings", config.shape.tied_embeddings},
              {"torch_dtype", dtype.torch}});
  return out;
}

/// What a Mamba checkpoint calls the tensor that has this name here.
inline std::string mamba_tensor_name(std::string_view name) {
  static constexpr std::pair<std::string_view, std::string_view> whole[] = {
      {"model.embed_tokens.weight", "backbone.embeddings.weight"},
      {"model.norm.weight", "backbone.norm_f.weight"}};
  for (const auto& [from, to] : whole)
    if (name == from) return std::string(to);
  constexpr std::string_view layers = "model.layers.";
  if (!name.starts_with(layers)) return std::string(name);  // lm_head
  name.remove_prefix(layers.size());
  const std::string prefix = text("backbone.layers.", name.substr(0, name.find('.')), ".");
  name.remove_prefix(name.find('.') + 1);
  if (name == "input_layernorm.weight") return prefix + "norm.weight";
  if (name == "self_attn.o_proj.weight") return prefix + "mixer.out_proj.weight";
  name.remove_prefix(name.find('.') + 1);  // "mamba."
  if (name.starts_with("in_proj_")) name = "in_proj.weight";
  return text(prefix, "mixer.", name);
}

/// The tensors of a model that is_mamba_checkpoint(), named and joined as in such a checkpoint: x and z are
/// one projection there, and the convolution has an axis of length 1.
inline std::vector<FileTensor> as_mamba_tensors(std::vector<FileTensor> tensors) {
  std::vector<FileTensor> out;
  for (FileTensor& tensor : tensors) {
    tensor.name = mamba_tensor_name(tensor.name);
    if (tensor.name.ends_with("conv1d.weight")) tensor.shape.insert(tensor.shape.begin() + 1, 1);
    if (out.empty() || out.back().name != tensor.name) {
      out.push_back(std::move(tensor));
    } else {
      out.back().shape[0] += tensor.shape[0];
      out.back().pieces.insert(out.back().pieces.end(), tensor.pieces.begin(), tensor.pieces.end());
    }
  }
  return out;
}

}  // namespace rf::detail

#endif  // RECURFORMER_CHECKPOINT_HF_MAMBA_HPP
