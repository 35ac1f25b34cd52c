#ifndef RECURFORMER_PLAN_DEVICE_ANALYSIS_HPP
#define RECURFORMER_PLAN_DEVICE_ANALYSIS_HPP

// Where a model's attention heads look (plan/model_analysis.hpp), measured on a device while the model reads
// whole sequences: between a layer's projections and its heads, attention with the recency probe, by the
// kernel that suits the device, and then the pass over queries and keys that gives the profile
// (cuda/attention_profile.hpp). The heads themselves are computed afterwards by the kernels that always do,
// which know nothing of an analysis.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "recurformer/cuda/attention_items.hpp"
#include "recurformer/cuda/attention_prefill.hpp"
#include "recurformer/cuda/attention_profile.hpp"
#include "recurformer/cuda/sm90/attention_prefill.hpp"
#include "recurformer/eval/token_text.hpp"
#include "recurformer/model/device_model.hpp"
#include "recurformer/plan/model_analysis.hpp"
#include "recurformer/spec/attention.hpp"

namespace rf {

/// The twin of Analyser for a model on a device.
template <ModelSpec Spec, KernelDevice Device>
class DeviceAnalyser {
 public:
  using Model = DeviceModel<Spec, Device>;

  /// Sequences must be longer than 4·window to count.
  DeviceAnalyser(Model& model, const AnalysisOptions& options)
      : model_(model),
        options_(options),
        sums_(model.shape(), options),
        memory_(model.device()),
        uploads_(model.device()) {}

  /// Measures the heads on whole sequences of tokens, which lie one behind the other.
  void add(std::span<const Token> tokens, std::span<const SequenceRows> sequences) {
    std::vector<SequenceTokens> parts;
    std::int64_t row = 0;
    for (const SequenceRows& sequence : sequences) {
      check(sequence.first_row == row && sequence.position == 0, "sequence ", parts.size(),
            " of an analysis begins in row ", sequence.first_row, " at position ", sequence.position,
            "; whole sequences that follow each other are expected, this one from row ", row);
      row += sequence.rows;
      if (sequence.rows > 0) parts.push_back({static_cast<std::int64_t>(parts.size()), sequence.rows});
    }
    if (parts.empty()) return;
    auto cache = model_.make_cache({.sequences = static_cast<std::int64_t>(parts.size())});
    model_.observe(tokens, parts, cache,
                   [&](std::size_t index, const auto& layer, const cuda::DeviceBatch& batch, auto runs) {
                     add_layer(index, layer, batch, runs);
                   });
    sums_.count(sequences);
  }
  void add(const Batch& batch) { add(batch.tokens, batch.sequences); }

  /// The analysis of everything added so far.
  ModelAnalysis result() const { return sums_.result(); }

 private:
  using T = typename Model::T;

  /// What one run's kernels leave, and where on the device.
  struct RunMeasurement {
    std::vector<int> heads;  // the layer's index of each
    std::vector<cuda::ProfileItem> items;
    const float* sums = nullptr;  // (items, profile_lags)
  };

  template <class Layer>
  void add_layer(std::size_t index, const Layer& layer, const cuda::DeviceBatch& batch,
                 std::span<const cuda::DeviceRun<T>> runs) {
    memory_.reset();
    uploads_.reset();
    const std::int64_t heads = model_.shape().layer.heads();
    const auto count = static_cast<std::size_t>(batch.rows * heads);
    float* const masses = memory_.template take<float>(3 * count);
    const cuda::RecencyProbe probe{.stride = heads,
                                   .window = static_cast<int>(options_.window),
                                   .sink = static_cast<int>(options_.sink),
                                   .recent_mass = masses,
                                   .sink_mass = masses + count,
                                   .recent_sink_mass = masses + 2 * count,
                                   .log_sum_exp = memory_.template take<float>(count)};
    std::vector<RunMeasurement> measured;
    layer.for_each_run([&]<class Run>(std::size_t run_index, const Run& run) {
      if constexpr (reuses_attention_weights<typename Run::Mixer>) {
        if (run.groups == 0) return;
        cuda::WorkBinder<Device> binder{batch, uploads_, nullptr};
        measured.push_back(measure(Run::Kernel::attention(binder, run.mixer, runs[run_index]), batch, probe));
        for (const int group : run.members)
          for (int query = 0; query < model_.shape().layer.queries_per_group; ++query)
            measured.back().heads.push_back(group * model_.shape().layer.queries_per_group + query);
      }
    });
    if (measured.empty()) return;
    host_masses_.resize(3 * count);
    model_.device().copy_to_host(host_masses_.data(), masses, host_masses_.size() * sizeof(float));
    for (const RunMeasurement& run : measured) add_run(index, run, batch.sequences);
  }

