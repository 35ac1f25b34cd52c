#ifndef RECURFORMER_CHECKPOINT_HF_ROPE_HPP
#define RECURFORMER_CHECKPOINT_HF_ROPE_HPP

// Rotary positions in Hugging Face's config.json, in its two spellings:
//
//   "rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 8, ...}      `transformers` 4
//   "rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", "factor": 8, ...}   `transformers` 5
//
// The first is written. Rules: default, linear, llama3 and yarn (see math/rope_scaling.hpp).

#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "recurformer/checkpoint/json.hpp"
#include "recurformer/checkpoint/model_config.hpp"
#include "recurformer/checkpoint/untrusted.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/math/rope_scaling.hpp"

namespace rf::detail {

inline constexpr std::array<std::pair<std::string_view, RopeRule>, 4> rope_rule_names = {
    {{"default", RopeRule::plain},
     {"linear", RopeRule::linear},
     {"llama3", RopeRule::llama3},
     {"yarn", RopeRule::yarn}}};

/// The rule of a rope_scaling or rope_parameters object, under its newer or its older name.
inline RopeRule read_rope_rule(const JsonReader& reader) {
  auto type = reader.optional("rope_type");
  if (!type) type = reader.optional("type");
  if (!type) return RopeRule::plain;
  for (const auto& [name, rule] : rope_rule_names)
    if (type->string() == name) return rule;
  fail_unsupported(*type, "\"default\", \"linear\", \"llama3\", \"yarn\"");
}

inline double number_or(const JsonReader& reader, std::string_view field, double fallback) {
  const auto value = reader.optional(field);
  return value ? value->number() : fallback;
}

/// `transformers`' attention_factor where it is not given: from YaRN's paper, or DeepSeek's two numbers.
inline double default_yarn_magnitude(const JsonReader& reader, double factor) {
  const double scale = number_or(reader, "mscale", 0), scale_all = number_or(reader, "mscale_all_dim", 0);
  if (scale == 0 || scale_all == 0) return yarn_magnitude(factor);
  return (scale * (yarn_magnitude(factor) - 1) + 1) / (scale_all * (yarn_magnitude(factor) - 1) + 1);
}

/// The scaling in a rope_scaling or rope_parameters object. `max_positions` is the context of pretraining
/// where the object does not say it.
inline RopeScaling read_rope_scaling(const JsonReader& reader, std::int64_t max_positions) {
  RopeScaling out{.rule = read_rope_rule(reader)};
  if (out.rule == RopeRule::plain) {
    if (const auto factor = reader.optional("factor"))
      fail_unsupported(*factor, "no factor without a rope_type of \"linear\", \"llama3\" or \"yarn\"");
    return out;
  }
  out.factor = reader.at("factor").number();
  if (out.rule == RopeRule::llama3) {
    out.original_positions = reader.at("original_max_position_embeddings").number();
    out.low_freq_factor = reader.at("low_freq_factor").number();
    out.high_freq_factor = reader.at("high_freq_factor").number();
  }
  if (out.rule == RopeRule::yarn) {
    out.original_positions =
        number_or(reader, "original_max_position_embeddings", static_cast<double>(max_positions));
    out.beta_fast = number_or(reader, "beta_fast", 32);
    out.beta_slow = number_or(reader, "beta_slow", 1);
    if (const auto truncate = reader.optional("truncate")) out.whole_pairs = truncate->boolean();
    const auto magnitude = reader.optional("attention_factor");
    out.magnitude = magnitude ? magnitude->number() : default_yarn_magnitude(reader, out.factor);
  }
  try {
    validate(out);
  } catch (const ArgumentError& error) {
    reader.fail(error.what());
  }
  return out;
}

/// Base and scaling of rotary frequencies.
struct Rope {
  double base;
  RopeScaling scaling = {};
};

/// FileError for a rule or a number that cannot be computed with. `base` is what goes without saying.
inline Rope read_rope(const JsonReader& reader, double base, std::int64_t max_positions) {
  Rope out{.base = base};
  auto theta = reader.optional("rope_theta");
  const auto scaling = reader.optional("rope_scaling"), parameters = reader.optional("rope_parameters");
  if (parameters)
    if (const auto newer = parameters->optional("rope_theta")) theta = newer;
  if (theta) out.base = theta->number();
  if (!(out.base > 1)) fail_unsupported(*theta, "a number above 1");
  if (scaling) out.scaling = read_rope_scaling(*scaling, max_positions);
  if (parameters) out.scaling = read_rope_scaling(*parameters, max_positions);
  return out;
}

/// The value of "rope_scaling".
inline nlohmann::json rope_scaling_json(const RopeScaling& scaling) {
  if (scaling.rule == RopeRule::plain) return nullptr;
  nlohmann::json out;
  for (const auto& [name, rule] : rope_rule_names)
    if (rule == scaling.rule) out["rope_type"] = name;
  out["factor"] = scaling.factor;
  if (scaling.rule != RopeRule::linear) out["original_max_position_embeddings"] = scaling.original_positions;
  if (scaling.rule == RopeRule::llama3) {
    out["low_freq_factor"] = scaling.low_freq_factor;
    out["high_freq_factor"] = scaling.high_freq_factor;
  }
  if (scaling.rule == RopeRule::yarn) {
    out["beta_fast"] = scaling.beta_fast;
    out["beta_slow"] = scaling.beta_slow;
    out["truncate"] = scaling.whole_pairs;
    out["attention_factor"] = scaling.magnitude;
  }
  return out;
}

}  // namespace rf::detail

#endif  // RECURFORMER_CHECKPOINT_HF_ROPE_HPP
