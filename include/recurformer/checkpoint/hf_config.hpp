#ifndef RECURFORMER_CHECKPOINT_HF_CONFIG_HPP
#define RECURFORMER_CHECKPOINT_HF_CONFIG_HPP

// <folder>/config.json, in the form that Hugging Face gives Llama models, so that a model of nothing but
// attention is one for `transformers` too. With biases on queries, keys and values, and on nothing else, it
// is Qwen2's form. What is ours stands in a section of its own, of which both halves are optional:
//
//   "recurformer": {
//     "format": 1,
//     "kinds": [{"mixer": "attention", "precision": "bf16"}, {"mixer": "mamba", "precision": "bf16"}],
//     "layers": [[0, 0, 1, 1], …],        the kind of every KV group, per layer
//     "vocabulary": "bytes"               tokens 0 to 255 are bytes; there is no tokenizer
//   }
//
// Without kinds and layers every group is attention in the precision of torch_dtype, with biases if the
// model_type is "qwen2". A field that changes
// what a Llama model computes in a way that these kernels do not know is an error; fields that change
// nothing are kept and written back.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "recurformer/checkpoint/atomic_file.hpp"
#include "recurformer/checkpoint/json.hpp"
#include "recurformer/checkpoint/plan_file.hpp"
#include "recurformer/checkpoint/untrusted.hpp"
#include "recurformer/core/dtype.hpp"
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/model_spec.hpp"
#include "recurformer/spec/plan_validation.hpp"
#include "recurformer/spec/streaming_attention.hpp"