  /// Launches the kernels for one run.
  template <class KeyValues>
  RunMeasurement measure(const cuda::AttentionParameters<KeyValues>& attention,
                         const cuda::DeviceBatch& batch, const cuda::RecencyProbe& probe) {
    const cuda::AttentionParameters<KeyValues, cuda::RecencyProbe> probed{
        .queries = attention.queries,
        .key_values = attention.key_values,
        .out = attention.out,
        .group_index = attention.group_index,
        .sequences = attention.sequences,
        .mask = attention.mask,
        .groups = attention.groups,
        .heads = attention.heads,
        .probe = probe};
    RunMeasurement out;
    out.items = cuda::plan_profile(batch.sequences, attention.groups * attention.heads);
    const auto* const items = uploads_.add(out.items);
    float* const sums = memory_.template take<float>(out.items.size() * cuda::profile_lags);
    detail::with_device_width(typename Model::Widths{}, model_.shape().layer.d_head, [&](auto d_head) {
      constexpr int D = d_head;
      launch_attention<D>(probed, batch.sequences);
      cuda::attention_profile<D>(model_.device(), probed, {items, out.items.size()}, sums);
    });
    out.sums = sums;
    return out;
  }
  /// Attention with the probe, by Hopper's own kernel where there is one. Sends what has been added to the
  /// uploads.
  template <int D, class Attention>
  void launch_attention(const Attention& probed, std::span<const SequenceRows> sequences) {
    Device& device = model_.device();
    const auto send_items = [&]<class Tuning>(Tuning) {
      const auto items = cuda::plan_prefill<Tuning>(sequences, probed.groups, probed.heads, probed.mask);
      const std::span<const cuda::AttentionItem> there(uploads_.add(items), items.size());
      uploads_.send();
      return there;
    };
    if constexpr (cuda::has_attention_prefill_sm90<Attention, D>)
      if (device.compute_capability() == 90) {
        using Tuning = cuda::PrefillTuningSm90<D>;
        const auto mapped = cuda::sm90::mapped<Tuning, D>(probed);
        return cuda::attention_prefill_sm90<D>(device, mapped, send_items(Tuning{}));
      }
    using Tuning = cuda::PrefillTuningOf<Attention, D>;
    cuda::attention_prefill<D, Tuning>(device, probed, send_items(Tuning{}));
  }

  /// Adds every head of a run; the layer's masses are on the host.
  void add_run(std::size_t layer, const RunMeasurement& run, std::span<const SequenceRows> sequences) {
    std::vector<float> lags(run.items.size() * cuda::profile_lags);
    model_.device().copy_to_host(lags.data(), run.sums, lags.size() * sizeof(float));
    model_.device().synchronize();
    std::vector<std::vector<double>> mass;  // per sequence and head
    for (const SequenceRows& sequence : sequences)
      mass.insert(mass.end(), run.heads.size(), std::vector<double>(static_cast<std::size_t>(sequence.rows)));
    for (std::size_t i = 0; i < run.items.size(); ++i) {
      const auto sequence = static_cast<std::size_t>(run.items[i].sequence);
      auto& of_head = mass[sequence * run.heads.size() + static_cast<std::size_t>(run.items[i].head)];
      cuda::each_profile_lag(
          run.items[i], std::span(lags).subspan(i * cuda::profile_lags, cuda::profile_lags),
          sequences[sequence].rows,
          [&](std::int64_t lag, double x) { of_head[static_cast<std::size_t>(lag)] += x; });
    }
    const std::int64_t stride = model_.shape().layer.heads();
    const float* const recent = host_masses_.data();
    const auto count = static_cast<std::int64_t>(host_masses_.size() / 3);
    for (std::size_t s = 0; s < sequences.size(); ++s)
      for (std::size_t h = 0; h < run.heads.size(); ++h) {
        const auto head = static_cast<std::size_t>(run.heads[h]);
        const float* const at = recent + sequences[s].first_row * stride + run.heads[h];
        sums_.add_masses(layer, head, sequences[s].rows, {at, at + count, at + 2 * count, stride});
        sums_.add_profile(layer, head, mass[s * run.heads.size() + h]);
      }
  }

  Model& model_;
  AnalysisOptions options_;
  AnalysisSums sums_;
  cuda::CallMemory<Device> memory_;
  cuda::UploadMemory<Device> uploads_;
  std::vector<float> host_masses_;
};

}  // namespace rf

#endif  // RECURFORMER_PLAN_DEVICE_ANALYSIS_HPP
