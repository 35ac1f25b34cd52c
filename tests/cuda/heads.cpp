// Heads of several kinds in one launch: attention, a selective scan cut into chunks, and Mamba2 cut into
// segments, whose carries are done by whoever comes last. Few blocks take many items each, and between any
// two of the list one that leaves nothing but NaNs in shared memory.

#include "recurformer/cuda/heads.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "cuda/mamba2_harness.hpp"
#include "cuda/mamba_harness.hpp"
#include "recurformer/cuda/attention_mixer.hpp"
#include "recurformer/cuda/mamba2_mixer.hpp"
#include "recurformer/cuda/mamba_mixer.hpp"
#include "recurformer/cuda/sm90/heads.hpp"
#include "support/attention_batch.hpp"
#include "support/test_device.hpp"

namespace {

using rf::bf16;
using rf::HeadShape;
using rf::SequenceRows;
using rf::cuda::DeviceArray;
using rf::cuda::WorkItem;
using rf::cuda::WorkList;
using rf::cuda::WorkStage;
using rf::test::TestDevice;

/// So many blocks that sequences of some hundred tokens are worth cutting.
constexpr int blocks = 64;

/// Blocks of so many threads, as on every GPU.
template <int D, int Threads>
struct EveryGpu {
  static constexpr int d_head = D;
  using Attention = rf::cuda::MixerKernel<rf::Attention<>>::Prefill<D, bf16, Threads>;
  using Scan = rf::cuda::MixerKernel<rf::Mamba<>>::Prefill<D, bf16, Threads>;
  using Ssd = rf::cuda::MixerKernel<rf::Mamba2<>>::Prefill<D, bf16, Threads>;
  template <class... Works>
  using Kernel = rf::cuda::HeadsKernel<Threads, Works...>;
  static auto attention(const auto& parameters) {
    return typename Attention::Work::Parameters{parameters, {}};
  }
};

/// Hopper's, whose attention is written for warpgroups.
template <int D>
struct Hopper : EveryGpu<D, rf::cuda::sm90::consumer_threads> {
  using Attention = rf::cuda::MixerKernel<rf::Attention<>>::PrefillSm90<D, bf16>;
  template <class... Works>
  using Kernel = rf::cuda::sm90::HeadsKernel<Works...>;
  static auto attention(const auto& parameters) {
    return rf::cuda::sm90::mapped<typename Attention::Work::Tuning, D>(parameters);
  }
};

/// Spoils the shared memory of its block and notes how many blocks the grid has: at index `part`.
struct Spoil {
  struct Parameters {
    int shared_bytes = 0;
    int* blocks = nullptr;
  };
  static constexpr int threads = rf::arch::warp_size;

  RECURFORMER_DEVICE static void run(const Parameters& p, const WorkItem& item, unsigned char* shared) {
    const int thread = rf::arch::thread_index();
    for (int at = thread; at < p.shared_bytes; at += threads) shared[at] = 0xff;
    if (thread == 0) p.blocks[item.part] = rf::arch::grid_size().x;
  }
};

/// What the planners of three runs, each with a batch of its own, share.
struct Planning {
  explicit Planning(TestDevice& on) : device(on), memory(on), uploads(on) {}

  /// Plans a run of a mixer; fills in what does not depend on the layer.
  template <class Kernel, class M>
  typename Kernel::Plan plan(int run, const std::vector<SequenceRows>& sequences, int groups,
                             HeadShape shape) {
    rf::cuda::DeviceBatch batch{.sequences = sequences};
    for (const SequenceRows& s : sequences)
      batch.rows += s.rows, batch.longest = std::max(batch.longest, s.rows);
    rf::cuda::WorkPlanner<TestDevice> planner{batch, list, memory, uploads, device, blocks};
    list.begin_run(run);
    const typename Kernel::Plan out = Kernel::plan(planner, M{}, shape, groups);
    shared_bytes = std::max(shared_bytes, (out.shared_bytes + 15) / 16 * 16);
    return out;
  }

