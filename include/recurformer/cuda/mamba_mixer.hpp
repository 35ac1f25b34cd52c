#ifndef RECURFORMER_CUDA_MAMBA_MIXER_HPP
#define RECURFORMER_CUDA_MAMBA_MIXER_HPP

#include <vector>

#include "recurformer/cuda/mamba_decode.hpp"
#include "recurformer/cuda/mamba_parameters.hpp"
#include "recurformer/cuda/mamba_prefill.hpp"
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

  template <int D, class T, class Device>
  static void forward(Device& device, CallMemory<Device>& memory, const M&, const DeviceBatch& batch,
                      const DeviceRun<T>& run) {
    std::vector<mamba::SequenceState> states;
    for (const int slot : batch.slots)
      states.push_back(
          {run.fields[0].template block<float>(slot), run.fields[1].template block<float>(slot)});
    const mamba::Arguments<T> arguments{.sequences = batch.device_sequences,
                                        .sequence_count = batch.count(),
                                        .groups = run.groups,
                                        .heads_per_group = run.shape.queries_per_group,
                                        .projected = {run.targets[0].data, run.targets[0].stride},
                                        .out = run.out,
                                        .group_index = run.group_index,
                                        .prepared = run.prepared,
                                        .states = memory.upload(states)};
    if (batch.longest <= most_decode_rows) return mamba::decode<Head<D>>(device, arguments);
    const int heads = arguments.heads();
    const mamba::Plan plan =
        mamba::plan_prefill<Head<D>, T>(batch.sequences, heads, device.multiprocessors());
    mamba::prefill<Head<D>>(device, plan, arguments,
                            memory.template take<std::byte>(mamba::workspace_bytes<Head<D>>(plan, heads)));
  }
};

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_MAMBA_MIXER_HPP
