#ifndef RECURFORMER_PLAN_ANALYSIS_HPP
#define RECURFORMER_PLAN_ANALYSIS_HPP

// Where a model's attention heads look, measured over many sequences.
//
//   recency ratio  RR_h = mean over queries i >= 4·window of Σ_{0 <= i-j < window} p_ij
//   sink-free RR   recent mass outside the sink / mass outside the sink; queries with less than 1 % of their
//   mass outside
//                  the sink are skipped and counted
//   profile        mean probability at each lag i - j, from a second pass over q and k with the saved
//   log-sum-exp
//
// The masses come out of the flash-attention pass itself (cpu::AttentionProbe); no N×N matrix exists. The
// standard error of a ratio is that of the mean over sequences.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "recurformer/core/error.hpp"
#include "recurformer/core/parallel.hpp"
#include "recurformer/cpu/attention_profile.hpp"
#include "recurformer/eval/byte_text.hpp"
#include "recurformer/math/distance_profile.hpp"
#include "recurformer/model/model.hpp"
#include "recurformer/plan/select.hpp"
#include "recurformer/plan/transfer.hpp"
#include "recurformer/spec/attention.hpp"

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

/// Collects an analysis batch by batch.
template <class M>
class Analyser {
 public:
  /// Sequences must be longer than 4·window to count.
  Analyser(M& model, AnalysisOptions options) : model_(model), options_(options) {
    check(options.window >= 1, "window is ", options.window, "; it must be at least 1");
    check(options.sink >= 0, "sink is ", options.sink, "; it must not be negative");
    const auto layers = static_cast<std::size_t>(model.shape().layers);
    const auto heads = static_cast<std::size_t>(model.shape().layer.heads());
    sums_.assign(layers, std::vector<HeadSums>(heads));
  }

  /// Measures the heads on whole sequences of tokens.
  void add(std::span<const Token> tokens, std::span<const SequenceRows> sequences) {
    const std::int64_t rows = static_cast<std::int64_t>(tokens.size()), heads = model_.shape().layer.heads();
    const auto layers = sums_.size();
    masses_.resize(layers * 4);
    std::vector<cpu::AttentionProbe> probes;
    for (std::size_t l = 0; l < layers; ++l) {
      for (std::size_t i = 0; i < 4; ++i) masses_[l * 4 + i].reserve(static_cast<std::size_t>(rows * heads));
      probes.push_back({.stride = heads,
                        .window = options_.window,
                        .sink = options_.sink,
                        .recent_mass = masses_[l * 4].data(),
                        .sink_mass = masses_[l * 4 + 1].data(),
                        .recent_sink_mass = masses_[l * 4 + 2].data(),
                        .log_sum_exp = masses_[l * 4 + 3].data()});
    }
    model_.forward(tokens, sequences, tape_, probes);
    for (const SequenceRows& sequence : sequences) {
      if (sequence.rows > 4 * options_.window)
        for (std::size_t l = 0; l < layers; ++l) add_sequence(l, sequence, probes[l]);
      longest_ = std::max(longest_, sequence.rows);
    }
    add_profiles(sequences, probes);
    sequences_ += static_cast<std::int64_t>(sequences.size());
    tokens_ += rows;
  }
  void add(const Batch& batch) { add(batch.tokens, batch.sequences); }

