// The heads of a hybrid layer over one prompt of 512 to 16384 tokens, 2048 channels wide, a quarter to nine
// tenths of them Mamba heads and the rest attention: all in one launch, and attention's launch and the
// scan's, each planned and tuned for itself, one after the other and on two streams. Each by the kernels for
// all GPUs and by those that Hopper has. The floor is that of the busiest unit, summed over all heads.
#include <algorithm>
#include <cstdint>
#include <span>

#include "attention.cuh"
#include "recurformer/cuda/attention_mixer.hpp"
#include "recurformer/cuda/heads.hpp"
#include "recurformer/cuda/mamba_mixer.hpp"
#include "recurformer/cuda/sm90/attention_prefill.hpp"
#include "recurformer/cuda/sm90/heads.hpp"
#include "selective_scan.cuh"

namespace rf::benchmarks {
namespace {

using Standard = Mamba<ScanShape{}, standard_mamba>;

/// A point of one stream that others can wait for.
class Event {
 public:
  Event() {
    cuda::check_cuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "creating an event");
  }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() { cudaEventDestroy(event_); }

  void record(const Cuda& device) {
    cuda::check_cuda(cudaEventRecord(event_, device.stream()), "recording an event");
  }
  /// What is put onto the stream from now on waits.
  void hold(const Cuda& device) const {
    cuda::check_cuda(cudaStreamWaitEvent(device.stream(), event_), "waiting for an event");
  }

 private:
  cudaEvent_t event_ = nullptr;
};

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

/// Mamba heads of so many percent of the layer.
template <int D>
int recurrent_heads(std::int64_t percent) {
  return static_cast<int>((2048 / D * percent + 50) / 100);
}

/// Attention's kernels for all GPUs.
template <int D>
struct AnyGpu {
  static constexpr int threads = 128, blocks = cuda::heads_blocks(threads);
  using Planner = typename cuda::MixerKernel<Attention<>>::template Prefill<D, bf16, threads>;
  using Tuning = cuda::PrefillTuning<D>;
  template <class... Works>
  using Kernel = cuda::HeadsKernel<threads, Works...>;

  static typename Planner::Work::Parameters of_work(const AttentionBatch<D>& batch) {
    return {.attention = batch.parameters(), .after = {}};
  }
  static void launch(const AttentionBatch<D>& batch, std::span<const cuda::AttentionItem> items) {
    cuda::attention_prefill<D, Tuning>(gpu(), batch.parameters(), items);
  }
};

/// Hopper's.
template <int D>
struct Hopper {
  static constexpr int threads = cuda::sm90::consumer_threads, blocks = 1;
  using Planner = typename cuda::MixerKernel<Attention<>>::template PrefillSm90<D, bf16>;
  using Tuning = cuda::PrefillTuningSm90<D>;
  template <class... Works>
  using Kernel = cuda::sm90::HeadsKernel<Works...>;

