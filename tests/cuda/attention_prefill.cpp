#include "recurformer/cuda/attention_prefill.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "support/attention_batch.hpp"

namespace {

using rf::test::AttentionBatch;
using rf::test::AttentionShapes;
using rf::test::DeviceBatch;
using rf::test::packed;
using rf::test::schedules;
using rf::test::TestDevice;

template <class T, int D, bool Ring, class Tuning = rf::cuda::PrefillTuning<D>, class Device>
void check_prefill(Device& device, const AttentionBatch<T>& batch, const AttentionShapes& shapes) {
  const DeviceBatch<T, Device, Ring> memory(device, batch, shapes);
  const auto plan = rf::cuda::plan_prefill<Tuning>(
      shapes.sequences, static_cast<int>(shapes.group_index.size()), shapes.heads, shapes.mask);
  const rf::cuda::DeviceArray<rf::cuda::AttentionItem, Device> items(device, std::span(plan));
  rf::cuda::attention_prefill<D, Tuning>(device, memory.parameters(), std::span(items.data(), items.size()));
  memory.check();
}

/// Under every schedule, or only under the first ones.
template <class T, int D, bool Ring, class Tuning = rf::cuda::PrefillTuning<D>>
void check_simulated(const AttentionShapes& shapes, std::size_t most_schedules = 2) {
  const AttentionBatch<T> batch(shapes, D);
  static std::size_t next = 0;  // so that cases differ
  if (rf::arch::simulator::sanitized) most_schedules = (most_schedules + 1) / 2;
  for (std::size_t i = 0; i < most_schedules; ++i) {
    TestDevice device(schedules()[next++ % schedules().size()]);
    check_prefill<T, D, Ring, Tuning>(device, batch, shapes);
  }
}

/// The probe's sums against the reference's weights.
template <class T, int D, class Tuning, class Device>
void check_probe(Device& device, const AttentionBatch<T>& batch, const AttentionShapes& shapes, int window,
                 int sink) {
  const DeviceBatch<T, Device, false> memory(device, batch, shapes);
  const auto plan = rf::cuda::plan_prefill<Tuning>(
      shapes.sequences, static_cast<int>(shapes.group_index.size()), shapes.heads, shapes.mask);
  const rf::cuda::DeviceArray<rf::cuda::AttentionItem, Device> items(device, std::span(plan));
  const std::int64_t stride = shapes.layer_groups * shapes.heads + 1;
  const std::vector<float> poison(static_cast<std::size_t>(batch.rows() * stride), std::nanf(""));
  std::vector<rf::cuda::DeviceArray<float, Device>> arrays;
  for (int i = 0; i < 4; ++i) arrays.emplace_back(device, std::span(poison));
  const rf::cuda::RecencyProbe probe{.stride = stride,
                                     .window = window,
                                     .sink = sink,
                                     .recent_mass = arrays[0].data(),
                                     .sink_mass = arrays[1].data(),
                                     .recent_sink_mass = arrays[2].data(),
                                     .log_sum_exp = arrays[3].data()};
  rf::cuda::attention_prefill<D, Tuning>(device, memory.parameters(probe),
                                         std::span(items.data(), items.size()));
  memory.check();
  std::vector<float> got[4];
  for (std::size_t i = 0; i < 4; ++i) got[i] = arrays[i].to_host();
  const auto compare = [&](std::size_t array, bool recent, bool first) {
    std::size_t outputs = 0;
    batch.masses(
        [&](std::int64_t position, std::int64_t key) {
          return (!recent || position - key < window) && (!first || key < sink);
        },
        [&](std::int64_t row, int head, double mass, double log_sum_exp) {
          const auto at = static_cast<std::size_t>(row * stride + head);
          CHECK(std::abs(got[array][at] - mass) <= 1e-5);
          CHECK(std::abs(got[3][at] - log_sum_exp) <= 1e-5 * std::max(1.0, std::abs(log_sum_exp)));
          ++outputs;
        });
    std::size_t written = 0;
    for (const float x : got[array]) written += !std::isnan(x);
    CHECK(written == outputs);
  };
  compare(0, true, false);
  compare(1, false, true);
  compare(2, true, true);
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
  AttentionShapes shapes{.sequences = packed({{45, 0}, {0, 3}, {33, 40}}),
                         .heads = 2,
                         .group_index = {2, 0},
                         .layer_groups = 3,
                         .mask = {}};
  for (const auto& [window, sink] :
       {std::pair{16, 4}, std::pair{1, 0}, std::pair{8, 40}, std::pair{500, 1}}) {
    const AttentionBatch<rf::bf16> batch(shapes, 16);
    TestDevice device(schedules()[static_cast<std::size_t>(window) % 4]);
    check_probe<rf::bf16, 16, SmallTuning>(device, batch, shapes, window, sink);
  }
  shapes.mask = {.sink = 3, .window = 20};
  const AttentionBatch<rf::fp16> batch(shapes, 64);
  TestDevice device(schedules()[1]);
  check_probe<rf::fp16, 64, rf::cuda::PrefillTuning<64>>(device, batch, shapes, 10, 5);
}
