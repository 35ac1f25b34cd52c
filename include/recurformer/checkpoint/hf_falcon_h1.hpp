#ifndef RECURFORMER_CHECKPOINT_HF_FALCON_H1_HPP
#define RECURFORMER_CHECKPOINT_HF_FALCON_H1_HPP

// Checkpoints of Falcon-H1 (arXiv 2507.22448) as `transformers` saves them: Llama's blocks, in which heads of
// Mamba-2, without a norm, read the same input as the attention heads and add to the same output. Here they
// are KV groups of one layer, first those of attention, then Mamba's, and the two output projections are the
// columns of one W_O.
//
// As all groups of a layer are alike, Mamba's heads must be as wide as those of attention, and come in as
// many as share a key/value head. A checkpoint's groups, whose heads share B and C, may be larger: each of
// ours then has a copy. The numbers that the model multiplies with go into the weights when these are read:
//
//   embedding_multiplier                     embeddings
//   attention_in_multiplier, key_multiplier  W_Q and W_V; both W_K
//   ssm_in_multiplier · ssm_multipliers      the rows of in_proj that make z, x, B, C and dt
//   attention_out_, ssm_out_multiplier       columns of W_O
//   mlp_multipliers                          W_gate, W_down
//   lm_head_multiplier                       the gain of the final norm; divided by embedding_multiplier
//   where
//                                            the logits use the embeddings
//
// What is written is a model of the same family with multipliers of 1, and a B and C for every group of ours:
// training makes copies different.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "recurformer/checkpoint/hf_mamba.hpp"
#include "recurformer/checkpoint/json.hpp"
#include "recurformer/checkpoint/model_config.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/model/parameters.hpp"
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/model_spec.hpp"
#include "recurformer/spec/standard_mamba2.hpp"

namespace rf::detail {

/// The KV groups of every layer that are attention, if the others are standard Mamba-2, after them and as
/// many in every layer; 0 if the model is of another form.
inline int falcon_h1_attention_groups(const ModelShape& shape, const Plan& used) {
  const LayerShape& layer = shape.layer;
  if (layer.qk_norm || layer.heads_norm || layer.step_limits != StepLimits{} || used.kinds.size() != 2)
    return 0;
  const std::vector<int>& kinds = used.kind_of_group.front();
  const auto mixer = [&](int kind) { return used.kinds[static_cast<std::size_t>(kind)].mixer; };
  if (mixer(kinds.front()) != Attention<>::name || mixer(1 - kinds.front()) != StandardMamba2<>::name)
    return 0;
  const auto first_mamba = std::find(kinds.begin(), kinds.end(), 1 - kinds.front());
  if (std::find(first_mamba, kinds.end(), kinds.front()) != kinds.end()) return 0;
  for (const auto& other : used.kind_of_group)
    if (other != kinds) return 0;
  return static_cast<int>(first_mamba - kinds.begin());
}

/// Fields, beyond those of Llama's family, that are read below or follow from these.
inline constexpr std::array<std::string_view, 13> falcon_h1_fields = {"mamba_d_ssm",
                                                                      "mamba_n_heads",
                                                                      "mamba_d_head",
                                                                      "mamba_n_groups",
                                                                      "embedding_multiplier",
                                                                      "lm_head_multiplier",
                                                                      "attention_in_multiplier",
                                                                      "attention_out_multiplier",
                                                                      "key_multiplier",
                                                                      "ssm_in_multiplier",
                                                                      "ssm_out_multiplier",
                                                                      "ssm_multipliers",
                                                                      "mlp_multipliers"};

/// How a checkpoint's tensors differ from those that are written.
struct FalconH1Form {
  int groups = 0;   ///< KV groups of Mamba heads
  int sharing = 1;  ///< those of them, next to each other, that share B and C
  std::vector<std::pair<std::string_view, double>> factors =
      {};  ///< of tensors, by the end of their names here