  /// The analysis of everything added so far.
  ModelAnalysis result() const {
    check(sequences_ > 0, "nothing was analysed");
    check(longest_ > 4 * options_.window, "the longest analysed sequence has ", longest_,
          " tokens; recency with a window of ", options_.window, " is measured from position ",
          4 * options_.window, " on; use longer sequences or a smaller window");
    ModelAnalysis out{.options = options_,
                      .sequences = sequences_,
                      .tokens = tokens_,
                      .queries_per_group = model_.shape().layer.queries_per_group,
                      .heads = {}};
    for (const auto& layer : sums_) {
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

  bool is_attention(std::size_t layer, std::size_t head) const {
    const int group = static_cast<int>(head) / model_.shape().layer.queries_per_group;
    return attention_kinds_[static_cast<std::size_t>(
        model_.plan().kind_of_group[layer][static_cast<std::size_t>(group)])];
  }

  /// Profiles of every attention head, the sequences of a head one after the other.
  void add_profiles(std::span<const SequenceRows> sequences, const std::vector<cpu::AttentionProbe>& probes) {
    const LayerShape& shape = model_.shape().layer;
    const HeadShape head_shape = shape.head_shape();
    for (std::size_t l = 0; l < sums_.size(); ++l)
      model_.weights().layers[l].for_each_run([&]<class K>(std::size_t index, const RunWeights<K>& run) {
        if constexpr (reuses_attention_weights<typename K::Mixer>) {
          const std::int64_t width = run.width(head_shape),
                             stride = width * static_cast<std::int64_t>(run.groups.size());
          const std::int64_t queries = head_shape.queries_per_group;
          parallel_for(static_cast<std::int64_t>(run.groups.size()) * queries, [&](std::int64_t item) {
            const std::int64_t g = item / queries, query = item % queries;
            const std::int64_t head = run.groups[static_cast<std::size_t>(g)] * queries + query;
            const float* group = tape_.layers[l].heads.projected[index].data() + g * width;  // q | k | v
            std::vector<double> mass;
            for (const SequenceRows& sequence : sequences) {
              mass.resize(static_cast<std::size_t>(sequence.rows));
              const float* rows = group + sequence.first_row * stride;
              cpu::attention_profile(
                  {.rows = sequence.rows,
                   .d_head = shape.d_head,
                   .q = rows + query * shape.d_head,
                   .q_stride = stride,
                   .k = rows + queries * shape.d_head,
                   .k_stride = stride,
                   .log_sum_exp = probes[l].log_sum_exp + sequence.first_row * shape.heads() + head,
                   .log_sum_exp_stride = shape.heads()},
                  mass);
              sums_[l][static_cast<std::size_t>(head)].profile.add(mass);
            }
          });
        }
      });
  }

  void add_sequence(std::size_t layer, const SequenceRows& sequence, const cpu::AttentionProbe& probe) {
    const auto heads = sums_[layer].size();
    for (std::size_t h = 0; h < heads; ++h) {
      if (!is_attention(layer, h)) continue;
      HeadSums& sums = sums_[layer][h];
      double recent = 0, sink = 0, sink_free = 0;
      std::int64_t queries = 0, free_queries = 0;
      for (std::int64_t i = 4 * options_.window; i < sequence.rows; ++i) {
        const auto at = static_cast<std::size_t>(sequence.first_row + i) * heads + h;
        const double outside = 1.0 - static_cast<double>(probe.sink_mass[at]);
        recent += static_cast<double>(probe.recent_mass[at]);
        sink += static_cast<double>(probe.sink_mass[at]);
        ++queries;
        if (outside < 0.01) continue;
        sink_free += static_cast<double>(probe.recent_mass[at] - probe.recent_sink_mass[at]) / outside;
        ++free_queries;
      }
      sums.recency.add(recent / static_cast<double>(queries));
      sums.sink.add(sink / static_cast<double>(queries));
      if (free_queries > 0) sums.sink_free.add(sink_free / static_cast<double>(free_queries));
      sums.queries += queries;
      sums.skipped += queries - free_queries;
    }
  }

  M& model_;
  AnalysisOptions options_;
  std::vector<bool> attention_kinds_ = attention_kinds(typename M::Kinds{});
  std::vector<std::vector<HeadSums>> sums_;
  std::vector<FloatBuffer> masses_;
  ModelTape tape_;
  std::int64_t sequences_ = 0, tokens_ = 0, longest_ = 0;

  template <class... K>
  static std::vector<bool> attention_kinds(Kinds<K...>) {
    return {reuses_attention_weights<typename K::Mixer>...};
  }
};

}  // namespace rf

#endif  // RECURFORMER_PLAN_ANALYSIS_HPP
