#ifndef RECURFORMER_CUDA_MAMBA2_MIXER_HPP
#define RECURFORMER_CUDA_MAMBA2_MIXER_HPP

#include "recurformer/cuda/mamba2_decode.hpp"
#include "recurformer/cuda/mamba2_prefill.hpp"
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

  template <int D, class T, class Device>
  static void forward(Device& device, CallMemory<Device>& memory, const M&, const DeviceBatch& batch,
                      const DeviceRun<T>& run) {
    const auto& local = run.local;
    const Mamba2Arguments<T> call{
        .projected = {run.targets[0].data, run.targets[0].stride},
        .group_stride = group_stride(run.shape),
        .out = run.out,
        .group_index = run.group_index,
        .sequences = batch.device_sequences,
        .sequence_count = batch.count(),
        .longest = batch.longest,
        .groups = run.groups,
        .queries = run.shape.queries_per_group,
        .locals = {.dt_bias = local[0],
                   .a_log = local[1],
                   .c0 = local[2],
                   .c1 = local[3],
                   .skip = local[4],
                   .norm_gain = Policy.norm ? local[5] : nullptr},
        .rope = batch.rope,
        .states = {.base = run.fields[0].template block<float>(0),
                   .slots = batch.device_slots,
                   .slot_stride = run.fields[0].block_bytes / static_cast<std::int64_t>(sizeof(float))}};
    if (batch.longest <= most_decode_rows) return mamba2_decode<M, D>(device, call);
    const Mamba2Plan plan = mamba2_plan<D>(device.multiprocessors(), device.most_shared_bytes(),
                                           batch.count(), run.groups, batch.longest);
    const std::size_t bytes = mamba2_workspace_bytes<D>(plan, batch.count(), run.groups);
    mamba2_prefill<M, D>(device, call, plan, bytes > 0 ? memory.template take<std::byte>(bytes) : nullptr);
  }

 private:
  static int columns(const HeadShape& shape) { return 2 * shape.group_width() + 2 * shape.d_head + 1; }
  static std::int64_t group_stride(const HeadShape& shape) { return (columns(shape) + 7) / 8 * 8; }
};

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_MAMBA2_MIXER_HPP
