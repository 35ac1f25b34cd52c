#ifndef RECURFORMER_CUDA_MAMBA2_MIXER_HPP
#define RECURFORMER_CUDA_MAMBA2_MIXER_HPP

#include <algorithm>
#include <cstdint>
#include <span>

#include "recurformer/cuda/mamba2_work.hpp"
#include "recurformer/cuda/mixer_kernel.hpp"

namespace rf::cuda {

/// Mamba2's heads: one matrix, the columns of each group padded to 16 bytes; states in float.
template <SsdPolicy Policy>
struct MixerKernel<Mamba2<Policy>> {
  using M = Mamba2<Policy>;

  static constexpr int targets = 1;
  static std::int64_t target_width(const M&, const HeadShape& shape, int groups, int) {
    return groups * group_stride(shape);
  }
  static void add_projection(const M&, const HeadShape& shape, int groups, int first_target, int first_row,
                             ProjectionLayout& layout) {
    const int width = columns(shape);
    for (int group = 0; group < groups; ++group)
      layout.add_span(first_target, first_row + group * width, static_cast<int>(group * group_stride(shape)),
                      width);
  }

  /// Nothing: the kernels read the local parameters as they are declared.
  template <int D>
  static std::size_t prepared_size(const HeadShape&, int) {
    return 0;
  }
  template <int D, class Device>
  static void prepare(Device&, const HeadShape&, int, std::span<const float* const>, float*) {}

  template <int D>
  static constexpr int prefill_threads = SsdShape<D>::threads;

  template <int D, class T, int Threads>
  struct Prefill {
    using Work = Mamba2PrefillWork<T, D, SsdTraitsOf<M>>;
    static constexpr bool fills_gaps = true;
    struct Plan {
      int shared_bytes = 0;
      Mamba2Plan cut = {};
      float* states = nullptr;
      float* decays = nullptr;
      int arrived = 0, carried = 0;  // the first of the counters
    };

    template <class Device>
    static Plan plan(WorkPlanner<Device>& planner, const M&, const HeadShape& shape, int groups) {
      const double token = 1.6e-3 * D * shape.queries_per_group;  // microseconds of one block
      const std::span<const SequenceRows> sequences = planner.batch.sequences;
      const std::int64_t pairs = std::int64_t{groups} * planner.batch.count();
      const double beside =
          (planner.list.total() + token * static_cast<double>(planner.batch.rows * groups)) / planner.blocks;
      Plan out;
      out.cut = mamba2_plan<D>(planner.blocks, planner.device.most_shared_bytes() * Threads / 256,
                               planner.batch.count(), groups, planner.batch.longest,
                               static_cast<std::int64_t>(beside / token));
      out.shared_bytes = Work::shared_bytes(out.cut.stages);
      const bool several = out.cut.segments > 1;
      if (several) {
        const auto units = static_cast<std::size_t>(out.cut.segments * pairs);
        out.states = planner.memory.template take<float>(units * Work::Carry::size);
        out.decays = planner.memory.template take<float>(units);
        out.arrived = planner.list.take_counters(pairs);
        out.carried = planner.list.take_counters(pairs);
      }
      for (int s = 0; s < planner.batch.count(); ++s) {
        const SequenceRows& sequence = sequences[static_cast<std::size_t>(s)];
        const int segments = out.cut.segments_of(sequence);
        const auto add = [&](WorkStage stage, int phase, int at) {
          const double tokens =
              static_cast<double>(std::min(out.cut.segment_rows, sequence.rows - at * out.cut.segment_rows));
          for (int group = 0; group < groups; ++group)
            planner.list.add(
                stage, token * tokens,
                {.phase = static_cast<std::int16_t>(phase), .sequence = s, .unit = group, .part = at});
        };
        for (int at = 0; at + 1 < segments; ++at) add(WorkStage::others_wait, 0, at);
        for (int at = 0; at < segments; ++at) add(segments > 1 ? WorkStage::waits : WorkStage::free, 1, at);
      }
      return out;
    }

    template <class Device>
    static typename Work::Parameters bind(WorkBinder<Device>& binder, const M&, const DeviceRun<T>& run,
                                          const Plan& plan) {
      return {.ssd = {.call = arguments(binder, run),
                      .segments = {.plan = plan.cut, .states = plan.states, .decays = plan.decays}},
              .arrived = binder.counters + plan.arrived,
              .carried = binder.counters + plan.carried,
              .flag_at = Work::flag_at_of(plan.cut.stages)};
    }
  };

  template <int D, class T, int Threads>
  struct Decode {
    using Work = Mamba2DecodeWork<T, D, SsdTraitsOf<M>>;
    static constexpr bool fills_gaps = false;
    struct Plan {
      int shared_bytes = 0;
      int stage_tokens = 1;
    };

    template <class Device>
    static Plan plan(WorkPlanner<Device>& planner, const M&, const HeadShape& shape, int groups) {
      constexpr double start = 2, bytes = 8.0 * D * D, bytes_per_microsecond = 1.1e4;
      const int queries = shape.queries_per_group;
      const int tokens = Work::Steps::stage_tokens(queries, planner.batch.longest);
      for (int s = 0; s < planner.batch.count(); ++s)
        for (int group = 0; group < groups; ++group)
          planner.list.add(WorkStage::free, start + bytes / bytes_per_microsecond,
                           {.sequence = s, .unit = group});
      return {.shared_bytes = Work::Steps::shared_bytes(queries, tokens), .stage_tokens = tokens};
    }

    template <class Device>
    static typename Work::Parameters bind(WorkBinder<Device>& binder, const M&, const DeviceRun<T>& run,
                                          const Plan& plan) {
      return {arguments(binder, run), plan.stage_tokens};
    }
  };

 private:
  template <class T, class Device>
  static Mamba2Arguments<T> arguments(WorkBinder<Device>& binder, const DeviceRun<T>& run) {
    const auto& local = run.local;
    return {.projected = {run.targets[0].data, run.targets[0].stride},
            .group_stride = group_stride(run.shape),
            .out = run.out,
            .group_index = run.group_index,
            .sequences = binder.batch.device_sequences,
            .sequence_count = binder.batch.count(),
            .longest = binder.batch.longest,
            .groups = run.groups,
            .queries = run.shape.queries_per_group,
            .locals = {.dt_bias = local[0],
                       .a_log = local[1],
                       .c0 = local[2],
                       .c1 = local[3],
                       .skip = local[4],
                       .norm_gain = Policy.norm ? local[5] : nullptr},
            .rope = binder.batch.rope,
            .states = {.base = run.fields[0].template block<float>(0),
                       .slots = binder.batch.device_slots,
                       .slot_stride = run.fields[0].block_bytes / static_cast<std::int64_t>(sizeof(float))}};
  }
  static int columns(const HeadShape& shape) { return 2 * shape.group_width() + 2 * shape.d_head + 1; }
  static std::int64_t group_stride(const HeadShape& shape) { return (columns(shape) + 7) / 8 * 8; }
};

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_MAMBA2_MIXER_HPP
