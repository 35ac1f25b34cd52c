// The heads of a hybrid layer over one prompt of 512 to 16384 tokens, 2048 channels wide, a part of them
// Mamba heads and the rest attention: all in one launch, and attention's launch and the scan's one after the
// other, each planned and tuned for itself. The floor is that of the busiest unit, summed over all heads.
#include <algorithm>
#include <cstdint>
#include <span>

#include "attention.cuh"
#include "recurformer/cuda/attention_mixer.hpp"
#include "recurformer/cuda/heads.hpp"
#include "recurformer/cuda/mamba_mixer.hpp"
#include "selective_scan.cuh"

namespace rf::benchmarks {
namespace {

using Standard = Mamba<ScanShape{}, standard_mamba>;

template <int D>
struct Heads {
  Heads(std::int64_t tokens, int recurrent)
      : attention({.tokens = tokens, .groups = 2048 / D - recurrent}), scan(tokens, recurrent, 1) {}

  Work work() const {
    const Work a = attention.work(), s = scan.work();
    return {.operations = a.operations + s.operations,
            .bytes = a.bytes + s.bytes,
            .exponentials = a.exponentials + s.exponentials};
  }

  AttentionBatch<D> attention;
  ScanBatch<Standard, D> scan;
};

/// Mamba heads of `eighths` / 8 of the layer.
template <int D>
int recurrent_heads(std::int64_t eighths) {
  return static_cast<int>(2048 / D * eighths / 8);
}

template <int D>
void in_one_launch(benchmark::State& state) {
  constexpr int threads = 128;
  using AttentionPlanner = typename cuda::MixerKernel<Attention<>>::template Prefill<D, bf16, threads>;
  using ScanPlanner = typename cuda::MixerKernel<Standard>::template Prefill<D, bf16, threads>;
  const int recurrent = recurrent_heads<D>(state.range(1));
  const Heads<D> heads(state.range(0), recurrent);

  cuda::CallMemory<Cuda> memory(gpu());
  cuda::UploadMemory<Cuda> uploads(gpu());
  cuda::WorkList list;
  const cuda::DeviceBatch batch{
      .sequences = heads.scan.sequences(), .rows = state.range(0), .longest = state.range(0)};
  cuda::WorkPlanner<Cuda> planner{batch,   list,  memory,
                                  uploads, gpu(), gpu().multiprocessors() * cuda::heads_blocks(threads)};
  const HeadShape shape{.d_model = 2048, .d_head = D, .queries_per_group = 1};
  list.begin_run(0);
  const auto attention = AttentionPlanner::plan(planner, {}, shape, 2048 / D - recurrent);
  list.begin_run(1);
  const auto scan = ScanPlanner::plan(planner, {}, shape, recurrent);
  const cuda::ItemList items{
      .items = uploads.add(list.ordered(planner.blocks)),
      .count = list.size(),
      .shared_bytes = (std::max(attention.shared_bytes, scan.shared_bytes) + 15) / 16 * 16};
  uploads.send();

  const DeviceArray<unsigned> counters(gpu(),
                                       static_cast<std::size_t>(cuda::heads_counters + list.counters()));
  gpu().zero(counters.data(), counters.bytes());
  unsigned* const of_works = counters.data() + cuda::heads_counters;
  cuda::WorkParameters<typename AttentionPlanner::Work, typename ScanPlanner::Work> works;
  works.first.attention = heads.attention.parameters();
  works.rest.first = {.prefill = {.arguments = heads.scan.arguments(),
                                  .chunk_rows = scan.cut.chunk_rows,
                                  .chunk_states = scan.chunk_states,
                                  .chunk_delta_sums = scan.chunk_delta_sums},
                      .arrived = of_works + scan.arrived,
                      .carried = of_works + scan.carried};
  measure(state, heads.work(),
          [&] { cuda::launch_heads<threads>(gpu(), items, works, counters.data(), list.counters()); });
}

template <int D>
void one_after_the_other(benchmark::State& state) {
  using Head = typename ScanBatch<Standard, D>::Head;
  const int recurrent = recurrent_heads<D>(state.range(1));
  const Heads<D> heads(state.range(0), recurrent);
  const auto parameters = heads.attention.parameters();
  const auto items = on_device(cuda::plan_prefill<cuda::PrefillTuning<D>>(
      heads.attention.sequences(), parameters.groups, 1, parameters.mask));
  const cuda::mamba::Plan plan =
      cuda::mamba::plan_prefill<Head, bf16>(heads.scan.sequences(), recurrent, gpu().multiprocessors());
  const DeviceArray<std::byte> workspace(gpu(), cuda::mamba::workspace_bytes<Head>(plan, recurrent));
  measure(state, heads.work(), [&] {
    cuda::mamba::prefill<Head>(gpu(), plan, heads.scan.arguments(), workspace.data());
    cuda::attention_prefill<D, cuda::PrefillTuning<D>>(gpu(), parameters,
                                                       std::span(items.data(), items.size()));
  });
}

void add_sizes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"tokens", "eighths"});
  for (const std::int64_t eighths : {2, 4, 6, 7})
    for (std::int64_t tokens = 512; tokens <= 16384; tokens *= 2) b->Args({tokens, eighths});
}

[[maybe_unused]] const bool registered = [] {
  add_sizes(add("heads<64>/one_launch", in_one_launch<64>));
  add_sizes(add("heads<64>/one_after_the_other", one_after_the_other<64>));
  add_sizes(add("heads<128>/one_launch", in_one_launch<128>));
  add_sizes(add("heads<128>/one_after_the_other", one_after_the_other<128>));
  return true;
}();

}  // namespace
}  // namespace rf::benchmarks
