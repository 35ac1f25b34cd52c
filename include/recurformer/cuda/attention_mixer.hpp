#ifndef RECURFORMER_CUDA_ATTENTION_MIXER_HPP
#define RECURFORMER_CUDA_ATTENTION_MIXER_HPP

// Attention and StreamingAttention as mixers of a layer on a device: queries in a matrix; keys and values in
// the pages of the cache, or in matrices that attention reads together with the rings and that are appended
// afterwards.

#include <span>
#include <vector>

#include "recurformer/cuda/attention_work.hpp"
#include "recurformer/cuda/mixer_kernel.hpp"
#include "recurformer/cuda/sm90/attention_work.hpp"
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/streaming_attention.hpp"

namespace rf::cuda {

namespace detail {

/// Adds the items of a run's prefill to the list, tiles of `Tuning` of which a block computes so many
/// operations per microsecond; returns how many a group of each sequence has.
template <class Tuning, int D, class Device>
std::vector<int> add_prefill_items(WorkPlanner<Device>& planner, const AttentionMask& mask, int heads,
                                   int groups, double flops_per_microsecond) {
  const std::span<const SequenceRows> sequences = planner.batch.sequences;
  std::vector<int> items(sequences.size(), 0);
  for (const AttentionItem& item : plan_prefill<Tuning>(sequences, groups, heads, mask)) {
    const auto sequence = static_cast<std::size_t>(item.sequence);
    const QueryTile queries(sequences[sequence], heads, item.first_query, Tuning::queries);
    const auto keys = static_cast<double>(key_count(mask, queries.first_position(), queries.last_position()));
    planner.list.add(WorkStage::free, 4.0 * Tuning::queries * keys * D / flops_per_microsecond,
                     {.sequence = item.sequence, .unit = item.group, .part = item.first_query});
    if (item.group == 0) ++items[sequence];
  }
  return items;
}

/// What attention over pages and over rings plan alike. `Source` says what the parameters of a launch are
/// made of: KeyValues, its bind(binder, mixer, run, …), and what follows.
template <class M, class Source, int D, int Threads,
          class PlannedWork = AttentionPrefillWork<typename Source::KeyValues, D, Threads>>
struct AttentionPrefillPlanner {
  using Work = PlannedWork;
  using T = typename Source::KeyValues::Element;
  static constexpr bool fills_gaps = false;
  struct Plan {
    int shared_bytes = Work::shared_bytes;
    typename Source::AfterPlan after = {};
  };

  template <class Device>
  static Plan plan(WorkPlanner<Device>& planner, const M& mixer, const HeadShape& shape, int groups) {
    constexpr double flops_per_microsecond = 1.2e4 * Threads;  // two fifths of an H100's
    const std::vector<int> items = add_prefill_items<typename Work::Tuning, D>(
        planner, mixer.mask(), shape.queries_per_group, groups, flops_per_microsecond);
    return {.after = Source::plan_after(planner, groups, items)};
  }

  template <class Device>
  static typename Work::Parameters bind(WorkBinder<Device>& binder, const M& mixer, const DeviceRun<T>& run,
                                        const Plan& plan) {
    typename Work::Parameters out;
    Source::bind(binder, mixer, run, plan.after, out.attention, out.after);
    return out;
  }
};

/// The same on Hopper, where keys are in pages.
template <class M, class T, int D>
struct AttentionPrefillPlannerSm90 {
  using Work = sm90::AttentionPrefillWork<T, D>;
  static constexpr bool fills_gaps = false;
  struct Plan {
    int shared_bytes = Work::shared_bytes;
  };
  using ItemsAlone = std::span<const AttentionItem>;  // on the device

  template <class Device>
  static Plan plan(WorkPlanner<Device>& planner, const M& mixer, const HeadShape& shape, int groups) {
    constexpr double flops_per_microsecond = 4.5e6;  // three fifths of an H100's
    add_prefill_items<typename Work::Tuning, D>(planner, mixer.mask(), shape.queries_per_group, groups,
                                                flops_per_microsecond);
    return {};
  }
  template <class Device>
  static typename Work::Parameters bind(WorkBinder<Device>& binder, const M& mixer, const DeviceRun<T>& run,
                                        const Plan&) {
    return sm90::mapped<typename Work::Tuning, D>(MixerKernel<M>::attention(binder, mixer, run));
  }

  /// Blocks that have nothing else to do compute several items each, the keys of the next one on their way
  /// while the last is stored.
  template <class Device>
  static ItemsAlone plan_alone(WorkPlanner<Device>& planner, const M& mixer, const HeadShape& shape,
                               int groups) {
    const auto items = plan_prefill<typename Work::Tuning>(planner.batch.sequences, groups,
                                                           shape.queries_per_group, mixer.mask());
    return {planner.uploads.add(items), items.size()};
  }
  template <class Device>
  static void launch_alone(Device& device, const typename Work::Parameters& parameters,
                           const ItemsAlone& items) {
    attention_prefill_sm90<D>(device, parameters, items);
  }
};

template <class M, class Source, int D>
struct AttentionDecodePlanner {
  using Work = AttentionDecodeWork<typename Source::KeyValues, D>;
  using T = typename Source::KeyValues::Element;
  static constexpr bool fills_gaps = false;
  struct Plan {
    int shared_bytes = Work::shared_bytes;
    typename Source::AfterPlan after = {};
    const DecodeItem* items = nullptr;
    float* partials = nullptr;
    int counters = 0;  // the first of them
  };