  float factor(std::string_view name) const {
    for (const auto& [end, number] : factors)
      if (name.ends_with(end)) return static_cast<float>(number);
    return 1;
  }
};

/// A number to multiply with.
inline double multiplier(const JsonReader& value) { return value.number(1e-6, 1e6); }
inline double multiplier_or_one(const JsonReader& reader, std::string_view field) {
  const auto found = reader.optional(field);
  return found ? multiplier(*found) : 1.0;
}
template <std::size_t N>
std::array<double, N> multipliers_or_ones(const JsonReader& reader, std::string_view field) {
  std::array<double, N> out;
  out.fill(1.0);
  if (const auto found = reader.optional(field)) {
    const JsonArray all = found->array();
    if (all.size() != N) fail_unsupported(*found, text(N, " numbers"));
    for (std::size_t i = 0; i < N; ++i) out[i] = multiplier(all[i]);
  }
  return out;
}

/// Channels of all Mamba heads together.
inline double read_mamba_channels(const JsonReader& reader, int d_model) {
  constexpr double usual = 1024;
  if (const auto channels = reader.optional("mamba_d_ssm")) return channels->number();
  if (!reader.value().contains("mamba_d_ssm")) return usual;
  const auto expand = reader.optional("mamba_expand");
  return (expand ? expand->number() : mamba_expand) * d_model;
}

/// The form of a Falcon-H1 checkpoint with this config.json, whose attention heads `shape` has. FileError
/// naming the field, what was found and what is supported.
inline FalconH1Form read_falcon_h1_form(const JsonReader& reader, const ModelShape& shape) {
  check_boolean(reader, "mamba_rms_norm", false);  // across some of a layer's heads
  check_boolean(reader, "mamba_conv_bias", true);
  check_boolean(reader, "mamba_proj_bias", false);
  check_boolean(reader, "projectors_bias", false);
  const int d_head = shape.layer.d_head, queries = shape.layer.queries_per_group;
  const std::int64_t heads = integer_or(reader, "mamba_n_heads", 128, 1 << 14),
                     groups = integer_or(reader, "mamba_n_groups", 1, heads);
  const auto width = reader.optional("mamba_d_head");
  if (width && width->value() != "auto" && width->integer() != d_head)
    fail_unsupported(*width, text("the width of the attention heads, ", d_head));
  const double channels = read_mamba_channels(reader, shape.layer.d_model);
  if (channels != static_cast<double>(heads * d_head))
    reader.fail("mamba_d_ssm: found ", channels, "; supported: ", heads * d_head,
                ", that is mamba_n_heads as wide as the attention heads");
  if (heads % (groups * queries) != 0)
    reader.fail("mamba_n_heads: found ", heads, " in ", groups, " groups; supported: in each a multiple of ",
                queries, ", the attention heads that share a key/value head");

  FalconH1Form out{.groups = static_cast<int>(heads / queries),
                   .sharing = static_cast<int>(heads / groups / queries)};
  const double embedding = multiplier_or_one(reader, "embedding_multiplier"),
               logits = multiplier_or_one(reader, "lm_head_multiplier"),
               attention_in = multiplier_or_one(reader, "attention_in_multiplier"),
               ssm_in = multiplier_or_one(reader, "ssm_in_multiplier");
  const auto ssm = multipliers_or_ones<5>(reader, "ssm_multipliers");
  const auto mlp = multipliers_or_ones<2>(reader, "mlp_multipliers");
  out.factors = {{"embed_tokens.weight", embedding},
                 {"model.norm.weight", shape.tied_embeddings ? logits / embedding : logits},
                 {"q_proj.weight", attention_in},
                 {"k_proj.weight", attention_in * multiplier_or_one(reader, "key_multiplier")},
                 {"v_proj.weight", attention_in},
                 {"o_proj.weight", multiplier_or_one(reader, "attention_out_multiplier")},
                 {"in_proj_z.weight", ssm_in * ssm[0]},
                 {"in_proj_x.weight", ssm_in * ssm[1]},
                 {"in_proj_b.weight", ssm_in * ssm[2]},
                 {"in_proj_c.weight", ssm_in * ssm[3]},
                 {"in_proj_dt.weight", ssm_in * ssm[4]},
                 {"out_proj.weight", multiplier_or_one(reader, "ssm_out_multiplier")},
                 {"gate_proj.weight", mlp[0]},
                 {"down_proj.weight", mlp[1]}};
  return out;
}

/// The fields of a model's Mamba heads, all groups of a layer but `attention_groups`.
inline nlohmann::json falcon_h1_json(const LayerShape& layer, int attention_groups) {
  const int groups = layer.kv_groups - attention_groups, heads = groups * layer.queries_per_group;
  return {{"mamba_d_ssm", heads * layer.d_head},
          {"mamba_n_heads", heads},
          {"mamba_d_head", layer.d_head},
          {"mamba_n_groups", groups}};
}

/// What a checkpoint calls the tensor that has this name here.
inline std::string falcon_h1_tensor_name(std::string name) {
  static constexpr std::pair<std::string_view, std::string_view> renamed[] = {
      {"model.norm.", "model.final_layernorm."},
      {".post_attention_layernorm.", ".pre_ff_layernorm."},
      {".mlp.", ".feed_forward."},
      {".mamba2_standard.", ".mamba."}};
  for (const auto& [from, to] : renamed)
    if (const auto at = name.find(from); at != name.npos) name.replace(at, from.size(), to);
  return without_part(std::move(name));
}

/// Some columns of a matrix, which is in one piece or in none, as a tensor of its own.
inline FileTensor columns_of(const FileTensor& matrix, std::string name, std::int64_t first,
                             std::int64_t count) {
  FileTensor out{std::move(name), {matrix.shape[0], count}, matrix.dtype, {}};
  for (const FilePiece& whole : matrix.pieces)
    with_elements(whole.dtype, whole.data, [&](auto* elements) {
      for (std::int64_t row = 0; row < matrix.shape[0]; ++row)
        out.pieces.push_back({whole.dtype, elements + row * matrix.shape[1] + first, count});
    });
  return out;
}

/// The tensors of a model, `attention_width` of whose columns of W_O are attention's, named, joined and cut
/// as in a checkpoint of this form.
inline std::vector<FileTensor> as_falcon_h1_tensors(std::vector<FileTensor> tensors,
                                                    std::int64_t attention_width, const FalconH1Form& form) {
  std::vector<FileTensor> out;
  const auto add = [&](FileTensor tensor) {
    for (FilePiece& piece : tensor.pieces) piece.factor = form.factor(tensor.name);
    if (tensor.name.find("_b.") != tensor.name.npos || tensor.name.find("_c.") != tensor.name.npos) {
      tensor.shape[0] /= form.sharing;
      for (std::size_t group = 0; group < tensor.pieces.size(); ++group)
        tensor.pieces[group].again = group % static_cast<std::size_t>(form.sharing) != 0;
    }
    tensor.name = falcon_h1_tensor_name(std::move(tensor.name));
    out.push_back(std::move(tensor));
  };
  constexpr std::string_view output = "self_attn.o_proj.weight";
  for (FileTensor& tensor : tensors) {
    if (!tensor.name.ends_with(output)) {
      add(std::move(tensor));
      continue;
    }
    const std::string layer = tensor.name.substr(0, tensor.name.size() - output.size());
    add(columns_of(tensor, tensor.name, 0, attention_width));
    add(columns_of(tensor, layer + "mamba.out_proj.weight", attention_width,
                   tensor.shape[1] - attention_width));
  }
  return joined_parts(std::move(out));
}

}  // namespace rf::detail

#endif  // RECURFORMER_CHECKPOINT_HF_FALCON_H1_HPP
