#ifndef RECURFORMER_CHECKPOINT_PLAN_FILE_HPP
#define RECURFORMER_CHECKPOINT_PLAN_FILE_HPP

// Plans as JSON files of their own: what planning found, for people to read and for conversion to follow.
//
//   {
//     "recurformer_plan": 1,
//     "model": {"layers": 2, "kv_groups": 4, "queries_per_group": 1, "d_head": 64, "d_model": 256},
//     "kinds": [
//       {"mixer": "attention", "precision": "fp32"},
//       {"mixer": "streaming", "precision": "fp32", "options": {"sink": 4, "window": 64}}
//     ],
//     "layers": [            the kind of every KV group, per layer
//       [0, 0, 1, 1],
//       [1, 0, 1, 1]
//     ],
//     "method": "recency-ratio",
//     "parameters": {"window": "16"},
//     "scores": [            null where the method has none
//       [0.125, null, 0.75, 1.0],
//       [0.5, 0.25, 0.75, 1.0]
//     ],
//     "cache_bytes": 65536
//   }
//
// The last four are optional. kinds and layers are written the same way in config.json, see hf_config.hpp.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "recurformer/checkpoint/atomic_file.hpp"
#include "recurformer/checkpoint/json.hpp"
#include "recurformer/checkpoint/untrusted.hpp"
#include "recurformer/spec/model_spec.hpp"
#include "recurformer/spec/plan_validation.hpp"

