#ifndef RECURFORMER_PLAN_ANALYSIS_FILE_HPP
#define RECURFORMER_PLAN_ANALYSIS_FILE_HPP

// Analyses as JSON, for people to read and for planning and conversion to follow:
//
//   {"recurformer_analysis": 1, "window": 16, "sink": 4, "sequences": 64, "short_sequences": 0,
//    "tokens": 16384, "queries_per_group": 2,
//    "layers": [{"heads": [{"recency": 0.8, "recency_error": 0.01,
//                           "sink_free_recency": …, "sink_free_recency_error": …,
//                           "sink_mass": …, "sink_mass_error": …, "queries": …, "skipped_queries": …,
//                           "profile": {"lag": […], "lags": […], "probability": […]}}, …],
//                "groups": [{"recency": 0.7, "recency_error": 0.01, "sink_free_recency": …,
//                            "sink_free_recency_error": …}, …]}, …],
//    "swap": {"replacement": "mamba:fp32", "divergence": [[…]], "recall_drop": [[…]]}}
//
// where swap is optional.

#include <cstddef>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "recurformer/checkpoint/atomic_file.hpp"
#include "recurformer/checkpoint/json.hpp"
#include "recurformer/plan/model_analysis.hpp"
#include "recurformer/plan/swap.hpp"

