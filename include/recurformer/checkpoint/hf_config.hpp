#ifndef RECURFORMER_CHECKPOINT_HF_CONFIG_HPP
#define RECURFORMER_CHECKPOINT_HF_CONFIG_HPP

// <folder>/config.json, in the form that Hugging Face gives five families of models:
//
//   llama      attention; rotary positions plain or scaled (see hf_rope.hpp)
//   mistral    the same with a sliding window: heads that stream without sinks
//   qwen2      biases on queries, keys and values; a window in the layers that layer_types or
//              max_window_layers name
//   qwen3      norms of queries and keys; windows as in qwen2
//   falcon_h1  heads of Mamba-2 beside those of attention (see hf_falcon_h1.hpp)
//
// and for Mamba and Mamba-2 (hf_mamba.hpp).
//
// A model of nothing else is one for `transformers` too. What is ours stands in a section of its own, of
// which both halves are optional:
//
//   "recurformer": {
//     "format": 1,
//     "kinds": [{"mixer": "attention", "precision": "bf16"}, {"mixer": "mamba", "precision": "bf16"}],
//     "layers": [[0, 0, 1, 1], …],        the kind of every KV group, per layer
//     "vocabulary": "bytes"               tokens 0 to 255 are bytes; there is no tokenizer
//   }
//
// Without kinds and layers the groups are what the family says, in the precision of torch_dtype. A field that
// changes what a model computes in a way that these kernels do not know is an error; fields that change
// nothing are kept and written back.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "recurformer/checkpoint/atomic_file.hpp"
#include "recurformer/checkpoint/hf_falcon_h1.hpp"
#include "recurformer/checkpoint/hf_mamba.hpp"
#include "recurformer/checkpoint/hf_rope.hpp"
#include "recurformer/checkpoint/json.hpp"
#include "recurformer/checkpoint/model_config.hpp"
#include "recurformer/checkpoint/plan_file.hpp"
#include "recurformer/checkpoint/untrusted.hpp"
#include "recurformer/core/dtype.hpp"
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/model_spec.hpp"
#include "recurformer/spec/plan_validation.hpp"
#include "recurformer/spec/streaming_attention.hpp"

namespace rf {

namespace detail {

/// Fields that are read below and written from ModelConfig; all others go to ModelConfig::other.
inline constexpr std::array<std::string_view, 27> llama_fields = {"architectures",
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
                                                                  "max_window_layers",
                                                                  "layer_types",
                                                                  "quantization_config",
                                                                  "torch_dtype",
                                                                  "dtype",
                                                                  "recurformer"};

/// Which layers of a family may have a sliding window.
enum class WindowedLayers { none, all, some };

/// What Hugging Face calls a family of models, what its heads are here, and what its fields are where they
/// are missing.
struct ModelFamily {
  std::string_view type, architecture;
  bool qkv_bias = false, qk_norm = false;
  WindowedLayers windows = WindowedLayers::none;
  std::int64_t kv_heads = 0;  ///< 0: as many as query heads
  std::int64_t head_dim = 0;  ///< 0: hidden_size / num_attention_heads
  std::int64_t max_positions = 2048;
  double norm_epsilon = 1e-6, rope_base = 10000;

