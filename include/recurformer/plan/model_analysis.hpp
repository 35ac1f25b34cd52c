#ifndef RECURFORMER_PLAN_MODEL_ANALYSIS_HPP
#define RECURFORMER_PLAN_MODEL_ANALYSIS_HPP

// Where a model's attention heads look: the statistics, whoever measures them (plan/analysis.hpp on the CPU,
// plan/device_analysis.hpp on a device).
//
//   recency ratio  RR_h = mean over queries i >= 4·window of Σ_{0 <= i-j < window} p_ij
//   sink-free RR   recent mass outside the sink / mass outside the sink; queries with less than 1 % of their
//                  mass outside the sink are skipped and counted
//   profile        mean probability at each lag i - j
//
// The standard error of a ratio is that of the mean over sequences. Sequences of up to 4·window tokens have
// no ratios; they count in the profiles only.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "recurformer/core/error.hpp"
#include "recurformer/math/distance_profile.hpp"
#include "recurformer/plan/select.hpp"
#include "recurformer/spec/batch.hpp"
#include "recurformer/spec/model_spec.hpp"

namespace rf {

struct AnalysisOptions {
  std::int64_t window = 16;  ///< "recent": lags 0 <= i - j < window
  std::int64_t sink = 4;     ///< first positions, counted apart
};

/// A mean over sequences and its standard error (0 for a single sequence).
struct MeanAndError {
  double mean = 0;
  double error = 0;
};

/// What one query head does.
struct HeadAnalysis {
  MeanAndError recency;
  MeanAndError sink_free_recency;
  MeanAndError sink_mass;
  std::int64_t queries = 0;          ///< measured
  std::int64_t skipped_queries = 0;  ///< of these, left out of the sink-free ratio
  DistanceProfile profile;
};

/// What one KV group does: the mean over its query heads in each sequence, and so the error that heads which
/// vary together have.
struct GroupAnalysis {
  MeanAndError recency;
  MeanAndError sink_free_recency;
};

/// heads[layer][head] and groups[layer][group]; heads that are not attention have no queries, and ratios of
/// 0.
struct ModelAnalysis {
  AnalysisOptions options;
  std::int64_t sequences = 0;        ///< that the ratios are means over
  std::int64_t short_sequences = 0;  ///< beside them: too short for ratios
  std::int64_t tokens = 0;           ///< of both
  int queries_per_group = 1;
  std::vector<std::vector<HeadAnalysis>> heads;
  std::vector<std::vector<GroupAnalysis>> groups;
};

/// How the heads of a KV group make its score.
enum class GroupScore {
  mean,    ///< of its heads
  minimum  ///< that of the head with the least
};

/// Ratio of every KV group, [layer][group]. `ratio` takes a HeadAnalysis or a GroupAnalysis to one of its
/// ratios.
template <class Ratio>
std::vector<std::vector<MeanAndError>> group_ratios(const ModelAnalysis& analysis, GroupScore how,
                                                    Ratio&& ratio) {
  std::vector<std::vector<MeanAndError>> out;
  const auto queries = static_cast<std::ptrdiff_t>(analysis.queries_per_group);
  for (std::size_t l = 0; l < analysis.groups.size(); ++l) {
    auto& ratios = out.emplace_back();
    auto first_head = analysis.heads[l].begin();
    for (const GroupAnalysis& group : analysis.groups[l]) {
      const auto least =
          std::min_element(first_head, first_head + queries,
                           [&](const auto& a, const auto& b) { return ratio(a).mean < ratio(b).mean; });
      ratios.push_back(how == GroupScore::mean ? ratio(group) : ratio(*least));
      first_head += queries;
    }
  }
  return out;
}

/// The same without errors, for select_groups().
template <class Ratio>
GroupScores group_scores(const ModelAnalysis& analysis, GroupScore how, Ratio&& ratio) {
  GroupScores out;
  for (const auto& layer : group_ratios(analysis, how, ratio)) {
    auto& scores = out.emplace_back();
    for (const MeanAndError& group : layer) scores.push_back(group.mean);
  }
  return out;
}

/// Profiles in the form that convert_model() takes.
inline std::vector<std::vector<DistanceProfile>> profiles_of(const ModelAnalysis& analysis) {
  std::vector<std::vector<DistanceProfile>> out;
  for (const auto& layer : analysis.heads) {
    auto& profiles = out.emplace_back();
    for (const auto& head : layer) profiles.push_back(head.profile);
  }
  return out;
}

/// What one head's queries saw, as attention's probes leave it: entry 0 is that of the sequence's first
/// token, the next one `stride` further.
struct HeadMasses {
  const float* recent = nullptr;       ///< Σ p_ij over recent keys
  const float* sink = nullptr;         ///< over sinks
  const float* recent_sink = nullptr;  ///< over keys that are both
  std::int64_t stride = 1;
};

/// The sums that an analysis is made of. Different heads may be added to at the same time, each with the same
/// sequences in the same order.
class AnalysisSums {
 public:
  AnalysisSums(const ModelShape& shape, const AnalysisOptions& options)
      : options_(options), queries_per_group_(shape.layer.queries_per_group) {
    check(options.window >= 1, "window is ", options.window, "; it must be at least 1");
    check(options.sink >= 0, "sink is ", options.sink, "; it must not be negative");
    heads_.assign(static_cast<std::size_t>(shape.layers),
                  std::vector<HeadSums>(static_cast<std::size_t>(shape.layer.heads())));
  }

