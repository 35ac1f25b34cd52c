#include "recurformer/cuda/attention_prefill.hpp"

#include <doctest/doctest.h>

#include <cstddef>
#include <span>

#include "support/attention_batch.hpp"
#include "support/recency_probe.hpp"

namespace {

using rf::test::AttentionBatch;
using rf::test::AttentionShapes;
using rf::test::DeviceBatch;
using rf::test::packed;
using rf::test::schedules;
using rf::test::TestDevice;

/// The tiles that ship, or others.
template <int D, class Tuning = rf::cuda::PrefillTuning<D>, class Attention>
void prefill(TestDevice& device, const Attention& attention, const AttentionShapes& shapes) {
  const auto plan =
      rf::cuda::plan_prefill<Tuning>(shapes.sequences, attention.groups, attention.heads, attention.mask);
  const rf::cuda::DeviceArray<rf::cuda::AttentionItem, TestDevice> items(device, std::span(plan));
  rf::cuda::attention_prefill<D, Tuning>(device, attention, std::span(items.data(), items.size()));
}

/// Under every schedule, or only under the first ones.
template <class T, int D, bool Ring, class Tuning = rf::cuda::PrefillTuning<D>>
void check_simulated(const AttentionShapes& shapes, std::size_t most_schedules = 2) {
  const AttentionBatch<T> batch(shapes, D);
  static std::size_t next = 0;  // so that cases differ
  if (rf::arch::simulator::sanitized) most_schedules = (most_schedules + 1) / 2;
  for (std::size_t i = 0; i < most_schedules; ++i) {
    TestDevice device(schedules()[next++ % schedules().size()]);
    const DeviceBatch<T, TestDevice, Ring> memory(device, batch, shapes);
    prefill<D, Tuning>(device, memory.parameters(), shapes);
    memory.check();
  }
}

/// Few queries per tile, so that small batches have several.
struct SmallTuning {
  static constexpr int warps = 2;
  static constexpr int slabs = 1;
  static constexpr int queries = 32;
  static constexpr int keys = 32;
  static constexpr bool queries_in_registers = false;
  static constexpr int blocks_per_multiprocessor = 2;
};

}  // namespace

TEST_CASE("CUDA attention prefill: ragged batch, grouped heads, scattered groups, every schedule") {
  const AttentionShapes shapes{.sequences = packed({{45, 0}, {0, 3}, {1, 0}, {33, 40}}),
                               .heads = 3,
                               .group_index = {2, 0},
                               .layer_groups = 3,
                               .mask = {}};
  check_simulated<rf::bf16, 16, false, SmallTuning>(shapes, 4);
  check_simulated<rf::fp16, 32, false, SmallTuning>(shapes, 4);
}

TEST_CASE("CUDA attention prefill: d_head 16 to 256 with the tiles that ship") {
  const AttentionShapes shapes{.sequences = packed({{130, 0}, {7, 70}}), .heads = 1, .mask = {}};
  check_simulated<rf::bf16, 16, false>(shapes, 1);
  check_simulated<rf::bf16, 32, false>(shapes, 1);
  check_simulated<rf::bf16, 64, false>(shapes);
  check_simulated<rf::bf16, 80, false>(shapes, 1);
  check_simulated<rf::bf16, 96, false>(shapes, 1);
  check_simulated<rf::bf16, 128, false>(shapes);
  check_simulated<rf::fp16, 128, false>(shapes, 1);
  check_simulated<rf::bf16, 256, false>(shapes, 1);
  const AttentionShapes ring{
      .sequences = packed({{130, 0}, {7, 70}}), .heads = 1, .mask = {.sink = 4, .window = 48}};
  check_simulated<rf::bf16, 64, true>(ring, 1);
  check_simulated<rf::bf16, 128, true>(ring, 1);
}

TEST_CASE("CUDA attention prefill: several pages, seven heads to a group") {
  const AttentionShapes shapes{
      .sequences = packed({{13, 250}, {257, 0}, {2, 511}, {1, 512}}), .heads = 7, .mask = {}};
  check_simulated<rf::bf16, 16, false>(shapes);
}

TEST_CASE("CUDA attention prefill: huge and tiny activations, NaN in another sequence") {
  AttentionShapes shapes{.sequences = packed({{40, 10}, {20, 0}, {9, 31}}), .heads = 2, .mask = {}};
  shapes.scale = 30.0;
  check_simulated<rf::bf16, 16, false, SmallTuning>(shapes);
  shapes.scale = 1e-18;
  shapes.offset = 1e30;
  check_simulated<rf::bf16, 16, false, SmallTuning>(shapes);
  shapes.scale = 1.0;
  shapes.offset = 0.0;
  shapes.poisoned = 1;
  check_simulated<rf::fp16, 32, false, SmallTuning>(shapes);
  shapes.mask = {.sink = 2, .window = 12};
  check_simulated<rf::fp16, 32, true, SmallTuning>(shapes);
}

TEST_CASE("CUDA attention prefill: rings and masks") {
  const auto sequences = packed({{45, 0}, {0, 3}, {1, 90}, {33, 40}, {20, 7}});
  for (const rf::AttentionMask& mask :
       {rf::AttentionMask{.sink = 4, .window = 16}, rf::AttentionMask{.sink = 0, .window = 1},
        rf::AttentionMask{.sink = 3, .window = 70}, rf::AttentionMask{.sink = 50, .window = 5},
        rf::AttentionMask{.sink = 4, .window = 1000}})
    for (const int extra : {0, 5}) {
      const AttentionShapes shapes{.sequences = sequences,
                                   .heads = 2,
                                   .group_index = {0, 1},
                                   .layer_groups = 2,
                                   .mask = mask,
                                   .ring_extra = extra};
      check_simulated<rf::bf16, 16, true, SmallTuning>(shapes);
      if (extra == 0) check_simulated<rf::fp16, 32, false, SmallTuning>(shapes, 1);
    }
}

TEST_CASE("CUDA attention prefill: the recency probe") {
  std::size_t next = 0;
  for (const auto& [mask, window, sink] : rf::test::probe_ranges()) {
    TestDevice device(schedules()[next++ % schedules().size()]);
    rf::test::check_probe<rf::bf16, 16>(device, rf::test::probe_shapes(mask), window, sink,
                                        [](auto&&... arguments) { prefill<16, SmallTuning>(arguments...); });
  }
  TestDevice device(schedules()[1]);
  rf::test::check_probe<rf::fp16, 64>(device, rf::test::probe_shapes({.sink = 3, .window = 20}), 10, 5,
                                      [](auto&&... arguments) { prefill<64>(arguments...); });
}
