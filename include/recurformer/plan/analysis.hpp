#ifndef RECURFORMER_PLAN_ANALYSIS_HPP
#define RECURFORMER_PLAN_ANALYSIS_HPP

// Where a model's attention heads look (plan/model_analysis.hpp), measured on the CPU. The masses come out of
// the flash-attention pass itself (cpu::AttentionProbe), the profile out of a second pass over q and k with
// the log-sum-exp that the first has left; no N×N matrix exists.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "recurformer/core/parallel.hpp"
#include "recurformer/cpu/attention_profile.hpp"
#include "recurformer/eval/token_text.hpp"
#include "recurformer/model/model.hpp"
#include "recurformer/plan/model_analysis.hpp"
#include "recurformer/spec/attention.hpp"

namespace rf {

/// Collects an analysis batch by batch.
template <class M>
class Analyser {
 public:
  /// Sequences must be longer than 4·window to count.
  Analyser(M& model, const AnalysisOptions& options)
      : model_(model), options_(options), sums_(model.shape(), options) {}

  /// Measures the heads on whole sequences of tokens.
  void add(std::span<const Token> tokens, std::span<const SequenceRows> sequences) {
    const std::int64_t heads = model_.shape().layer.heads();
    const auto layers = static_cast<std::size_t>(model_.shape().layers);
    masses_.resize(layers * 4);
    std::vector<cpu::AttentionProbe> probes;
    for (std::size_t l = 0; l < layers; ++l) {
      for (std::size_t i = 0; i < 4; ++i)
        masses_[l * 4 + i].reserve(tokens.size() * static_cast<std::size_t>(heads));
      probes.push_back({.stride = heads,
                        .window = options_.window,
                        .sink = options_.sink,
                        .recent_mass = masses_[l * 4].data(),
                        .sink_mass = masses_[l * 4 + 1].data(),
                        .recent_sink_mass = masses_[l * 4 + 2].data(),
                        .log_sum_exp = masses_[l * 4 + 3].data()});
    }
    model_.forward(tokens, sequences, tape_, probes);
    for (std::size_t l = 0; l < layers; ++l)
      model_.weights().layers[l].for_each_run([&]<class K>(std::size_t index, const RunWeights<K>& run) {
        if constexpr (reuses_attention_weights<typename K::Mixer>)
          add_run(l, run, tape_.layers[l].heads.projected[index].data(), sequences, probes[l]);
      });
    sums_.count(sequences);
  }
  void add(const Batch& batch) { add(batch.tokens, batch.sequences); }

  /// The analysis of everything added so far.
  ModelAnalysis result() const { return sums_.result(); }

 private:
  /// Every head of a run, its sequences one after the other. Rows of `projected` hold q | k | v per group.
  template <class Run>
  void add_run(std::size_t layer, const Run& run, const float* projected,
               std::span<const SequenceRows> sequences, const cpu::AttentionProbe& probe) {
    const HeadShape shape = model_.shape().layer.head_shape();
    const std::int64_t width = run.width(shape),
                       stride = width * static_cast<std::int64_t>(run.groups.size());
    const std::int64_t queries = shape.queries_per_group;
    parallel_for(static_cast<std::int64_t>(run.groups.size()) * queries, [&](std::int64_t item) {
      const std::int64_t g = item / queries, query = item % queries;
      const auto head = static_cast<std::size_t>(run.groups[static_cast<std::size_t>(g)] * queries + query);
      std::vector<double> mass;
      for (const SequenceRows& sequence : sequences) {
        const std::int64_t at = sequence.first_row * probe.stride + static_cast<std::int64_t>(head);
        sums_.add_masses(
            layer, head, sequence.rows,
            {probe.recent_mass + at, probe.sink_mass + at, probe.recent_sink_mass + at, probe.stride});
        mass.resize(static_cast<std::size_t>(sequence.rows));
        const float* group = projected + sequence.first_row * stride + g * width;
        cpu::attention_profile({.rows = sequence.rows,
                                .d_head = shape.d_head,
                                .q = group + query * shape.d_head,
                                .q_stride = stride,
                                .k = group + queries * shape.d_head,
                                .k_stride = stride,
                                .log_sum_exp = probe.log_sum_exp + at,
                                .log_sum_exp_stride = probe.stride,
                                .mask = run.mixer.mask()},
                               mass);
        sums_.add_profile(layer, head, mass);
      }
    });
  }

  M& model_;
  AnalysisOptions options_;
  AnalysisSums sums_;
  std::vector<FloatBuffer> masses_;
  ModelTape tape_;
};

}  // namespace rf

#endif  // RECURFORMER_PLAN_ANALYSIS_HPP
