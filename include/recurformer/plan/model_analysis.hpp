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
// The standard error of a ratio is that of the mean over sequences.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
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

/// heads[layer][head]; heads that are not attention have no queries.
struct ModelAnalysis {
  AnalysisOptions options;
  std::int64_t sequences = 0;
  std::int64_t tokens = 0;
  int queries_per_group = 1;
  std::vector<std::vector<HeadAnalysis>> heads;
};

/// How the heads of a KV group make its score.
enum class GroupScore { mean, minimum };

/// Score of every KV group: mean or minimum of `of(head)` over its query heads.
template <class Of>
GroupScores group_scores(const ModelAnalysis& analysis, GroupScore how, Of&& of) {
  GroupScores out;
  const auto queries = static_cast<std::size_t>(analysis.queries_per_group);
  for (const auto& layer : analysis.heads) {
    auto& scores = out.emplace_back();
    for (std::size_t first = 0; first < layer.size(); first += queries) {
      double sum = 0, least = of(layer[first]);
      for (std::size_t h = first; h < first + queries; ++h) {
        sum += of(layer[h]);
        least = std::min(least, static_cast<double>(of(layer[h])));
      }
      scores.push_back(how == GroupScore::mean ? sum / static_cast<double>(queries) : least);
    }
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

/// The sums that an analysis is made of. Different heads may be added to at the same time.
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
    sums.recency.add(recent / static_cast<double>(queries));
    sums.sink.add(sink / static_cast<double>(queries));
    if (free_queries > 0) sums.sink_free.add(sink_free / static_cast<double>(free_queries));
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
      longest_ = std::max(longest_, sequence.rows);
      tokens_ += sequence.rows;
    }
    sequences_ += static_cast<std::int64_t>(sequences.size());
  }

  /// The analysis of everything added so far. ArgumentError if no sequence was longer than 4·window.
  ModelAnalysis result() const {
    check(sequences_ > 0, "nothing was analysed");
    check(longest_ > 4 * options_.window, "the longest analysed sequence has ", longest_,
          " tokens; recency with a window of ", options_.window, " is measured from position ",
          4 * options_.window, " on; use longer sequences or a smaller window");
    ModelAnalysis out{.options = options_,
                      .sequences = sequences_,
                      .tokens = tokens_,
                      .queries_per_group = queries_per_group_,
                      .heads = {}};
    for (const auto& layer : heads_) {
      auto& heads = out.heads.emplace_back();
      for (const HeadSums& sums : layer)
        heads.push_back({sums.recency.result(), sums.sink_free.result(), sums.sink.result(), sums.queries,
                         sums.skipped, sums.profile.profile()});
    }
    return out;
  }

 private:
  struct Moments {
    std::int64_t count = 0;
    double sum = 0, squares = 0;
    void add(double x) { ++count, sum += x, squares += x * x; }
    MeanAndError result() const {
      if (count == 0) return {};
      const auto n = static_cast<double>(count);
      const double mean = sum / n;
      const double variance = count > 1 ? std::max(0.0, (squares - n * mean * mean) / (n - 1)) : 0.0;
      return {mean, std::sqrt(variance / n)};
    }
  };
  struct HeadSums {
    Moments recency, sink_free, sink;
    std::int64_t queries = 0, skipped = 0;
    DistanceSums profile;
  };

  AnalysisOptions options_;
  int queries_per_group_;
  std::vector<std::vector<HeadSums>> heads_;  // per layer
  std::int64_t sequences_ = 0, tokens_ = 0, longest_ = 0;
};

}  // namespace rf

#endif  // RECURFORMER_PLAN_MODEL_ANALYSIS_HPP