  template <class Device>
  static Plan plan(WorkPlanner<Device>& planner, const M& mixer, const HeadShape& shape, int groups) {
    using Tuning = typename Work::Tuning;
    constexpr double start = 2, bytes_per_microsecond = 1.1e4;  // the bandwidth of half a multiprocessor
    const DecodePlan decode = plan_decode<Tuning>(planner.batch.sequences, groups, shape.queries_per_group,
                                                  mixer.mask(), planner.blocks);
    std::vector<int> items(planner.batch.sequences.size(), 0);
    for (std::size_t i = 0; i < decode.items.size(); ++i) {
      const DecodeItem& item = decode.items[i];
      const double bytes = 4.0 * D * Tuning::keys * (item.end_tile - item.first_tile);
      planner.list.add(
          WorkStage::free, start + bytes / bytes_per_microsecond,
          {.sequence = item.queries.sequence, .unit = item.queries.group, .part = static_cast<int>(i)});
      if (item.queries.group == 0) ++items[static_cast<std::size_t>(item.queries.sequence)];
    }
    return {.after = Source::plan_after(planner, groups, items),
            .items = planner.uploads.add(decode.items),
            .partials = planner.memory.template take<float>(decode_partial_floats<D, Tuning>(decode)),
            .counters = planner.list.take_counters(decode.counters)};
  }

  template <class Device>
  static typename Work::Parameters bind(WorkBinder<Device>& binder, const M& mixer, const DeviceRun<T>& run,
                                        const Plan& plan) {
    typename Work::Parameters out;
    Source::bind(binder, mixer, run, plan.after, out.attention, out.after);
    out.items = plan.items;
    out.workspace = {.partials = plan.partials, .counters = binder.counters + plan.counters};
    return out;
  }
};

/// A run's attention over keys and values from anywhere.
template <class KeyValues, class Device, class T>
AttentionParameters<KeyValues> attention_parameters(const WorkBinder<Device>& binder, const DeviceRun<T>& run,
                                                    const KeyValues& key_values, const AttentionMask& mask) {
  return {.queries = {run.targets[0].data, run.targets[0].stride},
          .key_values = key_values,
          .out = run.out,
          .group_index = run.group_index,
          .sequences = binder.batch.device_sequences,
          .mask = mask,
          .groups = run.groups,
          .heads = run.shape.queries_per_group,
          .probe = {}};
}

/// Keys and values in the cache's pages.
template <class M, class T>
struct PagedSource {
  using KeyValues = PagedKeyValues<T>;
  struct AfterPlan {};

  template <class Device>
  static AfterPlan plan_after(WorkPlanner<Device>&, int, const std::vector<int>&) {
    return {};
  }
  template <class Device>
  static void bind(WorkBinder<Device>& binder, const M& mixer, const DeviceRun<T>& run, const AfterPlan&,
                   AttentionParameters<KeyValues>& attention, AfterAttention<KeyValues>&) {
    const KeyValues key_values{.keys = reinterpret_cast<const T*>(run.fields[0].data),
                               .values = reinterpret_cast<const T*>(run.fields[1].data),
                               .pages = binder.batch.pages,
                               .pages_per_sequence = binder.batch.pages_per_sequence,
                               .groups = run.groups};
    attention = attention_parameters(binder, run, key_values, mixer.mask());
  }
};

/// New keys and values in matrices, the past in rings, to which the new ones are appended afterwards.
template <class M, class T>
struct RingSource {
  using KeyValues = RingKeyValues<T>;
  struct AfterPlan {
    int arrived = 0;  // the first of the counters
    const int* items_per_group = nullptr;
  };

