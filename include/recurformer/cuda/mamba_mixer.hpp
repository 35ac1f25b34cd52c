#ifndef RECURFORMER_CUDA_MAMBA_MIXER_HPP
#define RECURFORMER_CUDA_MAMBA_MIXER_HPP

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "recurformer/cuda/mamba_parameters.hpp"
#include "recurformer/cuda/mamba_work.hpp"
#include "recurformer/cuda/mixer_kernel.hpp"

namespace rf::cuda {

/// Mamba's heads: one matrix of x and z, states in float.
template <ScanShape Shape, MambaPolicy Policy>
struct MixerKernel<Mamba<Shape, Policy>> {
  using M = Mamba<Shape, Policy>;
  template <int D>
  using Head = mamba::DimensionsOf<M, D>;

  static constexpr int targets = 1;
  static std::int64_t target_width(const M&, const HeadShape& shape, int groups, int) {
    return std::int64_t{2} * groups * shape.group_width();
  }
  static void add_projection(const M& mixer, const HeadShape& shape, int groups, int first_target,
                             int first_row, ProjectionLayout& layout) {
    layout.add_span(first_target, first_row, 0, static_cast<int>(target_width(mixer, shape, groups, 0)));
  }

  template <int D>
  static std::size_t prepared_size(const HeadShape& shape, int groups) {
    return mamba::prepared_bytes<Head<D>>(groups * shape.queries_per_group) / sizeof(float);
  }
  template <int D, class Device>
  static void prepare(Device& device, const HeadShape& shape, int groups, std::span<const float* const> local,
                      float* prepared) {
    mamba::prepare<Head<D>>(device, mamba::local_parameters<Head<D>>(local), groups * shape.queries_per_group,
                            prepared);
  }

  template <int D>
  static constexpr int prefill_threads = mamba::PrefillTile<Head<D>, bf16, 128>::threads;

  template <int D, class T, int Threads>
  struct Prefill {
    using Work = mamba::PrefillWork<Head<D>, T, Threads>;
    static constexpr bool fills_gaps = true;
    struct Plan {
      int shared_bytes = Work::shared_bytes;
      mamba::Plan cut = {};
      float* chunk_states = nullptr;
      float* chunk_delta_sums = nullptr;
      int arrived = 0, carried = 0;  // the first of the counters
    };

    template <class Device>
    static Plan plan(WorkPlanner<Device>& planner, const M&, const HeadShape& shape, int groups) {
      constexpr double token = 1.1e-4 * D * Head<D>::padded_states;  // microseconds of one block
      const int heads = groups * shape.queries_per_group;
      const std::span<const SequenceRows> sequences = planner.batch.sequences;
      Plan out;
      out.cut =
          mamba::plan_chunks(sequences, heads, planner.blocks, planner.list.total() / planner.blocks / token);
      mamba::check_chunks<Head<D>>(out.cut, heads);
      if (out.cut.several) {
        const auto slots = static_cast<std::size_t>(out.cut.chunks) * static_cast<std::size_t>(heads);
        out.chunk_states = planner.memory.template take<float>(slots * Head<D>::states * D);
        out.chunk_delta_sums = planner.memory.template take<float>(slots * D);
        out.arrived = planner.list.take_counters(std::int64_t{heads} * planner.batch.count());
        out.carried = planner.list.take_counters(std::int64_t{heads} * planner.batch.count());
      }
      int first_chunk = 0;  // of the sequence
      for (int s = 0; s < planner.batch.count(); ++s) {
        const std::int64_t rows = sequences[static_cast<std::size_t>(s)].rows, chunk = out.cut.chunk_rows;
        const auto chunks = static_cast<int>((rows + chunk - 1) / chunk);
        const auto add = [&](WorkStage stage, int phase, int at) {
          const double tokens = static_cast<double>(std::min(chunk, rows - at * chunk));
          for (int head = 0; head < heads; ++head)
            planner.list.add(stage, token * tokens,
                             {.phase = static_cast<std::int16_t>(phase),
                              .sequence = s,
                              .unit = head,
                              .part = first_chunk + at});
        };
        if (chunks == 1) add(WorkStage::free, 0, 0);
        for (int c = 0; c + 1 < chunks; ++c) add(WorkStage::others_wait, 0, c);
        for (int c = 1; c < chunks; ++c) add(WorkStage::waits, 1, c);
        first_chunk += chunks;
      }
      return out;
    }

    template <class Device>
    static typename Work::Parameters bind(WorkBinder<Device>& binder, const M&, const DeviceRun<T>& run,
                                          const Plan& plan) {
      return {.prefill = {.arguments = arguments<D>(binder, run),
                          .chunk_rows = plan.cut.chunk_rows,
                          .chunk_states = plan.chunk_states,
                          .chunk_delta_sums = plan.chunk_delta_sums},
              .arrived = binder.counters + plan.arrived,
              .carried = binder.counters + plan.carried};
    }
  };

  template <int D, class T, int Threads>
  struct Decode {
    using Work = mamba::DecodeWork<Head<D>, T, Threads>;
    static constexpr bool fills_gaps = false;
    struct Plan {
      int shared_bytes = Work::shared_bytes;
    };

    template <class Device>
    static Plan plan(WorkPlanner<Device>& planner, const M&, const HeadShape& shape, int groups) {
      constexpr double microseconds = 4;  // five short phases
      for (int s = 0; s < planner.batch.count(); ++s)
        for (int head = 0; head < groups * shape.queries_per_group; ++head)
          planner.list.add(WorkStage::free, microseconds, {.sequence = s, .unit = head});
      return {};
    }

    template <class Device>
    static typename Work::Parameters bind(WorkBinder<Device>& binder, const M&, const DeviceRun<T>& run,
                                          const Plan&) {
      return arguments<D>(binder, run);
    }
  };

 private:
  template <int D, class T, class Device>
  static mamba::Arguments<T> arguments(WorkBinder<Device>& binder, const DeviceRun<T>& run) {
    std::vector<mamba::SequenceState> states;
    for (const int slot : binder.batch.slots)
      states.push_back(
          {run.fields[0].template block<float>(slot), run.fields[1].template block<float>(slot)});
    const mamba::Arguments<T> out{.sequences = binder.batch.device_sequences,
                                  .sequence_count = binder.batch.count(),
                                  .groups = run.groups,
                                  .heads_per_group = run.shape.queries_per_group,
                                  .projected = {run.targets[0].data, run.targets[0].stride},
                                  .out = run.out,
                                  .group_index = run.group_index,
                                  .prepared = run.prepared,
                                  .states = binder.uploads.add(states)};
    mamba::check_arguments<Head<D>>(out);
    return out;
  }
};

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_MAMBA_MIXER_HPP