namespace rf {

/// An analysis and, where they were measured, swap scores.
struct AnalysisDocument {
  ModelAnalysis analysis;
  std::optional<SwapScores> swap;
  std::string swap_replacement;
};

inline nlohmann::json analysis_json(const AnalysisDocument& document) {
  const ModelAnalysis& analysis = document.analysis;
  nlohmann::json layers = nlohmann::json::array();
  for (std::size_t l = 0; l < analysis.heads.size(); ++l) {
    nlohmann::json heads = nlohmann::json::array(), groups = nlohmann::json::array();
    for (const HeadAnalysis& head : analysis.heads[l])
      heads.push_back({{"recency", head.recency.mean},
                       {"recency_error", head.recency.error},
                       {"sink_free_recency", head.sink_free_recency.mean},
                       {"sink_free_recency_error", head.sink_free_recency.error},
                       {"sink_mass", head.sink_mass.mean},
                       {"sink_mass_error", head.sink_mass.error},
                       {"queries", head.queries},
                       {"skipped_queries", head.skipped_queries},
                       {"profile",
                        {{"lag", head.profile.lag},
                         {"lags", head.profile.lags},
                         {"probability", head.profile.probability}}}});
    for (const GroupAnalysis& group : analysis.groups[l])
      groups.push_back({{"recency", group.recency.mean},
                        {"recency_error", group.recency.error},
                        {"sink_free_recency", group.sink_free_recency.mean},
                        {"sink_free_recency_error", group.sink_free_recency.error}});
    layers.push_back({{"heads", heads}, {"groups", groups}});
  }
  nlohmann::json out = {{"recurformer_analysis", 1},
                        {"window", analysis.options.window},
                        {"sink", analysis.options.sink},
                        {"sequences", analysis.sequences},
                        {"short_sequences", analysis.short_sequences},
                        {"tokens", analysis.tokens},
                        {"queries_per_group", analysis.queries_per_group},
                        {"layers", layers}};
  if (document.swap)
    out["swap"] = {{"replacement", document.swap_replacement},
                   {"divergence", document.swap->divergence},
                   {"recall_drop", document.swap->recall_drop}};
  return out;
}

inline void write_analysis(const AnalysisDocument& document, const std::string& path) {
  write_file_atomically(path, analysis_json(document).dump() + "\n");
}

namespace detail {

inline std::vector<double> read_numbers(const JsonReader& reader,
                                        double min = std::numeric_limits<double>::lowest()) {
  std::vector<double> out;
  for (const JsonReader& element : reader.array()) out.push_back(element.number(min));
  return out;
}

inline GroupScores read_scores(const JsonReader& reader, std::size_t layers, std::size_t groups) {
  GroupScores out;
  for (const JsonReader& layer : reader.array()) {
    out.push_back(read_numbers(layer));
    if (out.back().size() != groups) layer.fail("expected ", groups, " numbers, found ", out.back().size());
  }
  if (out.size() != layers) reader.fail("expected ", layers, " layers, found ", out.size());
  return out;
}

inline DistanceProfile read_profile(const JsonReader& reader) {
  DistanceProfile profile{.lag = read_numbers(reader.at("lag"), 0),
                          .lags = read_numbers(reader.at("lags"), 1),
                          .probability = read_numbers(reader.at("probability"), 0)};
  if (profile.lag.size() != profile.lags.size() || profile.lag.size() != profile.probability.size())
    reader.fail("lag, lags and probability have ", profile.lag.size(), ", ", profile.lags.size(), " and ",
                profile.probability.size(), " elements; they must be equally many");
  return profile;
}

inline MeanAndError read_ratio(const JsonReader& reader, const std::string& name) {
  return {reader.at(name).number(), reader.at(name + "_error").number(0)};
}

inline HeadAnalysis read_head(const JsonReader& reader) {
  return {.recency = read_ratio(reader, "recency"),
          .sink_free_recency = read_ratio(reader, "sink_free_recency"),
          .sink_mass = read_ratio(reader, "sink_mass"),
          .queries = reader.at("queries").integer(0),
          .skipped_queries = reader.at("skipped_queries").integer(0),
          .profile = read_profile(reader.at("profile"))};
}

inline GroupAnalysis read_group(const JsonReader& reader) {
  return {.recency = read_ratio(reader, "recency"),
          .sink_free_recency = read_ratio(reader, "sink_free_recency")};
}

}  // namespace detail

/// Reads an analysis of a model of this shape. Malformed files, and analyses of other models, are FileErrors.
inline AnalysisDocument read_analysis(const std::string& path, const ModelShape& shape) {
  const nlohmann::json json = parse_json_file(path);
  const JsonReader reader(path, json);
  reader.at("recurformer_analysis").integer(1, 1);
  AnalysisDocument out;
  out.analysis.options = {.window = reader.at("window").integer(1), .sink = reader.at("sink").integer(0)};
  out.analysis.sequences = reader.at("sequences").integer(1);
  out.analysis.short_sequences = reader.at("short_sequences").integer(0);
  out.analysis.tokens = reader.at("tokens").integer(1);
  out.analysis.queries_per_group = static_cast<int>(reader.at("queries_per_group").integer(1, 4096));
  if (out.analysis.queries_per_group != shape.layer.queries_per_group)
    reader.at("queries_per_group")
        .fail("is ", out.analysis.queries_per_group, "; the model has ", shape.layer.queries_per_group);
  const JsonReader layers = reader.at("layers");
  for (const JsonReader& layer : layers.array()) {
    auto& heads = out.analysis.heads.emplace_back();
    for (const JsonReader& head : layer.at("heads").array()) heads.push_back(detail::read_head(head));
    if (static_cast<int>(heads.size()) != shape.layer.heads())
      layer.fail("has ", heads.size(), " heads; the model has ", shape.layer.heads());
    auto& groups = out.analysis.groups.emplace_back();
    for (const JsonReader& group : layer.at("groups").array()) groups.push_back(detail::read_group(group));
    if (static_cast<int>(groups.size()) != shape.layer.kv_groups)
      layer.fail("has ", groups.size(), " groups; the model has ", shape.layer.kv_groups);
  }
  if (static_cast<int>(out.analysis.heads.size()) != shape.layers)
    layers.fail("has ", out.analysis.heads.size(), " layers; the model has ", shape.layers);
  if (const auto swap = reader.optional("swap")) {
    const auto layer_count = static_cast<std::size_t>(shape.layers),
               groups = static_cast<std::size_t>(shape.layer.kv_groups);
    out.swap_replacement = swap->at("replacement").string();
    out.swap = SwapScores{detail::read_scores(swap->at("divergence"), layer_count, groups),
                          detail::read_scores(swap->at("recall_drop"), layer_count, groups)};
  }
  return out;
}

}  // namespace rf

#endif  // RECURFORMER_PLAN_ANALYSIS_FILE_HPP
