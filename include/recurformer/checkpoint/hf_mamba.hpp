#ifndef RECURFORMER_CHECKPOINT_HF_MAMBA_HPP
#define RECURFORMER_CHECKPOINT_HF_MAMBA_HPP

// Checkpoints of Mamba (arXiv 2312.00752) and Mamba-2 (arXiv 2405.21060) as `transformers` saves them: models
// without an MLP, each of whose layers is
//
//   mamba    one head of standard Mamba, d_inner wide
//   mamba2   heads of standard Mamba-2, of which those of a group share B and C, and a norm across them
//
// A program reads them with the kinds Mamba<ScanShape{}, standard_mamba> and StandardMamba2<>, or with a
// ScanShape or SsdShape of its own where state_size, conv_kernel or time_step_rank are not the usual ones:
// tensors of other sizes are refused by name.

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
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
#include "recurformer/spec/standard_mamba2.hpp"

namespace rf::detail {

/// What `transformers` calls one of the two, and what its heads are here.
struct MambaFamily {
  std::string_view type, architecture, mixer;
  bool tied_embeddings;  ///< where the config does not say
};
inline constexpr MambaFamily mamba_family = {.type = "mamba",
                                             .architecture = "MambaForCausalLM",
                                             .mixer = Mamba<ScanShape{}, standard_mamba>::name,
                                             .tied_embeddings = true};
inline constexpr MambaFamily mamba2_family = {.type = "mamba2",
                                              .architecture = "Mamba2ForCausalLM",
                                              .mixer = StandardMamba2<>::name,
                                              .tied_embeddings = false};

/// The one of which these are the sizes and the plan; null if they are of neither.
inline const MambaFamily* mamba_family_of(const ModelShape& shape, const Plan& used) {
  const LayerShape& layer = shape.layer;
  if (layer.d_ff != 0 || used.kinds.size() != 1) return nullptr;
  const std::string& mixer = used.kinds[0].mixer;
  if (mixer == mamba_family.mixer && layer.heads() == 1 && !layer.heads_norm) return &mamba_family;
  if (mixer == mamba2_family.mixer && layer.heads_norm) return &mamba2_family;
  return nullptr;
}

/// Fields that are read below, or follow from these; all others are ModelConfig::other's.
inline constexpr std::array<std::string_view, 11> mamba_fields = {
    "architectures",     "model_type", "hidden_size",
    "intermediate_size", "expand",     "layer_norm_epsilon",
    "num_hidden_layers", "vocab_size", "tie_word_embeddings",
    "torch_dtype",       "dtype"};
inline constexpr std::array<std::string_view, 15> mamba2_fields = {"architectures",
                                                                   "model_type",
                                                                   "hidden_size",
                                                                   "intermediate_size",
                                                                   "expand",
                                                                   "num_heads",
                                                                   "head_dim",
                                                                   "n_groups",
                                                                   "time_step_limit",
                                                                   "layer_norm_epsilon",
                                                                   "num_hidden_layers",
                                                                   "vocab_size",
                                                                   "tie_word_embeddings",
                                                                   "torch_dtype",
                                                                   "dtype"};

inline constexpr std::int64_t most_of_mamba = 1 << 24;  ///< of any size

/// What both families' configs say alike: all but the heads and the plan.
inline ModelConfig read_mamba_sizes(const JsonReader& reader, const MambaFamily& family) {
  check_architecture(reader, family.architecture);
  check_boolean(reader, "use_bias", false);
  check_boolean(reader, "use_conv_bias", true);
  ModelConfig config;
  LayerShape& layer = config.shape.layer;
  layer.d_model = static_cast<int>(reader.at("hidden_size").integer(1, most_of_mamba));
  const auto epsilon = reader.optional("layer_norm_epsilon");
  layer.norm_epsilon = epsilon ? epsilon->number() : 1e-5;
  if (!(layer.norm_epsilon > 0)) fail_unsupported(*epsilon, "a positive number");
  config.shape.layers = static_cast<int>(reader.at("num_hidden_layers").integer(1, 1 << 12));
  config.shape.vocabulary = static_cast<int>(reader.at("vocab_size").integer(1, most_of_mamba));
  const auto tied = reader.optional("tie_word_embeddings");
  config.shape.tied_embeddings = tied ? tied->boolean() : family.tied_embeddings;
  return config;
}

/// The plan, once sizes and heads are known, and the types of its weights.
inline void read_mamba_plan(const JsonReader& reader, const MambaFamily& family, ModelConfig& config) {
  const ConfigDType& dtype = read_dtype(reader);
  config.dtype = dtype.dtype;
  config.plan = uniform_plan({std::string(family.mixer), std::string(dtype.precision), {}},
                             config.shape.layers, config.shape.layer.kv_groups);
}

inline constexpr int mamba_expand = 2;  ///< d_inner / d_model where the config does not say

/// config.json of a Mamba model, without ModelConfig::other. FileError naming the field, what was found and
/// what is supported.
inline ModelConfig read_mamba_config(const JsonReader& reader) {
  ModelConfig config = read_mamba_sizes(reader, mamba_family);
  LayerShape& layer = config.shape.layer;
  const std::int64_t d_inner =
      integer_or(reader, "intermediate_size", std::int64_t{mamba_expand} * layer.d_model, most_of_mamba);
  if (d_inner > most_of_mamba || !is_mamba_width(static_cast<int>(d_inner)))
    reader.fail("intermediate_size: found ", d_inner, "; supported: multiples of ", mamba_width_step,
                " up to ", mamba_width_limit);
  layer.d_head = static_cast<int>(d_inner);
  layer.kv_groups = 1;
  read_mamba_plan(reader, mamba_family, config);
  return config;
}

/// What Δ is kept within. Limits beyond float's range are none.
inline StepLimits read_step_limits(const JsonReader& reader) {
  const auto field = reader.optional("time_step_limit");
  if (!field) return {};
  const JsonArray pair = field->array();
  StepLimits out;
  if (pair.size() == 2) {
    out.least = pair[0].number(0);
    // null where the file says Infinity: see read_config_document()
    if (!pair[1].value().is_null()) out.most = pair[1].number(0);
    if (out.most >= static_cast<double>(std::numeric_limits<float>::max())) out.most = StepLimits{}.most;
  }
  if (pair.size() != 2 || !(out.least < out.most)) fail_unsupported(*field, "a number and a larger one");
  return out;
}

/// The same of a Mamba-2 model, where `transformers` takes what is missing for what it is in Mamba-2 of 7B
/// parameters.
inline ModelConfig read_mamba2_config(const JsonReader& reader) {
  check_boolean(reader, "rms_norm", true);
  ModelConfig config = read_mamba_sizes(reader, mamba2_family);
  LayerShape& layer = config.shape.layer;
  const std::int64_t heads = integer_or(reader, "num_heads", 128, 1 << 14),
                     d_head = integer_or(reader, "head_dim", 64, most_of_mamba),
                     groups = integer_or(reader, "n_groups", 8, heads);
  if (!is_supported_d_head(static_cast<int>(d_head)))
    reader.fail("head_dim: found ", d_head, "; supported: ", supported_widths());
  if (heads % groups != 0)
    reader.fail("num_heads: found ", heads, "; supported: multiples of n_groups, ", groups);
  const auto expand = reader.optional("expand");
  if ((expand ? expand->number() : mamba_expand) * layer.d_model != static_cast<double>(heads * d_head))
    reader.fail("num_heads: found ", heads, " heads of ", d_head,
                "; supported: as wide together as expand times hidden_size, ", layer.d_model);
  layer.d_head = static_cast<int>(d_head);
  layer.kv_groups = static_cast<int>(groups);
  layer.queries_per_group = static_cast<int>(heads / groups);
  layer.heads_norm = true;
  layer.step_limits = read_step_limits(reader);
  check_group_count(reader.at("num_hidden_layers"), config.shape.layers, groups, "groups");
  read_mamba_plan(reader, mamba2_family, config);
  return config;
}

/// The config.json of a model of this family.
inline nlohmann::json mamba_config_json(const ModelConfig& config, const MambaFamily& family,
                                        const ConfigDType& dtype) {
  const LayerShape& layer = config.shape.layer;
  nlohmann::json out = config.other;
  out.update({{"architectures", nlohmann::json::array({family.architecture})},
              {"model_type", family.type},
              {"hidden_size", layer.d_model},
              {"intermediate_size", layer.heads_width()},
              {"expand", static_cast<double>(layer.heads_width()) / layer.d_model},
              {"layer_norm_epsilon", layer.norm_epsilon},
              {"num_hidden_layers", config.shape.layers},
              {"vocab_size", config.shape.vocabulary},
              {"tie_word_embeddings", config.shape.tied_embeddings},
              {"torch_dtype", dtype.torch}});
  if (&family == &mamba_family) return out;
  out.update({{"num_heads", layer.heads()}, {"head_dim", layer.d_head}, {"n_groups", layer.kv_groups}});
  if (layer.step_limits != StepLimits{})  // JSON has no infinity
    out["time_step_limit"] = {
        layer.step_limits.least,
        std::min(layer.step_limits.most, static_cast<double>(std::numeric_limits<float>::max()))};
  return out;
}

/// "….in_proj_x.weight" -> "….in_proj.weight": a checkpoint's tensor of which that is a part.
inline std::string without_part(std::string name) {
  for (const std::string_view part : {".in_proj_", ".conv1d_"})
    if (const auto at = name.find(part); at != name.npos) {
      const auto underscore = at + part.size() - 1;
      name.erase(underscore, name.find('.', underscore) - underscore);
    }
  return name;
}

/// What a checkpoint of either calls the tensor that has this name here.
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
  if (name == "self_attn.heads_norm.weight") return prefix + "mixer.norm.weight";
  name.remove_prefix(name.find('.') + 1);  // the mixer's module
  return without_part(text(prefix, "mixer.", name));
}

/// Tensors of which those with one name follow each other, with these joined as in a checkpoint: one
/// projection makes all that the heads read, one convolution goes over all of its channels and has an axis of
/// length 1.
inline std::vector<FileTensor> joined_parts(std::vector<FileTensor> tensors) {
  std::vector<FileTensor> out;
  for (FileTensor& tensor : tensors) {
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

/// The tensors of a model of either family, named and joined as in such a checkpoint.
inline std::vector<FileTensor> as_mamba_tensors(std::vector<FileTensor> tensors) {
  for (FileTensor& tensor : tensors) tensor.name = mamba_tensor_name(tensor.name);
  return joined_parts(std::move(tensors));
}

}  // namespace rf::detail

#endif  // RECURFORMER_CHECKPOINT_HF_MAMBA_HPP
