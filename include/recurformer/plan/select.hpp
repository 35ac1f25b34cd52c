#ifndef RECURFORMER_PLAN_SELECT_HPP
#define RECURFORMER_PLAN_SELECT_HPP

// From scores to a plan: which KV groups are replaced. Groups are taken from the highest score down; ties go
// to the lower layer, then the lower group.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "recurformer/core/error.hpp"
#include "recurformer/core/random.hpp"
#include "recurformer/spec/plan.hpp"

namespace rf {

/// scores[layer][group]; higher means replaced earlier.
using GroupScores = std::vector<std::vector<double>>;

/// How many groups are replaced, and which may not be. Every limit that is given holds.
struct Selection {
  std::optional<double> threshold = {};  ///< only groups with at least this score
  std::optional<double> fraction = {};   ///< at most this share of all groups, 0 to 1
  bool fraction_per_layer = false;       ///< the share is of each layer's groups instead of the model's
  std::optional<std::int64_t> cache_bytes = {};       ///< replace until the cache fits …
  std::int64_t context = 65536;                       ///< … at this many tokens
  std::vector<int> kept_layers = {};                  ///< layers that stay as they are
  std::vector<std::pair<int, int>> kept_groups = {};  ///< (layer, group) that stay
};

/// Reversed order: the groups that would be replaced last come first. For comparison.
inline GroupScores reversed(GroupScores scores) {
  for (auto& layer : scores)
    for (double& score : layer) score = -score;
  return scores;
}

/// Scores that put the groups in a random order. For comparison.
inline GroupScores random_scores(std::size_t layers, std::size_t groups, std::uint64_t seed) {
  GroupScores out(layers, std::vector<double>(groups));
  Random random(seed);
  for (auto& layer : out)
    for (double& score : layer) score = random.uniform();
  return out;
}

namespace detail {

inline void validate(const Selection& selection, const GroupScores& scores) {
  check(selection.threshold || selection.fraction || selection.cache_bytes,
        "a plan needs a limit: a threshold, a fraction or a cache budget");
  if (selection.fraction)
    check(*selection.fraction >= 0 && *selection.fraction <= 1, "fraction is ", *selection.fraction,
          "; allowed: 0 to 1");
  check(selection.context >= 1, "context is ", selection.context, " tokens; it must be at least 1");
  const auto layers = static_cast<int>(scores.size());
  for (const int layer : selection.kept_layers)
    check(layer >= 0 && layer < layers, "layer ", layer, " is to stay, but the model has layers 0 to ",
          layers - 1);
  for (const auto& [layer, group] : selection.kept_groups)
    check(layer >= 0 && layer < layers && group >= 0 &&
              group < static_cast<int>(scores[static_cast<std::size_t>(layer)].size()),
          "group ", group, " of layer ", layer, " is to stay, but the model has no such group");
  for (const auto& layer : scores)
    for (const double score : layer) check(std::isfinite(score), "a score is not a number; measure again");
}

inline bool is_kept(const Selection& selection, int layer, int group) {
  return std::count(selection.kept_layers.begin(), selection.kept_layers.end(), layer) > 0 ||
         std::count(selection.kept_groups.begin(), selection.kept_groups.end(), std::pair{layer, group}) > 0;
}

}  // namespace detail

/// The plan that replaces groups of `original` (kind 0 everywhere) by `replacement`. bytes_of(plan) gives the
/// cache bytes of a plan at selection.context tokens; it is asked only for a byte budget.
inline Plan select_groups(const Plan& original, const KindChoice& replacement, const GroupScores& scores,
                          const Selection& selection,
                          const std::function<std::int64_t(const Plan&)>& bytes_of = {}) {
  detail::validate(selection, scores);
  check(scores.size() == original.kind_of_group.size(), "scores of ", scores.size(), " layers for a plan of ",
        original.kind_of_group.size());
  struct Candidate {
    double score;
    int layer, group;
  };
  std::vector<Candidate> candidates;
  std::size_t groups = 0;
  for (std::size_t l = 0; l < scores.size(); ++l) {
    check(scores[l].size() == original.kind_of_group[l].size(), "layer ", l, " has ",
          original.kind_of_group[l].size(), " groups but ", scores[l].size(), " scores");
    groups += scores[l].size();
    for (std::size_t g = 0; g < scores[l].size(); ++g)
      if (!detail::is_kept(selection, static_cast<int>(l), static_cast<int>(g)) &&
          (!selection.threshold || scores[l][g] >= *selection.threshold))
        candidates.push_back({scores[l][g], static_cast<int>(l), static_cast<int>(g)});
  }
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) { return a.score > b.score; });

  const auto share = [&](std::size_t of) {
    return selection.fraction
               ? static_cast<std::size_t>(std::floor(*selection.fraction * static_cast<double>(of) + 1e-9))
               : of;
  };
  Plan plan = original;
  const int kind = with_kind(plan, replacement);
  std::vector<std::size_t> in_layer(scores.size());
  std::size_t replaced = 0;
  const auto fits = [&] { return selection.cache_bytes && bytes_of(plan) <= *selection.cache_bytes; };
  for (const Candidate& candidate : candidates) {
    if (fits()) break;
    const auto layer = static_cast<std::size_t>(candidate.layer);
    if (selection.fraction_per_layer ? in_layer[layer] >= share(scores[layer].size())
                                     : replaced >= share(groups))
      continue;
    plan.kind_of_group[layer][static_cast<std::size_t>(candidate.group)] = kind;
    ++in_layer[layer];
    ++replaced;
  }
  if (selection.cache_bytes)
    check(fits(), "no plan within the other limits fits ", *selection.cache_bytes, " bytes of cache at ",
          selection.context, " tokens: with ", replaced, " of ", groups, " groups replaced it is ",
          bytes_of(plan), " bytes");
  return plan;
}

}  // namespace rf

#endif  // RECURFORMER_PLAN_SELECT_HPP