namespace rf {

/// A plan and how it was found.
struct PlanDocument {
  Plan plan;
  std::string method;                             ///< e.g. "recency-ratio"; empty: not said
  std::map<std::string, std::string> parameters;  ///< of the method, e.g. {"window", "16"}
  std::vector<std::vector<double>> scores;  ///< [layer][group], NaN where there is none; empty: no scores
  std::optional<std::int64_t> cache_bytes;  ///< of one sequence, at the length that parameters give
};

namespace detail {

/// JSON for people: whatever contains no array or object is one line.
template <class Json>
std::string json_text(const Json& value, std::size_t indent = 0) {
  const bool one_line = !value.is_structured() || std::none_of(value.begin(), value.end(), [](const Json& e) {
    return e.is_structured();
  });
  const auto dump = [](const Json& part) {
    return part.dump(-1, ' ', false, Json::error_handler_t::replace);
  };
  if (one_line) return dump(value);
  const std::string separator = ",\n" + std::string(indent + 2, ' ');
  std::string out;
  for (const auto& [key, element] : value.items()) {
    out += out.empty() ? separator.substr(1) : separator;
    if (value.is_object()) out += dump(key) + ": ";
    out += json_text(element, indent + 2);
  }
  return (value.is_object() ? "{" : "[") + out + "\n" + std::string(indent, ' ') +
         (value.is_object() ? "}" : "]");
}

/// Adds the fields "kinds" and "layers".
template <class Json>
void add_plan(Json& out, const Plan& plan) {
  out["kinds"] = Json::array();
  for (const KindChoice& kind : plan.kinds) {
    Json one = {{"mixer", kind.mixer}, {"precision", kind.precision}};
    for (const auto& [option, value] : kind.options) one["options"][option] = value;
    out["kinds"].push_back(std::move(one));
  }
  out["layers"] = plan.kind_of_group;
}

/// FileError unless `name` can stand in a message as it is, as binding a plan makes it.
inline void check_name(const JsonReader& reader, const std::string& name) {
  constexpr std::size_t longest = 100;
  if (one_line(name, longest) != name)
    reader.fail("found the name ", printable(name), "; expected at most ", longest,
                " bytes without control characters");
}
inline std::string read_name(const JsonReader& reader) {
  check_name(reader, reader.string());
  return reader.string();
}

/// Options are numbers of tokens and the like; with these, sizes computed from them fit 64 bits.
inline constexpr std::int64_t largest_option = std::numeric_limits<std::int32_t>::max();

inline KindChoice read_kind(const JsonReader& reader) {
  reader.reject_unknown({"mixer", "precision", "options"});
  KindChoice out{read_name(reader.at("mixer")), read_name(reader.at("precision")), {}};
  if (const auto options = reader.optional("options"))
    for (const std::string& option : options->object_keys()) {
      check_name(*options, option);
      out.options.emplace_back(option, options->at(option).integer(-largest_option, largest_option));
    }
  return out;
}

/// The fields "kinds" and "layers"; there must be `layers` rows of `groups`.
inline Plan read_plan_fields(const JsonReader& reader, int layers, int groups) {
  Plan plan;
  const JsonReader kinds = reader.at("kinds");
  std::set<std::string> names;
  for (const JsonReader& kind : kinds.array()) {
    plan.kinds.push_back(read_kind(kind));
    const auto [name, is_new] = names.insert(plan.kinds.back().name());
    if (!is_new) kind.fail("the kind ", printable(*name), " is listed twice");
  }
  if (plan.kinds.empty()) kinds.fail("is empty; expected at least one kind");
  const JsonReader rows = reader.at("layers");
  for (const JsonReader& row : rows.array()) {
    auto& kind_of_group = plan.kind_of_group.emplace_back();
    for (const JsonReader& kind : row.array())
      kind_of_group.push_back(
          static_cast<int>(kind.integer(0, static_cast<std::int64_t>(plan.kinds.size()) - 1)));
    if (static_cast<int>(kind_of_group.size()) != groups)
      row.fail("names the kinds of ", kind_of_group.size(), " KV groups; the model has ", groups);
  }
  if (static_cast<int>(plan.kind_of_group.size()) != layers)
    rows.fail("has ", plan.kind_of_group.size(), " rows; the model has ", layers, " layers");
  return plan;
}

/// Of a model's sizes, those that a plan depends on.
inline std::vector<std::pair<std::string_view, int>> plan_sizes(const ModelShape& shape) {
  return {{"layers", shape.layers},
          {"kv_groups", shape.layer.kv_groups},
          {"queries_per_group", shape.layer.queries_per_group},
          {"d_head", shape.layer.d_head},
          {"d_model", shape.layer.d_model}};
}

inline std::vector<std::vector<double>> read_scores(const JsonReader& reader, int layers, int groups) {
  std::vector<std::vector<double>> out;
  for (const JsonReader& row : reader.array()) {
    auto& scores = out.emplace_back();
    for (const JsonReader& score : row.array())
      scores.push_back(score.value().is_null() ? std::numeric_limits<double>::quiet_NaN() : score.number());
    if (static_cast<int>(scores.size()) != groups)
      row.fail("has ", scores.size(), " scores; the model has ", groups, " KV groups");
  }
  if (static_cast<int>(out.size()) != layers)
    reader.fail("has ", out.size(), " rows; the model has ", layers, " layers");
  return out;
}

inline PlanDocument read_plan_document(const JsonReader& reader) {
  const JsonReader format = reader.at("recurformer_plan");  // first: it tells whether this is a plan at all
  if (format.integer() != 1) format.fail("found format ", format.integer(), "; supported: 1");
  reader.reject_unknown(
      {"recurformer_plan", "model", "kinds", "layers", "method", "parameters", "scores", "cache_bytes"});
  const JsonReader model = reader.at("model");
  const int layers = static_cast<int>(model.at("layers").integer(1, 1 << 20));
  const int groups = static_cast<int>(model.at("kv_groups").integer(1, 1 << 20));

  PlanDocument out;
  out.plan = read_plan_fields(reader, layers, groups);
  if (const auto method = reader.optional("method")) out.method = method->string();
  if (const auto parameters = reader.optional("parameters"))
    for (const std::string& name : parameters->object_keys())
      out.parameters[name] = parameters->at(name).string();
  if (const auto scores = reader.optional("scores")) out.scores = read_scores(*scores, layers, groups);
  if (const auto bytes = reader.optional("cache_bytes")) out.cache_bytes = bytes->integer(0);
  return out;
}

}  // namespace detail

/// Writes a plan for models of this shape; kinds that no group has are left out. ArgumentError if plan or
/// scores do not fit the shape, FileError if the file cannot be written.
inline void write_plan(const PlanDocument& document, const ModelShape& shape, const std::string& path) {
  validate(document.plan, shape);
  nlohmann::ordered_json out;
  out["recurformer_plan"] = 1;
  for (const auto& [name, size] : detail::plan_sizes(shape)) out["model"][std::string(name)] = size;
  detail::add_plan(out, without_unused_kinds(document.plan));
  if (!document.method.empty()) out["method"] = document.method;
  if (!document.parameters.empty()) out["parameters"] = document.parameters;
  if (!document.scores.empty()) {
    check(document.scores.size() == static_cast<std::size_t>(shape.layers), "the plan has scores of ",
          document.scores.size(), " layers; the model has ", shape.layers);
    for (const auto& row : document.scores)
      check(row.size() == static_cast<std::size_t>(shape.layer.kv_groups), "the plan has a layer with ",
            row.size(), " scores; the model has ", shape.layer.kv_groups, " KV groups");
    out["scores"] = document.scores;  // NaN becomes null
  }
  if (document.cache_bytes) out["cache_bytes"] = *document.cache_bytes;
  write_file_atomically(path, detail::json_text(out) + "\n");
}

/// Reads a plan, whatever model it is for. FileError naming file and field.
inline PlanDocument read_plan(const std::string& path) {
  const nlohmann::json document = parse_json_file(path);
  return detail::read_plan_document(JsonReader(path, document));
}

/// Reads a plan for a model of this shape; FileError if it was made for another one.
inline PlanDocument read_plan(const std::string& path, const ModelShape& shape) {
  const nlohmann::json document = parse_json_file(path);
  const JsonReader reader(path, document);
  PlanDocument out = detail::read_plan_document(reader);
  const JsonReader model = reader.at("model");
  for (const auto& [name, size] : detail::plan_sizes(shape)) {
    const JsonReader field = model.at(name);
    if (field.integer() != size)
      field.fail("the plan was made for a model with ", field.integer(), "; this model has ", size);
  }
  return out;
}

}  // namespace rf

#endif  // RECURFORMER_CHECKPOINT_PLAN_FILE_HPP