namespace rf {

/// What config.json says of a model.
struct ModelConfig {
  ModelShape shape;
  Plan plan;
  DType dtype = DType::F32;           ///< of embeddings, W_O and MLP: F32, BF16 or F16
  std::int64_t max_positions = 2048;  ///< context the model was trained for; nothing here depends on it
  bool byte_vocabulary = false;       ///< tokens 0 to 255 are bytes
  nlohmann::json other = nlohmann::json::object();  ///< fields without a meaning here, written back unchanged
};

namespace detail {

struct LlamaDType {
  DType dtype;
  std::string_view torch;
  std::string_view precision;
};
inline constexpr std::array<LlamaDType, 3> llama_dtypes = {
    {{DType::F32, "float32", "fp32"}, {DType::BF16, "bfloat16", "bf16"}, {DType::F16, "float16", "fp16"}}};

/// Fields that are read below and written from ModelConfig; all others go to ModelConfig::other.
inline constexpr std::array<std::string_view, 25> llama_fields = {"architectures",
                                                                  "model_type",
                                                                  "hidden_size",
                                                                  "intermediate_size",
                                                                  "num_hidden_layers",
                                                                  "num_attention_heads",
                                                                  "num_key_value_heads",
                                                                  "head_dim",
                                                                  "rms_norm_eps",
                                                                  "rope_theta",
                                                                  "rope_scaling",
                                                                  "rope_parameters",
                                                                  "partial_rotary_factor",
                                                                  "vocab_size",
                                                                  "tie_word_embeddings",
                                                                  "max_position_embeddings",
                                                                  "hidden_act",
                                                                  "attention_bias",
                                                                  "mlp_bias",
                                                                  "sliding_window",
                                                                  "use_sliding_window",
                                                                  "quantization_config",
                                                                  "torch_dtype",
                                                                  "dtype",
                                                                  "recurformer"};

/// What Hugging Face calls a family of models, and the attention heads that these have here.
struct ModelFamily {
  std::string_view type, architecture, attention;
};
inline constexpr AttentionPolicy qwen2_attention = {.qkv_bias = true};
inline constexpr ModelFamily llama = {"llama", "LlamaForCausalLM", Attention<>::name};
inline constexpr ModelFamily qwen2 = {"qwen2", "Qwen2ForCausalLM", Attention<qwen2_attention>::name};

/// "config.json: hidden_act: found "gelu"; supported: ..."
[[noreturn]] inline void fail_unsupported(const JsonReader& field, std::string_view supported) {
  field.fail("found ", one_line(field.value().dump(), 100), "; supported: ", supported);
}

/// Refuses rotary embeddings other than the plain ones, in the older and the newer spelling.
inline void check_plain_rope(const JsonReader& reader) {
  for (const std::string_view field : {"rope_scaling", "rope_parameters"})
    if (const auto rope = reader.optional(field))
      for (const std::string_view key : {"rope_type", "type"})
        if (const auto type = rope->optional(key); type && type->string() != "default")
          fail_unsupported(*type, "\"default\": rotary positions without scaling");
  if (const auto scaling = reader.optional("rope_scaling"); scaling && scaling->optional("factor"))
    fail_unsupported(*scaling, "null");
}

inline const ModelFamily& read_family(const JsonReader& reader) {
  const JsonReader type = reader.at("model_type");
  if (type.string() != llama.type && type.string() != qwen2.type)
    fail_unsupported(type, "\"llama\", \"qwen2\"");
  return type.string() == llama.type ? llama : qwen2;
}

/// Refuses what these kernels would compute differently.
inline void check_family(const JsonReader& reader, const ModelFamily& family) {
  const bool has_bias = family.type == qwen2.type;
  if (const auto architectures = reader.optional("architectures"))
    for (const JsonReader& architecture : architectures->array())
      if (architecture.string() != family.architecture)
        fail_unsupported(architecture, text("\"", family.architecture, "\""));
  if (const auto act = reader.optional("hidden_act"); act && act->string() != "silu")
    fail_unsupported(*act, "\"silu\"");
  // Llama's would be on W_O too.
  if (const auto bias = reader.optional("attention_bias"); bias && bias->boolean() != has_bias)
    fail_unsupported(*bias, has_bias ? "true" : "false");
  if (const auto bias = reader.optional("mlp_bias"); bias && bias->boolean())
    fail_unsupported(*bias, "false");
  if (const auto value = reader.optional("quantization_config")) fail_unsupported(*value, "null");
  // Qwen2 names a window that it does not use.
  const auto uses_window = reader.optional("use_sliding_window");
  if (uses_window && uses_window->boolean()) fail_unsupported(*uses_window, "false");
  if (const auto window = reader.optional("sliding_window"); window && !uses_window)
    fail_unsupported(*window, "null");
  if (const auto factor = reader.optional("partial_rotary_factor"); factor && factor->number() != 1.0)
    fail_unsupported(*factor, "1");
  check_plain_rope(reader);
}

inline std::int64_t integer_or(const JsonReader& reader, std::string_view field, std::int64_t fallback,
                               std::int64_t max) {
  const auto value = reader.optional(field);
  return value ? value->integer(1, max) : fallback;
}

/// Width of a head and numbers of heads, which depend on each other.
inline void read_heads(const JsonReader& reader, LayerShape& shape) {
  constexpr std::int64_t most = 1 << 14;  // heads; keeps every width within an int
  const JsonReader heads_field = reader.at("num_attention_heads");
  const std::int64_t heads = heads_field.integer(1, most);
  const std::int64_t groups = integer_or(reader, "num_key_value_heads", heads, most);
  if (heads % groups != 0)
    heads_field.fail("found ", heads, "; supported: multiples of num_key_value_heads, ", groups);
  shape.kv_groups = static_cast<int>(groups);
  shape.queries_per_group = static_cast<int>(heads / groups);

  const auto head_dim = reader.optional("head_dim");
  if (!head_dim && shape.d_model % heads != 0)
    heads_field.fail("found ", heads, "; supported without head_dim: divisors of hidden_size, ",
                     shape.d_model);
  const std::int64_t d_head = head_dim ? head_dim->integer(1, 1 << 20) : shape.d_model / heads;
  if (!is_supported_d_head(static_cast<int>(d_head))) {
    std::string widths;
    for (const int width : supported_d_head) widths += text(widths.empty() ? "" : ", ", width);
    reader.fail(head_dim ? "head_dim: found " : "hidden_size / num_attention_heads: found ", d_head,
                "; supported: ", widths);
  }
  shape.d_head = static_cast<int>(d_head);
}

inline double read_rope_theta(const JsonReader& reader) {
  constexpr double default_theta = 10000.0;
  auto theta = reader.optional("rope_theta");
  if (const auto parameters = reader.optional("rope_parameters"))
    if (const auto newer = parameters->optional("rope_theta")) theta = newer;
  const double value = theta ? theta->number() : default_theta;
  if (!(value > 1)) fail_unsupported(*theta, "a number above 1");
  return value;
}

inline ModelShape read_shape(const JsonReader& reader) {
  constexpr std::int64_t most = 1 << 24;
  ModelShape shape;
  shape.layer.d_model = static_cast<int>(reader.at("hidden_size").integer(1, most));
  shape.layer.d_ff = static_cast<int>(reader.at("intermediate_size").integer(0, most));
  shape.layers = static_cast<int>(reader.at("num_hidden_layers").integer(1, 1 << 14));
  shape.vocabulary = static_cast<int>(reader.at("vocab_size").integer(1, most));
  read_heads(reader, shape.layer);
  shape.layer.rope_base = read_rope_theta(reader);
  const auto epsilon = reader.optional("rms_norm_eps");
  shape.layer.norm_epsilon = epsilon ? epsilon->number() : 1e-6;  // what `transformers` takes
  if (!(shape.layer.norm_epsilon > 0)) fail_unsupported(*epsilon, "a positive number");
  if (const auto tied = reader.optional("tie_word_embeddings")) shape.tied_embeddings = tied->boolean();
  return shape;
}

inline const LlamaDType& read_dtype(const JsonReader& reader) {
  auto field = reader.optional("torch_dtype");
  if (!field) field = reader.optional("dtype");  // its newer name
  if (!field) return llama_dtypes[0];
  for (const LlamaDType& known : llama_dtypes)
    if (known.torch == field->string()) return known;
  fail_unsupported(*field, "\"float32\", \"bfloat16\", \"float16\"");
}

inline void read_section(const JsonReader& section, ModelConfig& config) {
  const JsonReader format = section.at("format");
  if (format.integer() != 1) fail_unsupported(format, "1");
  section.reject_unknown({"format", "kinds", "layers", "vocabulary"});
  if (section.optional("kinds") || section.optional("layers"))
    config.plan = read_plan_fields(section, config.shape.layers, config.shape.layer.kv_groups);
  if (const auto vocabulary = section.optional("vocabulary")) {
    if (vocabulary->string() != "bytes") fail_unsupported(*vocabulary, "\"bytes\"");
    if (config.shape.vocabulary < 256)
      vocabulary->fail("bytes need a vocab_size of at least 256; found ", config.shape.vocabulary);
    config.byte_vocabulary = true;
  }
}

/// True if the plan is what a config without a section of ours means.
inline bool is_plain_attention(const Plan& used, const ModelFamily& family, std::string_view precision) {
  return used.kinds.size() == 1 && used.kinds[0].mixer == family.attention &&
         used.kinds[0].precision == precision;
}

/// The family whose tensors a model with these kinds has.
inline const ModelFamily& family_of(const Plan& used) {
  const bool has_bias = std::any_of(used.kinds.begin(), used.kinds.end(), [](const KindChoice& kind) {
    return kind.mixer == Attention<qwen2_attention>::name ||
           kind.mixer == StreamingAttention<StreamingWindow{}, qwen2_attention>::name;
  });
  return has_bias ? qwen2 : llama;
}

inline std::string config_path(const std::string& folder) {
  return (std::filesystem::path(folder) / "config.json").string();
}

}  // namespace detail

/// Reads <folder>/config.json. FileError naming file, field, what was found and what is supported.
inline ModelConfig read_model_config(const std::string& folder) {
  const std::string path = detail::config_path(folder);
  const nlohmann::json document = parse_json_file(path);
  const JsonReader reader(path, document);
  const detail::ModelFamily& family = detail::read_family(reader);
  detail::check_family(reader, family);

  ModelConfig config;
  config.shape = detail::read_shape(reader);
  const detail::LlamaDType& dtype = detail::read_dtype(reader);
  config.dtype = dtype.dtype;
  config.max_positions = detail::integer_or(reader, "max_position_embeddings", 2048, std::int64_t{1} << 40);
  config.plan = uniform_plan({std::string(family.attention), std::string(dtype.precision), {}},
                             config.shape.layers, config.shape.layer.kv_groups);
  if (const auto section = reader.optional("recurformer")) detail::read_section(*section, config);
  for (const auto& [field, value] : document.items())
    if (std::find(detail::llama_fields.begin(), detail::llama_fields.end(), field) ==
        detail::llama_fields.end())
      config.other[field] = value;
  return config;
}

/// Writes <folder>/config.json; the folder exists. Kinds that no group has are left out. ArgumentError if the
/// config contradicts itself, FileError if the file cannot be written.
inline void write_model_config(const ModelConfig& config, const std::string& folder) {
  validate(config.shape);
  validate(config.plan, config.shape);
  check(!config.byte_vocabulary || config.shape.vocabulary >= 256,
        "a vocabulary of bytes has at least 256 tokens; this one has ", config.shape.vocabulary);
  const auto dtype = std::find_if(detail::llama_dtypes.begin(), detail::llama_dtypes.end(),
                                  [&](const auto& known) { return known.dtype == config.dtype; });
  check(dtype != detail::llama_dtypes.end(), "a model's dtype is F32, BF16 or F16, not ",
        name_of(config.dtype));

  const LayerShape& layer = config.shape.layer;
  const Plan used = without_unused_kinds(config.plan);
  const detail::ModelFamily& family = detail::family_of(used);
  const nlohmann::json ours = {{"architectures", nlohmann::json::array({family.architecture})},
                               {"model_type", family.type},
                               {"hidden_size", layer.d_model},
                               {"intermediate_size", layer.d_ff},
                               {"num_hidden_layers", config.shape.layers},
                               {"num_attention_heads", layer.heads()},
                               {"num_key_value_heads", layer.kv_groups},
                               {"head_dim", layer.d_head},
                               {"rms_norm_eps", layer.norm_epsilon},
                               {"rope_theta", layer.rope_base},
                               {"rope_scaling", nullptr},
                               {"vocab_size", config.shape.vocabulary},
                               {"tie_word_embeddings", config.shape.tied_embeddings},
                               {"max_position_embeddings", config.max_positions},
                               {"hidden_act", "silu"},
                               {"attention_bias", family.type == detail::qwen2.type},
                               {"mlp_bias", false},
                               {"torch_dtype", dtype->torch}};
  nlohmann::json out = {{"bos_token_id", nullptr}, {"eos_token_id", nullptr}};
  out.update(config.other);
  out.update(ours);

  nlohmann::json section = {{"format", 1}};
  if (!detail::is_plain_attention(used, family, dtype->precision)) detail::add_plan(section, used);
  if (config.byte_vocabulary) section["vocabulary"] = "bytes";
  if (section.size() > 1) out["recurformer"] = std::move(section);
  write_file_atomically(detail::config_path(folder), detail::json_text(out) + "\n");
}

}  // namespace rf

#endif  // RECURFORMER_CHECKPOINT_HF_CONFIG_HPP