  /// Adds what a head saw in one whole sequence of `rows` tokens. Sequences of up to 4·window do not count.
  void add_masses(std::size_t layer, std::size_t head, std::int64_t rows, const HeadMasses& masses) {
    const std::int64_t first = 4 * options_.window;
    if (rows <= first) return;
    HeadSums& sums = heads_[layer][head];
    double recent = 0, sink = 0, sink_free = 0;
    std::int64_t free_queries = 0;
    for (std::int64_t at = first * masses.stride; at < rows * masses.stride; at += masses.stride) {
      const auto outside = 1.0 - static_cast<double>(masses.sink[at]);
      recent += static_cast<double>(masses.recent[at]);
      sink += static_cast<double>(masses.sink[at]);
      if (outside < 0.01) continue;
      sink_free += static_cast<double>(masses.recent[at] - masses.recent_sink[at]) / outside;
      ++free_queries;
    }
    const std::int64_t queries = rows - first;
    sums.recency.push_back(recent / static_cast<double>(queries));
    sums.sink.push_back(sink / static_cast<double>(queries));
    sums.sink_free.push_back(free_queries > 0 ? sink_free / static_cast<double>(free_queries) : not_measured);
    sums.queries += queries;
    sums.skipped += queries - free_queries;
  }
  /// Adds the probability that a head put on every lag in one whole sequence.
  void add_profile(std::size_t layer, std::size_t head, std::span<const double> mass) {
    heads_[layer][head].profile.add(mass);
  }
  /// Counts sequences whose heads are added.
  void count(std::span<const SequenceRows> sequences) {
    for (const SequenceRows& sequence : sequences) {
      ++(sequence.rows > 4 * options_.window ? sequences_ : short_sequences_);
      longest_ = std::max(longest_, sequence.rows);
      tokens_ += sequence.rows;
    }
  }

  /// The analysis of everything added so far. ArgumentError if no sequence was longer than 4·window.
  ModelAnalysis result() const {
    check(sequences_ + short_sequences_ > 0, "nothing was analysed");
    check(sequences_ > 0, "the longest analysed sequence has ", longest_,
          " tokens; recency with a window of ", options_.window, " is measured from position ",
          4 * options_.window, " on; use longer sequences or a smaller window");
    ModelAnalysis out{.options = options_,
                      .sequences = sequences_,
                      .short_sequences = short_sequences_,
                      .tokens = tokens_,
                      .queries_per_group = queries_per_group_,
                      .heads = {},
                      .groups = {}};
    const auto queries = static_cast<std::size_t>(queries_per_group_);
    for (const auto& layer : heads_) {
      auto& heads = out.heads.emplace_back();
      for (const HeadSums& sums : layer)
        heads.push_back({mean_and_error(sums.recency), mean_and_error(sums.sink_free),
                         mean_and_error(sums.sink), sums.queries, sums.skipped, sums.profile.profile()});
      auto& groups = out.groups.emplace_back();
      for (std::size_t first = 0; first < layer.size(); first += queries) {
        const std::span group = std::span(layer).subspan(first, queries);
        groups.push_back({mean_and_error(mean_of_heads(group, &HeadSums::recency)),
                          mean_and_error(mean_of_heads(group, &HeadSums::sink_free))});
      }
    }
    return out;
  }

 private:
  static constexpr double not_measured = std::numeric_limits<double>::quiet_NaN();

  struct HeadSums {
    std::vector<double> recency, sink_free,
        sink;  // per sequence; not_measured where all queries were skipped
    std::int64_t queries = 0, skipped = 0;
    DistanceSums profile;
  };

  /// Over the sequences that were measured.
  static MeanAndError mean_and_error(const std::vector<double>& per_sequence) {
    double n = 0, sum = 0, squares = 0;
    for (const double x : per_sequence)
      if (!std::isnan(x)) n += 1, sum += x;
    if (n == 0) return {};
    const double mean = sum / n;
    for (const double x : per_sequence)
      if (!std::isnan(x)) squares += (x - mean) * (x - mean);
    return {mean, n > 1 ? std::sqrt(squares / (n - 1) / n) : 0.0};
  }

  /// Per sequence, the mean over those heads of a group that were measured in it.
  static std::vector<double> mean_of_heads(std::span<const HeadSums> heads,
                                           std::vector<double> HeadSums::*ratio) {
    std::vector<double> out;
    for (std::size_t sequence = 0; sequence < (heads[0].*ratio).size(); ++sequence) {
      double n = 0, sum = 0;
      for (const HeadSums& head : heads)
        if (const double x = (head.*ratio)[sequence]; !std::isnan(x)) n += 1, sum += x;
      out.push_back(n > 0 ? sum / n : not_measured);
    }
    return out;
  }

  AnalysisOptions options_;
  int queries_per_group_;
  std::vector<std::vector<HeadSums>> heads_;  // per layer
  std::int64_t sequences_ = 0, short_sequences_ = 0, tokens_ = 0, longest_ = 0;
};

}  // namespace rf

#endif  // RECURFORMER_PLAN_MODEL_ANALYSIS_HPP
