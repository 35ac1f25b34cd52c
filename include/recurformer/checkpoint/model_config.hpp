#ifndef RECURFORMER_CHECKPOINT_MODEL_CONFIG_HPP
#define RECURFORMER_CHECKPOINT_MODEL_CONFIG_HPP

// What a model's config.json says, whichever family it is of, and what reading any of them needs.

#include <algorithm>
#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "recurformer/checkpoint/json.hpp"
#include "recurformer/checkpoint/untrusted.hpp"
#include "recurformer/core/dtype.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/spec/model_spec.hpp"

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

/// "config.json: hidden_act: found "gelu"; supported: ..."
[[noreturn]] inline void fail_unsupported(const JsonReader& field, std::string_view supported) {
  field.fail("found ", one_line(field.value().dump(), 100), "; supported: ", supported);
}

/// Refuses a field that is there with another value.
inline void check_boolean(const JsonReader& reader, std::string_view field, bool expected) {
  const auto found = reader.optional(field);
  if (found && found->boolean() != expected) fail_unsupported(*found, expected ? "true" : "false");
}

/// Refuses another class of models than the family's, and another activation than all families have.
inline void check_architecture(const JsonReader& reader, std::string_view supported) {
  if (const auto architectures = reader.optional("architectures"))
    for (const JsonReader& architecture : architectures->array())
      if (architecture.string() != supported) fail_unsupported(architecture, text("\"", supported, "\""));
  if (const auto act = reader.optional("hidden_act"); act && act->string() != "silu")
    fail_unsupported(*act, "\"silu\"");
}

/// The field, or what goes without saying.
inline std::int64_t integer_or(const JsonReader& reader, std::string_view field, std::int64_t fallback,
                               std::int64_t max) {
  const auto value = reader.optional(field);
  return value ? value->integer(1, max) : fallback;
}

/// supported_d_head, for messages.
inline std::string supported_widths() {
  std::string out;
  for (const int width : supported_d_head) out += text(out.empty() ? "" : ", ", width);
  return out;
}

/// A plan names the kind of every KV group, which a config without a section of ours does in no bytes at all.
inline constexpr std::int64_t most_groups_of_all_layers = 1 << 16;
inline void check_group_count(const JsonReader& field, std::int64_t layers, std::int64_t groups,
                              std::string_view called) {
  if (layers * groups > most_groups_of_all_layers)
    field.fail("found ", layers, " layers of ", groups, " ", called, "; supported: at most ",
               most_groups_of_all_layers, " ", called, " in all");
}

/// A type of weights as config.json calls it, and the precision of heads that goes with it.
struct ConfigDType {
  DType dtype;
  std::string_view torch;
  std::string_view precision;
};
inline constexpr std::array<ConfigDType, 3> config_dtypes = {
    {{DType::F32, "float32", "fp32"}, {DType::BF16, "bfloat16", "bf16"}, {DType::F16, "float16", "fp16"}}};

inline const ConfigDType& read_dtype(const JsonReader& reader) {
  auto field = reader.optional("torch_dtype");
  if (!field) field = reader.optional("dtype");  // its newer name
  if (!field) return config_dtypes[0];
  for (const ConfigDType& known : config_dtypes)
    if (known.torch == field->string()) return known;
  fail_unsupported(*field, "\"float32\", \"bfloat16\", \"float16\"");
}

/// ArgumentError for a type that weights cannot have.
inline const ConfigDType& written_dtype(DType dtype) {
  const auto found = std::find_if(config_dtypes.begin(), config_dtypes.end(),
                                  [&](const ConfigDType& known) { return known.dtype == dtype; });
  check(found != config_dtypes.end(), "a model's dtype is F32, BF16 or F16, not ", name_of(dtype));
  return *found;
}

}  // namespace detail

}  // namespace rf

#endif  // RECURFORMER_CHECKPOINT_MODEL_CONFIG_HPP