  template <class Device>
  static AfterPlan plan_after(WorkPlanner<Device>& planner, int groups, const std::vector<int>& items) {
    return {.arrived = planner.list.take_counters(std::int64_t{groups} * planner.batch.count()),
            .items_per_group = planner.uploads.add(items)};
  }
  template <class Device>
  static void bind(WorkBinder<Device>& binder, const M& mixer, const DeviceRun<T>& run, const AfterPlan& plan,
                   AttentionParameters<KeyValues>& attention, AfterAttention<KeyValues>& after) {
    std::vector<T*> rings[2];
    for (int field = 0; field < 2; ++field)
      for (const int slot : binder.batch.slots)
        rings[field].push_back(run.fields[static_cast<std::size_t>(field)].template block<T>(slot));
    after = {.append = {.sequences = binder.batch.device_sequences,
                        .past_keys = binder.uploads.add(rings[0]),
                        .past_values = binder.uploads.add(rings[1]),
                        .keys = {run.targets[1].data, run.targets[1].stride},
                        .values = {run.targets[2].data, run.targets[2].stride},
                        .sink = static_cast<int>(mixer.sink),
                        .capacity = static_cast<int>(run.fields[0].capacity),
                        .d_head = run.shape.d_head},
             .arrived = binder.counters + plan.arrived,
             .items_per_group = plan.items_per_group};
    const KeyValues key_values{.past_keys = after.append.past_keys,
                               .past_values = after.append.past_values,
                               .keys = after.append.keys,
                               .values = after.append.values,
                               .sink = after.append.sink,
                               .capacity = after.append.capacity,
                               .groups = run.groups};
    attention = attention_parameters(binder, run, key_values, mixer.mask());
  }
};

/// A run's attention by itself, without what follows it.
template <class Source, class M, class Device, class T>
AttentionParameters<typename Source::KeyValues> attention_alone(WorkBinder<Device>& binder, const M& mixer,
                                                                const DeviceRun<T>& run) {
  AttentionParameters<typename Source::KeyValues> out;
  AfterAttention<typename Source::KeyValues> nothing;
  Source::bind(binder, mixer, run, {}, out, nothing);
  return out;
}

/// What does not depend on where keys and values are.
struct NoPreparation {
  template <int D>
  static std::size_t prepared_size(const HeadShape&, int) {
    return 0;
  }
  template <int D, class Device>
  static void prepare(Device&, const HeadShape&, int, std::span<const float* const>, float*) {}
};

}  // namespace detail

template <AttentionPolicy Policy>
struct MixerKernel<Attention<Policy>> : detail::NoPreparation {
  using M = Attention<Policy>;

  /// Queries in a matrix, keys and values in pages.
  static constexpr int targets = 3;
  static std::int64_t target_width(const M&, const HeadShape& shape, int groups, int target) {
    return target == 0 ? std::int64_t{groups} * shape.group_width() : 0;
  }
  static std::size_t target_field(int target) { return static_cast<std::size_t>(target - 1); }
  static void add_projection(const M&, const HeadShape& shape, int groups, int first_target, int first_row,
                             ProjectionLayout& layout) {
    layout.add_attention({.q = first_target, .k = first_target + 1, .v = first_target + 2, .paged = true},
                         first_row, groups, shape.queries_per_group, shape.d_head);
  }

  template <int D>
  static constexpr int prefill_threads = 128;
  template <int D, class T, int Threads>
  using Prefill = detail::AttentionPrefillPlanner<M, detail::PagedSource<M, T>, D, Threads>;
  template <int D, class T>
  using PrefillSm90 = detail::AttentionPrefillPlannerSm90<M, T, D>;
  template <int D, class T, int>
  using Decode = detail::AttentionDecodePlanner<M, detail::PagedSource<M, T>, D>;

  template <class Device, class T>
  static AttentionParameters<PagedKeyValues<T>> attention(WorkBinder<Device>& binder, const M& mixer,
                                                          const DeviceRun<T>& run) {
    return detail::attention_alone<detail::PagedSource<M, T>>(binder, mixer, run);
  }
};

template <StreamingWindow Default, AttentionPolicy Policy>
struct MixerKernel<StreamingAttention<Default, Policy>> : detail::NoPreparation {
  using M = StreamingAttention<Default, Policy>;

  /// Queries, keys and values in matrices.
  static constexpr int targets = 3;
  static std::int64_t target_width(const M&, const HeadShape& shape, int groups, int target) {
    return std::int64_t{groups} * (target == 0 ? shape.group_width() : shape.d_head);
  }
  static std::size_t target_field(int target) { return static_cast<std::size_t>(target - 1); }
  static void add_projection(const M&, const HeadShape& shape, int groups, int first_target, int first_row,
                             ProjectionLayout& layout) {
    layout.add_attention({.q = first_target, .k = first_target + 1, .v = first_target + 2, .paged = false},
                         first_row, groups, shape.queries_per_group, shape.d_head);
  }

  template <int D>
  static constexpr int prefill_threads = 128;
  template <int D, class T, int Threads>
  using Prefill = detail::AttentionPrefillPlanner<M, detail::RingSource<M, T>, D, Threads>;
  /// Hopper's consumers have a few registers less: narrower tiles.
  template <int D, class T>
  using PrefillSm90 = detail::AttentionPrefillPlanner<
      M, detail::RingSource<M, T>, D, sm90::consumer_threads,
      AttentionPrefillWork<RingKeyValues<T>, D, sm90::consumer_threads, D <= 64 ? 32 : 16>>;
  template <int D, class T, int>
  using Decode = detail::AttentionDecodePlanner<M, detail::RingSource<M, T>, D>;

  template <class Device, class T>
  static AttentionParameters<RingKeyValues<T>> attention(WorkBinder<Device>& binder, const M& mixer,
                                                         const DeviceRun<T>& run) {
    return detail::attention_alone<detail::RingSource<M, T>>(binder, mixer, run);
  }
};

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_ATTENTION_MIXER_HPP
