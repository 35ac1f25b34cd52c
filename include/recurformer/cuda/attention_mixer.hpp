#ifndef RECURFORMER_CUDA_ATTENTION_MIXER_HPP
#define RECURFORMER_CUDA_ATTENTION_MIXER_HPP

// Attention and StreamingAttention as mixers of a layer on a device: queries in a matrix; keys and values in
// the pages of the cache, or in matrices that attention reads together with the rings and that are appended
// afterwards.

#include <span>
#include <vector>

#include "recurformer/cuda/attention_decode.hpp"
#include "recurformer/cuda/attention_prefill.hpp"
#include "recurformer/cuda/mixer_kernel.hpp"
#include "recurformer/cuda/ring_append.hpp"
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/streaming_attention.hpp"

namespace rf::cuda {

namespace detail {

/// The attention of a run: decode for a few new tokens per sequence, prefill otherwise.
template <int D, class Device, class Parameters>
void run_attention(Device& device, CallMemory<Device>& memory, const DeviceBatch& batch,
                   const Parameters& parameters) {
  if (batch.longest <= most_decode_rows) {
    using Tuning = DecodeTuning<D>;
    const DecodePlan plan =
        plan_decode<Tuning>(batch.sequences, parameters.groups, parameters.heads, parameters.mask,
                            device.multiprocessors() * Tuning::blocks_per_multiprocessor);
    auto* counters = memory.template take<unsigned>(static_cast<std::size_t>(plan.counters));
    device.zero(counters, static_cast<std::size_t>(plan.counters) * sizeof(unsigned));
    const DecodeItem* on_device = memory.upload(plan.items);
    attention_decode<D>(
        device, parameters, std::span(on_device, plan.items.size()),
        {.partials = memory.template take<float>(decode_partial_floats<D>(plan)), .counters = counters});
    return;
  }
  using Tuning = PrefillTuningOf<Parameters, D>;
  const std::vector<AttentionItem> items =
      plan_prefill<Tuning>(batch.sequences, parameters.groups, parameters.heads, parameters.mask);
  const AttentionItem* on_device = memory.upload(items);
  attention_prefill<D, Tuning>(device, parameters, std::span(on_device, items.size()));
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

  template <int D, class T, class Device>
  static void forward(Device& device, CallMemory<Device>& memory, const M&, const DeviceBatch& batch,
                      const DeviceRun<T>& run) {
    const AttentionParameters<PagedKeyValues<T>> parameters{
        .queries = {run.targets[0].data, run.targets[0].stride},
        .key_values = {.keys = reinterpret_cast<const T*>(run.fields[0].data),
                       .values = reinterpret_cast<const T*>(run.fields[1].data),
                       .pages = batch.pages,
                       .pages_per_sequence = batch.pages_per_sequence,
                       .groups = run.groups},
        .out = run.out,
        .group_index = run.group_index,
        .sequences = batch.device_sequences,
        .mask = {},
        .groups = run.groups,
        .heads = run.shape.queries_per_group,
        .probe = {}};
    detail::run_attention<D>(device, memory, batch, parameters);
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

  template <int D, class T, class Device>
  static void forward(Device& device, CallMemory<Device>& memory, const M& mixer, const DeviceBatch& batch,
                      const DeviceRun<T>& run) {
    std::vector<T*> rings[2];
    for (int field = 0; field < 2; ++field)
      for (const int slot : batch.slots)
        rings[field].push_back(run.fields[static_cast<std::size_t>(field)].template block<T>(slot));
    T** const past_keys = memory.upload(rings[0]);
    T** const past_values = memory.upload(rings[1]);
    const RowsView<const T> keys{run.targets[1].data, run.targets[1].stride};
    const RowsView<const T> values{run.targets[2].data, run.targets[2].stride};
    const int sink = static_cast<int>(mixer.sink), capacity = static_cast<int>(mixer.window);
    const AttentionParameters<RingKeyValues<T>> parameters{
        .queries = {run.targets[0].data, run.targets[0].stride},
        .key_values = {.past_keys = past_keys,
                       .past_values = past_values,
                       .keys = keys,
                       .values = values,
                       .sink = sink,
                       .capacity = capacity,
                       .groups = run.groups},
        .out = run.out,
        .group_index = run.group_index,
        .sequences = batch.device_sequences,
        .mask = {.sink = mixer.sink, .window = mixer.window},
        .groups = run.groups,
        .heads = run.shape.queries_per_group,
        .probe = {}};
    detail::run_attention<D>(device, memory, batch, parameters);
    device.template launch<RingAppendKernel<T>>({.blocks = {run.groups, batch.count()}},
                                                {.sequences = batch.device_sequences,
                                                 .past_keys = past_keys,
                                                 .past_values = past_values,
                                                 .keys = keys,
                                                 .values = values,
                                                 .sink = sink,
                                                 .capacity = capacity,
                                                 .d_head = D});
  }
};

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_ATTENTION_MIXER_HPP
