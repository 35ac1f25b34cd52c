#include <doctest/doctest.h>

#include <cstddef>
#include <span>

#include "recurformer/cuda/sm90/attention_prefill.hpp"
#include "support/attention_batch.hpp"
#include "support/recency_probe.hpp"
#include "support/test_device.hpp"

namespace {

using rf::test::AttentionBatch;
using rf::test::AttentionShapes;
using rf::test::DeviceBatch;
using rf::test::packed;
using rf::test::schedules;
using rf::test::TestDevice;

/// Short tiles of keys, so that short sequences go round the ring more than once.
struct ShortTiles : rf::cuda::PrefillTuningSm90<128> {
  static constexpr int keys = 32;
  static constexpr int stages = 2;
};

template <int D, class Tuning, class Attention>
void prefill(TestDevice& device, const Attention& attention, const AttentionShapes& shapes) {
  const auto plan =
      rf::cuda::plan_prefill<Tuning>(shapes.sequences, attention.groups, attention.heads, attention.mask);
  const rf::cuda::DeviceArray<rf::cuda::AttentionItem, TestDevice> items(device, std::span(plan));
  rf::cuda::attention_prefill_sm90<D, Tuning>(device, rf::cuda::sm90::mapped<Tuning, D>(attention),
                                              std::span(items.data(), items.size()));
}

/// Under so many schedules.
template <class T, int D, class Tuning>
void check_prefill(const AttentionShapes& shapes, std::size_t count) {
  const AttentionBatch<T> batch(shapes, D);
  static std::size_t next = 0;  // so that cases differ
  for (std::size_t i = 0; i < count; ++i) {
    TestDevice device(schedules()[next++ % schedules().size()]);
    const DeviceBatch<T, TestDevice, false> memory(device, batch, shapes);
    prefill<D, Tuning>(device, memory.parameters(), shapes);
    memory.check();
  }
}

/// The recency probe, under the next schedule.
template <class T, int D, class Tuning>
void check_probe(const AttentionShapes& shapes, int window, int sink) {
  static std::size_t next = 0;
  TestDevice device(schedules()[next++ % schedules().size()]);
  rf::test::check_probe<T, D>(device, shapes, window, sink,
                              [](auto&&... arguments) { prefill<D, Tuning>(arguments...); });
}

template <int D>
using Shipped = rf::cuda::PrefillTuningSm90<D>;

}  // namespace

TEST_CASE("attention prefill on Hopper: ragged batch, grouped heads, scattered groups, every schedule") {
  if (rf::test::lacks_hopper()) return;
  const AttentionShapes shapes{.sequences = packed({{45, 0}, {0, 3}, {1, 0}, {33, 40}}),
                               .heads = 3,
                               .group_index = {2, 0},
                               .layer_groups = 3,
                               .mask = {}};
  check_prefill<rf::bf16, 64, ShortTiles>(shapes, 4);
  check_prefill<rf::fp16, 128, ShortTiles>(shapes, 4);
}

TEST_CASE("attention prefill on Hopper: the tiles that ship") {
  if (rf::test::lacks_hopper()) return;
  const AttentionShapes shapes{.sequences = packed({{130, 0}, {7, 270}}), .heads = 1, .mask = {}};
  check_prefill<rf::bf16, 64, Shipped<64>>(shapes, 2);
  check_prefill<rf::fp16, 64, Shipped<64>>(shapes, 1);
  check_prefill<rf::bf16, 128, Shipped<128>>(shapes, 2);
  check_prefill<rf::fp16, 128, Shipped<128>>(shapes, 1);
}

TEST_CASE("attention prefill on Hopper: several pages, seven heads to a group") {
  if (rf::test::lacks_hopper()) return;
  const AttentionShapes shapes{
      .sequences = packed({{13, 250}, {40, 230}, {2, 511}, {1, 512}}), .heads = 7, .mask = {}};
  check_prefill<rf::bf16, 64, Shipped<64>>(shapes, 1);
}

TEST_CASE("attention prefill on Hopper: huge and tiny activations, NaN in another sequence") {
  if (rf::test::lacks_hopper()) return;
  AttentionShapes shapes{.sequences = packed({{40, 10}, {20, 0}, {9, 31}}), .heads = 2, .mask = {}};
  shapes.scale = 30.0;
  check_prefill<rf::bf16, 64, ShortTiles>(shapes, 1);
  shapes.scale = 1e-18;
  shapes.offset = 1e30;
  check_prefill<rf::bf16, 64, ShortTiles>(shapes, 1);
  shapes.scale = 1.0;
  shapes.offset = 0.0;
  shapes.poisoned = 1;
  check_prefill<rf::fp16, 64, ShortTiles>(shapes, 1);
}

TEST_CASE("attention prefill on Hopper: windows and sinks") {
  if (rf::test::lacks_hopper()) return;
  const auto sequences = packed({{45, 0}, {0, 3}, {1, 90}, {33, 40}, {20, 7}});
  for (const rf::AttentionMask& mask :
       {rf::AttentionMask{.sink = 4, .window = 16}, rf::AttentionMask{.sink = 0, .window = 1},
        rf::AttentionMask{.sink = 3, .window = 70}, rf::AttentionMask{.sink = 50, .window = 5},
        rf::AttentionMask{.sink = 4, .window = 1000}}) {
    const AttentionShapes shapes{
        .sequences = sequences, .heads = 2, .group_index = {0, 1}, .layer_groups = 2, .mask = mask};
    check_prefill<rf::bf16, 64, ShortTiles>(shapes, 2);
  }
  const AttentionShapes far{
      .sequences = packed({{5, 600}, {140, 300}}), .heads = 1, .mask = {.sink = 130, .window = 150}};
  check_prefill<rf::bf16, 64, Shipped<64>>(far, 1);
  check_prefill<rf::bf16, 128, Shipped<128>>(far, 1);
}

TEST_CASE("attention prefill on Hopper: the recency probe") {
  if (rf::test::lacks_hopper()) return;
  for (const auto& [mask, window, sink] : rf::test::probe_ranges()) {
    check_probe<rf::bf16, 64, ShortTiles>(rf::test::probe_shapes(mask), window, sink);
    check_probe<rf::fp16, 128, ShortTiles>(rf::test::probe_shapes(mask), window, sink);
  }
  const AttentionShapes shapes{.sequences = packed({{130, 0}, {7, 270}}), .heads = 1, .mask = {}};
  check_probe<rf::bf16, 64, Shipped<64>>(shapes, 16, 4);
  check_probe<rf::bf16, 128, Shipped<128>>(shapes, 16, 4);
}