  std::string_view attention() const {
    return qkv_bias ? Attention<AttentionPolicy{.qkv_bias = true}>::name : Attention<>::name;
  }
  std::string_view streaming() const {
    return qkv_bias ? StreamingAttention<StreamingWindow{}, AttentionPolicy{.qkv_bias = true}>::name
                    : StreamingAttention<>::name;
  }
};
inline constexpr ModelFamily llama = {.type = "llama", .architecture = "LlamaForCausalLM"};
inline constexpr ModelFamily mistral = {.type = "mistral",
                                        .architecture = "MistralForCausalLM",
                                        .windows = WindowedLayers::all,
                                        .kv_heads = 8,
                                        .max_positions = 131072};
inline constexpr ModelFamily qwen2 = {.type = "qwen2",
                                      .architecture = "Qwen2ForCausalLM",
                                      .qkv_bias = true,
                                      .windows = WindowedLayers::some,
                                      .kv_heads = 32,
                                      .max_positions = 32768};
inline constexpr ModelFamily qwen3 = {.type = "qwen3",
                                      .architecture = "Qwen3ForCausalLM",
                                      .qk_norm = true,
                                      .windows = WindowedLayers::some,
                                      .kv_heads = 32,
                                      .head_dim = 128,
                                      .max_positions = 32768};
inline constexpr ModelFamily falcon_h1 = {.type = "falcon_h1",
                                          .architecture = "FalconH1ForCausalLM",
                                          .kv_heads = 8,
                                          .max_positions = 8192,
                                          .norm_epsilon = 1e-5,
                                          .rope_base = 100000};

/// The sliding window of every layer, in tokens; 0 where all tokens are seen.
using LayerWindows = std::vector<std::int64_t>;

inline const ModelFamily& read_family(const JsonReader& reader) {
  const JsonReader type = reader.at("model_type");
  for (const ModelFamily* family : {&falcon_h1, &llama, &mistral, &qwen2, &qwen3})
    if (type.string() == family->type) return *family;
  fail_unsupported(type,
                   "\"falcon_h1\", \"llama\", \"mamba\", \"mamba2\", \"mistral\", \"qwen2\", \"qwen3\"");
}

/// Refuses what these kernels would compute differently.
inline void check_family(const JsonReader& reader, const ModelFamily& family) {
  check_architecture(reader, family.architecture);
  // Except Qwen2's, which go without saying, they would be on W_O too.
  check_boolean(reader, "attention_bias", family.qkv_bias);
  check_boolean(reader, "mlp_bias", false);
  if (const auto value = reader.optional("quantization_config")) fail_unsupported(*value, "null");
  if (const auto factor = reader.optional("partial_rotary_factor"); factor && factor->number() != 1.0)
    fail_unsupported(*factor, "1");
}

/// The window that the family's fields name; 0 if it has none, or does not use it.
inline std::int64_t read_window(const JsonReader& reader, const ModelFamily& family) {
  const auto window = reader.optional("sliding_window"), use = reader.optional("use_sliding_window");
  if (family.windows == WindowedLayers::none) {
    if (use && use->boolean()) fail_unsupported(*use, "false");
    if (window && !use) fail_unsupported(*window, "null");
    return 0;
  }
  // Qwen's configs name a window that they mostly do not use.
  if (family.windows == WindowedLayers::some && !(use && use->boolean())) return 0;
  if (window) return window->integer(1, largest_option);
  constexpr std::int64_t default_window = 4096;
  return reader.value().contains("sliding_window") ? 0 : default_window;
}

inline LayerWindows read_layer_windows(const JsonReader& reader, const ModelFamily& family, int layers) {
  const std::int64_t window = read_window(reader, family);
  LayerWindows out(static_cast<std::size_t>(layers), window);
  if (const auto types = reader.optional("layer_types")) {
    const JsonArray all = types->array();
    if (all.size() != out.size())
      types->fail("names the attention of ", all.size(), " layers; the model has ", layers);
    for (std::size_t layer = 0; layer < out.size(); ++layer) {
      const std::string& type = all[layer].string();
      const bool slides = type == "sliding_attention";
      if ((!slides && type != "full_attention") || (slides && window == 0))
        fail_unsupported(all[layer], window == 0 ? "\"full_attention\" (this config has no sliding window)"
                                                 : "\"full_attention\", \"sliding_attention\"");
      if (!slides) out[layer] = 0;
    }
  } else if (family.windows == WindowedLayers::some) {
    constexpr std::int64_t default_first = 28;
    const auto field = reader.optional("max_window_layers");
    const std::int64_t first = field ? field->integer(0) : default_first;
    for (std::size_t layer = 0; layer < out.size(); ++layer)
      if (static_cast<std::int64_t>(layer) < first) out[layer] = 0;
  }
  return out;
}

/// Width of a head and numbers of heads, which depend on each other.
inline void read_heads(const JsonReader& reader, const ModelFamily& family, LayerShape& shape) {
  constexpr std::int64_t most = 1 << 14;  // heads; keeps every width within an int
  const JsonReader heads_field = reader.at("num_attention_heads");
  const std::int64_t heads = heads_field.integer(1, most);
  const std::int64_t groups =
      integer_or(reader, "num_key_value_heads", family.kv_heads > 0 ? family.kv_heads : heads, most);
  if (heads % groups != 0)
    heads_field.fail("found ", heads, "; supported: multiples of num_key_value_heads, ", groups);
  shape.kv_groups = static_cast<int>(groups);
  shape.queries_per_group = static_cast<int>(heads / groups);

  const auto head_dim = reader.optional("head_dim");
  const bool is_quotient = !head_dim && family.head_dim == 0;
  if (is_quotient && shape.d_model % heads != 0)
    heads_field.fail("found ", heads, "; supported without head_dim: divisors of hidden_size, ",
                     shape.d_model);
  const std::int64_t d_head = is_quotient ? shape.d_model / heads
                              : head_dim  ? head_dim->integer(1, 1 << 20)
                                          : family.head_dim;
  if (!is_supported_d_head(static_cast<int>(d_head)))
    reader.fail(is_quotient ? "hidden_size / num_attention_heads: found " : "head_dim: found ", d_head,
                "; supported: ", supported_widths());
  shape.d_head = static_cast<int>(d_head);
}

inline ModelShape read_shape(const JsonReader& reader, const ModelFamily& family,
                             std::int64_t max_positions) {
  constexpr std::int64_t most = 1 << 24;
  ModelShape shape;
  shape.layer.d_model = static_cast<int>(reader.at("hidden_size").integer(1, most));
  shape.layer.d_ff = static_cast<int>(reader.at("intermediate_size").integer(0, most));
  shape.layers = static_cast<int>(reader.at("num_hidden_layers").integer(1, 1 << 12));
  shape.vocabulary = static_cast<int>(reader.at("vocab_size").integer(1, most));
  read_heads(reader, family, shape.layer);
  const Rope rope = read_rope(reader, family.rope_base, max_positions);
  shape.layer.rope_base = rope.base;
  shape.layer.rope_scaling = rope.scaling;
  shape.layer.qk_norm = family.qk_norm;
  const auto epsilon = reader.optional("rms_norm_eps");
  shape.layer.norm_epsilon = epsilon ? epsilon->number() : family.norm_epsilon;
  if (!(shape.layer.norm_epsilon > 0)) fail_unsupported(*epsilon, "a positive number");
  if (const auto tied = reader.optional("tie_word_embeddings")) shape.tied_embeddings = tied->boolean();
  return shape;
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

/// What a config without a section of ours means: `attention_groups` of the groups of every layer are
/// attention, the others Falcon-H1's Mamba-2.
inline Plan family_plan(const ModelFamily& family, const LayerWindows& windows, std::string_view precision,
                        int attention_groups, int groups) {
  Plan out;
  for (const std::int64_t window : windows) {
    KindChoice kind{
        std::string(window == 0 ? family.attention() : family.streaming()), std::string(precision), {}};
    if (window > 0) kind.options = {{"sink", 0}, {"window", window}};
    auto& kinds =
        out.kind_of_group.emplace_back(static_cast<std::size_t>(attention_groups), with_kind(out, kind));
    if (groups > attention_groups)
      kinds.resize(static_cast<std::size_t>(groups),
                   with_kind(out, {std::string(StandardMamba2<>::name), std::string(precision), {}}));
  }
  return out;
}

/// The family whose tensors and fields a model with this plan has, and its windows: those of heads that
/// stream without sinks, in layers that keep no head which sees everything.
struct WrittenFamily {
  const ModelFamily* family = &llama;
  LayerWindows windows;
  int attention_groups = 0;  ///< KV groups of a layer, but for Falcon-H1's heads of Mamba-2
};

inline WrittenFamily written_family(const ModelShape& shape, const Plan& used) {
  const ModelFamily& biased = qwen2;
  const auto is_kind = [&](int kind, std::string_view plain, std::string_view with_bias) {
    const std::string& mixer = used.kinds[static_cast<std::size_t>(kind)].mixer;
    return mixer == plain || mixer == with_bias;
  };
  const auto window_of = [&](int kind) -> std::int64_t {
    if (!is_kind(kind, llama.streaming(), biased.streaming())) return 0;
    std::int64_t sink = StreamingWindow{}.sink, window = StreamingWindow{}.window;
    for (const auto& [option, value] : used.kinds[static_cast<std::size_t>(kind)].options)
      (option == "sink" ? sink : window) = value;
    return sink == 0 ? window : 0;
  };
  WrittenFamily out;
  bool all_slide = true;
  for (const auto& groups : used.kind_of_group) {
    std::int64_t window = 0;
    bool sees_all = false;
    for (const int kind : groups) {
      window = std::max(window, window_of(kind));
      sees_all = sees_all || is_kind(kind, llama.attention(), biased.attention());
    }
    out.windows.push_back(sees_all ? 0 : window);
    all_slide = all_slide && out.windows.back() > 0;
  }
  const bool has_bias = std::any_of(used.kinds.begin(), used.kinds.end(), [&](const KindChoice& kind) {
    return kind.mixer == biased.attention() || kind.mixer == biased.streaming();
  });
  const int beside_mamba = falcon_h1_attention_groups(shape, used);
  out.attention_groups = beside_mamba > 0 ? beside_mamba : shape.layer.kv_groups;
  out.family = shape.layer.qk_norm ? &qwen3
               : has_bias          ? &qwen2
               : all_slide         ? &mistral
               : beside_mamba > 0  ? &falcon_h1
                                   : &llama;
  if (out.family->windows == WindowedLayers::none) out.windows.assign(used.kind_of_group.size(), 0);
  return out;
}

/// The fields of sliding windows.
inline nlohmann::json windows_json(const WrittenFamily& written) {
  const std::int64_t window = *std::max_element(written.windows.begin(), written.windows.end());
  if (written.family->windows == WindowedLayers::none) return nlohmann::json::object();
  nlohmann::json out = {{"sliding_window", nullptr}};
  if (window > 0) out["sliding_window"] = window;
  if (written.family->windows == WindowedLayers::all) return out;
  out["use_sliding_window"] = window > 0;
  if (window == 0) return out;
  auto types = nlohmann::json::array();
  std::size_t first = 0;
  for (const std::int64_t one : written.windows) {
    types.push_back(one > 0 ? "sliding_attention" : "full_attention");
    if (one == 0 && first + 1 == types.size()) ++first;
  }
  out["layer_types"] = std::move(types);
  out["max_window_layers"] = first;  // for versions that do not know layer_types
  return out;
}

/// config.json of the families above, without ModelConfig::other.
inline ModelConfig read_family_config(const JsonReader& reader) {
  const ModelFamily& family = read_family(reader);
  check_family(reader, family);
  ModelConfig config;
  config.max_positions =
      integer_or(reader, "max_position_embeddings", family.max_positions, std::int64_t{1} << 40);
  config.shape = read_shape(reader, family, config.max_positions);
  const ConfigDType& dtype = read_dtype(reader);
  config.dtype = dtype.dtype;
  LayerShape& layer = config.shape.layer;
  const int attention_groups = layer.kv_groups;
  if (&family == &falcon_h1) layer.kv_groups += read_falcon_h1_form(reader, config.shape).groups;
  check_group_count(reader.at("num_hidden_layers"), config.shape.layers, layer.kv_groups, "KV groups");
  config.plan = family_plan(family, read_layer_windows(reader, family, config.shape.layers), dtype.precision,
                            attention_groups, layer.kv_groups);
  if (const auto section = reader.optional("recurformer")) read_section(*section, config);
  return config;
}

inline std::string config_path(const std::string& folder) {
  return (std::filesystem::path(folder) / "config.json").string();
}

/// JSON has no word for infinity, but Python's json module writes one, and so Mamba-2's configs have it: null
/// takes its place, and blanks, so that messages name the file's own columns.
inline nlohmann::json read_config_document(const std::string& path) {
  constexpr std::string_view infinity = "Infinity", instead = "null    ";
  std::string text = read_text_file(path);
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (in_string && text[i] == '\\')
      ++i;  // whatever it escapes does not end the string
    else if (text[i] == '"')
      in_string = !in_string;
    else if (!in_string && text.compare(i, infinity.size(), infinity) == 0)
      text.replace(i, infinity.size(), instead);
  }
  return parse_json(text, path);
}

/// How the config.json of a family is read, and the fields that are then not ModelConfig::other's.
struct ConfigForm {
  ModelConfig (*read)(const JsonReader&);
  std::span<const std::string_view> fields, more_fields = {};
};
inline ConfigForm config_form(const JsonReader& reader) {
  const std::string& type = reader.at("model_type").string();
  if (type == mamba_family.type) return {read_mamba_config, mamba_fields};
  if (type == mamba2_family.type) return {read_mamba2_config, mamba2_fields};
  if (type == falcon_h1.type) return {read_family_config, llama_fields, falcon_h1_fields};
  return {read_family_config, llama_fields};
}

}  // namespace detail

/// Reads <folder>/config.json. FileError naming file, field, what was found and what is supported.
inline ModelConfig read_model_config(const std::string& folder) {
  const std::string path = detail::config_path(folder);
  nlohmann::json document = detail::read_config_document(path);
  const JsonReader reader(path, document);
  const detail::ConfigForm form = detail::config_form(reader);
  ModelConfig config = form.read(reader);
  for (const auto fields : {form.fields, form.more_fields})
    for (const std::string_view field : fields) document.erase(std::string(field));
  config.other = std::move(document);
  return config;
}

/// Writes <folder>/config.json; the folder exists. Kinds that no group has are left out. ArgumentError if the
/// config contradicts itself, FileError if the file cannot be written.
inline void write_model_config(const ModelConfig& config, const std::string& folder) {
  validate(config.shape);
  validate(config.plan, config.shape);
  check(!config.byte_vocabulary || config.shape.vocabulary >= 256,
        "a vocabulary of bytes has at least 256 tokens; this one has ", config.shape.vocabulary);
  const detail::ConfigDType& dtype = detail::written_dtype(config.dtype);
  const LayerShape& layer = config.shape.layer;
  const Plan used = without_unused_kinds(config.plan);
  if (const detail::MambaFamily* mamba = detail::mamba_family_of(config.shape, used)) {
    const nlohmann::json out = detail::mamba_config_json(config, *mamba, dtype);
    return write_file_atomically(detail::config_path(folder), detail::json_text(out) + "\n");
  }
  check(!layer.heads_norm && layer.step_limits == StepLimits{},
        "config.json knows a norm across heads and limits of step sizes only of layers without an MLP whose "
        "heads are all ",
        detail::mamba2_family.mixer);
  const detail::WrittenFamily written = detail::written_family(config.shape, used);
  const detail::ModelFamily& family = *written.family;
  const nlohmann::json ours = {{"architectures", nlohmann::json::array({family.architecture})},
                               {"model_type", family.type},
                               {"hidden_size", layer.d_model},
                               {"intermediate_size", layer.d_ff},
                               {"num_hidden_layers", config.shape.layers},
                               {"num_attention_heads", written.attention_groups * layer.queries_per_group},
                               {"num_key_value_heads", written.attention_groups},
                               {"head_dim", layer.d_head},
                               {"rms_norm_eps", layer.norm_epsilon},
                               {"rope_theta", layer.rope_base},
                               {"rope_scaling", detail::rope_scaling_json(layer.rope_scaling)},
                               {"vocab_size", config.shape.vocabulary},
                               {"tie_word_embeddings", config.shape.tied_embeddings},
                               {"max_position_embeddings", config.max_positions},
                               {"hidden_act", "silu"},
                               {"attention_bias", family.qkv_bias},
                               {"mlp_bias", false},
                               {"torch_dtype", dtype.torch}};
  nlohmann::json out = {{"bos_token_id", nullptr}, {"eos_token_id", nullptr}};
  out.update(config.other);
  out.update(ours);
  out.update(detail::windows_json(written));
  if (&family == &detail::falcon_h1) out.update(detail::falcon_h1_json(layer, written.attention_groups));

  nlohmann::json section = {{"format", 1}};
  if (used != detail::family_plan(family, written.windows, dtype.precision, written.attention_groups,
                                  layer.kv_groups))
    detail::add_plan(section, used);
  if (config.byte_vocabulary) section["vocabulary"] = "bytes";
  if (section.size() > 1) out["recurformer"] = std::move(section);
  write_file_atomically(detail::config_path(folder), detail::json_text(out) + "\n");
}

}  // namespace rf

#endif  // RECURFORMER_CHECKPOINT_HF_CONFIG_HPP