  TestDevice& device;
  WorkList list;
  rf::cuda::CallMemory<TestDevice> memory;
  rf::cuda::UploadMemory<TestDevice> uploads;
  int shared_bytes = 0;
};

template <class Gpu>
void check_mixed(TestDevice& device, bool reverse_free_items) {
  using Attention = typename Gpu::Attention;
  using Scan = typename Gpu::Scan;
  using Ssd = typename Gpu::Ssd;
  using Kernel =
      typename Gpu::template Kernel<typename Attention::Work, typename Scan::Work, typename Ssd::Work, Spoil>;
  constexpr int d_head = Gpu::d_head;
  const rf::test::AttentionShapes shapes{.sequences = rf::test::packed({{90, 0}, {0, 3}, {1, 70}, {37, 64}}),
                                         .heads = 2,
                                         .group_index = {2, 0},
                                         .layer_groups = 3,
                                         .mask = {}};
  const rf::test::AttentionBatch<bf16> attention(shapes, d_head);
  const rf::test::DeviceBatch<bf16, TestDevice, false> attention_memory(device, attention, shapes);
  const rf::test::MambaHarness<rf::Mamba<>, bf16, d_head> mamba({.lengths = {150, 0, 1, 70}});
  const rf::test::Mamba2Harness<rf::Mamba2<>, bf16, d_head> mamba2({.lengths = {19, 0, 1, 200}});

  Planning planning(device);
  const HeadShape shape{.d_model = 1, .d_head = d_head, .queries_per_group = 2};
  planning.plan<Attention, rf::Attention<>>(0, shapes.sequences, 2, shape);
  const auto scan = planning.plan<Scan, rf::Mamba<>>(1, mamba.sequences, 2, shape);
  const auto ssd = planning.plan<Ssd, rf::Mamba2<>>(2, mamba2.sequences(), 2, shape);
  REQUIRE(scan.cut.several);
  REQUIRE(ssd.cut.segments > 2);
  std::vector<WorkItem> items = planning.list.ordered(blocks);
  if (reverse_free_items) {  // only waiting items care for the order
    const auto waits =
        std::find_if(items.begin(), items.end(), [](const WorkItem& i) { return i.phase == 1; });
    std::reverse(items.begin(), waits);
  }
  std::vector<WorkItem> spoiled;
  for (const WorkItem& item : items) {
    spoiled.push_back(item);
    spoiled.push_back({.run = 3, .part = static_cast<int>(spoiled.size() / 2)});
  }
  const int count = static_cast<int>(spoiled.size());
  const int resident = device.multiprocessors() * Kernel::blocks_per_multiprocessor;
#if !defined(__CUDACC__)
  REQUIRE(count >= 8 * resident);
#endif
  const DeviceArray<WorkItem, TestDevice> on_device(device, std::span<const WorkItem>(spoiled));
  const std::vector<int> no_blocks(items.size(), 0);
  const DeviceArray<int, TestDevice> grid(device, std::span<const int>(no_blocks));
  const int own = rf::cuda::heads_counters, all = own + planning.list.counters();
  const std::vector<unsigned> zeros(static_cast<std::size_t>(all), 0u);
  const DeviceArray<unsigned, TestDevice> counters(device, std::span<const unsigned>(zeros));
  unsigned* const of_works = counters.data() + own;

  rf::cuda::WorkParameters<typename Attention::Work, typename Scan::Work, typename Ssd::Work, Spoil>
      parameters;
  parameters.first = Gpu::attention(attention_memory.parameters());
  parameters.rest.rest.rest.first = {.shared_bytes = planning.shared_bytes, .blocks = grid.data()};
  rf::test::MambaResult scanned;
  const auto launch = [&](const rf::cuda::mamba::Arguments<bf16>& arguments) {
    parameters.rest.first = {.prefill = {.arguments = arguments,
                                         .chunk_rows = scan.cut.chunk_rows,
                                         .chunk_states = scan.chunk_states,
                                         .chunk_delta_sums = scan.chunk_delta_sums},
                             .arrived = of_works + scan.arrived,
                             .carried = of_works + scan.carried};
    rf::cuda::launch_heads<Kernel>(
        device, {.items = on_device.data(), .count = count, .shared_bytes = planning.shared_bytes},
        parameters, counters.data(), planning.list.counters());
  };
  const rf::test::Mamba2Result states =
      mamba2.run(device, [&](TestDevice&, const rf::cuda::Mamba2Arguments<bf16>& call) {
        parameters.rest.rest.first = {
            .ssd = {.call = call, .segments = {.plan = ssd.cut, .states = ssd.states, .decays = ssd.decays}},
            .arrived = of_works + ssd.arrived,
            .carried = of_works + ssd.carried,
            .flag_at = Ssd::Work::flag_at_of(ssd.cut.stages)};
        scanned = mamba.run_with(device, launch);
      });
  attention_memory.check();
  mamba.check(scanned, mamba.reference());
  mamba2.check(states);
  CHECK(counters.to_host() == zeros);  // as the next launch wants them
  CHECK(grid.to_host() == std::vector<int>(items.size(), std::min(count, resident)));
}

}  // namespace