  static typename Planner::Work::Parameters of_work(const AttentionBatch<D>& batch) {
    return cuda::sm90::mapped<typename Planner::Work::Tuning, D>(batch.parameters());
  }
  static void launch(const AttentionBatch<D>& batch, std::span<const cuda::AttentionItem> items) {
    cuda::attention_prefill_sm90<D, Tuning>(gpu(), cuda::sm90::mapped<Tuning, D>(batch.parameters()), items);
  }
};

template <int D, class By>
void in_one_launch(benchmark::State& state) {
  using ScanPlanner = typename cuda::MixerKernel<Standard>::template Prefill<D, bf16, By::threads>;
  const int recurrent = recurrent_heads<D>(state.range(1));
  const Heads<D> heads(state.range(0), recurrent);

  cuda::CallMemory<Cuda> memory(gpu());
  cuda::UploadMemory<Cuda> uploads(gpu());
  cuda::WorkList list;
  const cuda::DeviceBatch batch{
      .sequences = heads.scan.sequences(), .rows = state.range(0), .longest = state.range(0)};
  cuda::WorkPlanner<Cuda> planner{batch, list, memory, uploads, gpu(), gpu().multiprocessors() * By::blocks};
  const HeadShape shape{.d_model = 2048, .d_head = D, .queries_per_group = 1};
  list.begin_run(0);
  const auto attention = By::Planner::plan(planner, {}, shape, 2048 / D - recurrent);
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
  cuda::WorkParameters<typename By::Planner::Work, typename ScanPlanner::Work> works;
  works.first = By::of_work(heads.attention);
  works.rest.first = {.prefill = {.arguments = heads.scan.arguments(),
                                  .chunk_rows = scan.cut.chunk_rows,
                                  .chunk_states = scan.chunk_states,
                                  .chunk_delta_sums = scan.chunk_delta_sums},
                      .arrived = of_works + scan.arrived,
                      .carried = of_works + scan.carried};
  using Kernel = typename By::template Kernel<typename By::Planner::Work, typename ScanPlanner::Work>;
  measure(state, heads.work(),
          [&] { cuda::launch_heads<Kernel>(gpu(), items, works, counters.data(), list.counters()); });
}

/// Times the two launches as launch(scan, attention) calls them; scan(device) takes a stream.
template <int D, class By, class Launch>
void in_two_launches(benchmark::State& state, Launch launch) {
  using Head = typename ScanBatch<Standard, D>::Head;
  const int recurrent = recurrent_heads<D>(state.range(1));
  const Heads<D> heads(state.range(0), recurrent);
  const auto items = on_device(cuda::plan_prefill<typename By::Tuning>(
      heads.attention.sequences(), 2048 / D - recurrent, 1, heads.attention.parameters().mask));
  const cuda::mamba::Plan plan =
      cuda::mamba::plan_prefill<Head, bf16>(heads.scan.sequences(), recurrent, gpu().multiprocessors());
  const DeviceArray<std::byte> workspace(gpu(), cuda::mamba::workspace_bytes<Head>(plan, recurrent));
  const auto scan = [&](Cuda& device) {
    cuda::mamba::prefill<Head>(device, plan, heads.scan.arguments(), workspace.data());
  };
  const auto attention = [&] { By::launch(heads.attention, std::span(items.data(), items.size())); };
  measure(state, heads.work(), [&] { launch(scan, attention); });
}

template <int D, class By>
void one_after_the_other(benchmark::State& state) {
  in_two_launches<D, By>(state, [](const auto& scan, const auto& attention) {
    scan(gpu());
    attention();
  });
}

/// The scan on a stream of its own, begun first: attention's blocks leave no room once they are there.
template <int D, class By>
void on_two_streams(benchmark::State& state) {
  Cuda beside;
  Event start, scanned;
  in_two_launches<D, By>(state, [&](const auto& scan, const auto& attention) {
    start.record(gpu());
    start.hold(beside);
    scan(beside);
    scanned.record(beside);
    attention();
    scanned.hold(gpu());
  });
}

void add_sizes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"tokens", "percent"});
  for (const std::int64_t percent : {25, 50, 75, 90})
    for (std::int64_t tokens = 512; tokens <= 16384; tokens *= 2) b->Args({tokens, percent});
}

[[maybe_unused]] const bool registered = [] {
  add_sizes(add("heads<64>/one_launch", in_one_launch<64, AnyGpu<64>>));
  add_sizes(add("heads<64>/one_after_the_other", one_after_the_other<64, AnyGpu<64>>));
  add_sizes(add("heads<64>/two_streams", on_two_streams<64, AnyGpu<64>>));
  add_sizes(add("heads<128>/one_launch", in_one_launch<128, AnyGpu<128>>));
  add_sizes(add("heads<128>/one_after_the_other", one_after_the_other<128, AnyGpu<128>>));
  add_sizes(add("heads<128>/two_streams", on_two_streams<128, AnyGpu<128>>));
  add_sizes(add_hopper("heads_sm90<64>/one_launch", in_one_launch<64, Hopper<64>>));
  add_sizes(add_hopper("heads_sm90<64>/one_after_the_other", one_after_the_other<64, Hopper<64>>));
  add_sizes(add_hopper("heads_sm90<64>/two_streams", on_two_streams<64, Hopper<64>>));
  add_sizes(add_hopper("heads_sm90<128>/one_launch", in_one_launch<128, Hopper<128>>));
  add_sizes(add_hopper("heads_sm90<128>/one_after_the_other", one_after_the_other<128, Hopper<128>>));
  add_sizes(add_hopper("heads_sm90<128>/two_streams", on_two_streams<128, Hopper<128>>));
  return true;
}();

}  // namespace
}  // namespace rf::benchmarks