TEST_CASE("heads: three kinds in one launch, under every schedule") {
  for (const auto& schedule : rf::test::schedules()) {
    CAPTURE(schedule.seed);
    TestDevice device(schedule);
    check_mixed<EveryGpu<16, 128>>(device, schedule.seed % 2 == 1);
    if (rf::arch::simulator::sanitized) return;
  }
}

TEST_CASE("heads: wide ones, whose blocks have 256 threads") {
  TestDevice device({.seed = 6});
  check_mixed<EveryGpu<128, 256>>(device, true);
}

TEST_CASE("heads on Hopper: attention by warpgroups, beside a scan and SSD") {
  for (const auto& schedule : rf::test::schedules()) {
    CAPTURE(schedule.seed);
    TestDevice device(schedule);
    check_mixed<Hopper<64>>(device, schedule.seed % 2 == 1);
    if (rf::arch::simulator::sanitized) return;
  }
}

TEST_CASE("work list: what others wait for comes first, what waits last, and the rest is paced") {
  WorkList list;
  list.begin_run(0);
  for (int i = 0; i < 8; ++i) list.add(WorkStage::free, 1, {.part = i});
  list.begin_run(1);
  list.add(WorkStage::waits, 1, {.phase = 1});
  list.add(WorkStage::others_wait, 1, {.phase = 0});
  list.begin_run(2);
  for (int i = 0; i < 4; ++i) list.add(WorkStage::free, 1, {.part = i});
  list.begin_run(3);  // a chain as long as all others together on two blocks
  list.add(WorkStage::free, 14, {});
  REQUIRE(list.size() == 15);
  REQUIRE(list.total() == 28);

  std::vector<int> runs, parts[4];
  for (const WorkItem& item : list.ordered(2)) {
    runs.push_back(item.run);
    parts[item.run].push_back(item.part);
  }
  CHECK(runs.front() == 1);
  CHECK(runs.back() == 1);
  CHECK(std::is_sorted(parts[0].begin(), parts[0].end()));
  CHECK(std::is_sorted(parts[2].begin(), parts[2].end()));
  const auto place = [&](int run) { return std::find(runs.begin(), runs.end(), run) - runs.begin(); };
  CHECK(place(3) <= 3);  // the long chain starts at once, with the first items of the others
  // two of run 0 to one of run 2, all the way
  CHECK(std::count(runs.begin(), runs.begin() + 8, 0) == 4);
  CHECK(std::count(runs.begin(), runs.begin() + 8, 2) == 2);
}

TEST_CASE("work list: counters are handed out one after the other") {
  WorkList list;
  CHECK(list.take_counters(3) == 0);
  CHECK(list.take_counters(2) == 3);
  CHECK(list.counters() == 5);
}
