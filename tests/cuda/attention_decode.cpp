#include "recurformer/cuda/attention_decode.hpp"

#include <doctest/doctest.h>

#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

#include "support/attention_batch.hpp"

namespace {

using rf::test::AttentionBatch;
using rf::test::AttentionShapes;
using rf::test::DeviceBatch;
using rf::test::packed;
using rf::test::schedules;
using rf::test::TestDevice;

/// Decodes twice with the same workspace: counters return to zero, bits repeat. Returns the output.
template <class T, int D, bool Ring, class Tuning, class Device>
std::vector<T> check_decode(Device& device, const AttentionBatch<T>& batch, const AttentionShapes& shapes,
                            int blocks) {
  const auto plan = rf::cuda::plan_decode<Tuning>(
      shapes.sequences, static_cast<int>(shapes.group_index.size()), shapes.heads, shapes.mask, blocks);
  const rf::cuda::DeviceArray<rf::cuda::DecodeItem, Device> items(device, std::span(plan.items));
  const rf::cuda::DeviceArray<float, Device> partials(device,
                                                      rf::cuda::decode_partial_floats<D, Tuning>(plan) + 1);
  const std::vector<unsigned> zeros(static_cast<std::size_t>(plan.counters) + 1);
  const rf::cuda::DeviceArray<unsigned, Device> counters(device, std::span(zeros));
  std::vector<T> outputs[2];
  for (auto& output : outputs) {
    const DeviceBatch<T, Device, Ring> memory(device, batch, shapes);
    rf::cuda::attention_decode<D, Tuning>(device, memory.parameters(), std::span(items.data(), items.size()),
                                          {.partials = partials.data(), .counters = counters.data()});
    memory.check();
    output = memory.out();
  }
  CHECK(std::memcmp(outputs[0].data(), outputs[1].data(), outputs[0].size() * sizeof(T)) == 0);
  CHECK(counters.to_host() == zeros);
  return outputs[0];
}

/// Under several schedules, which all give the same bits.
template <class T, int D, bool Ring, class Tuning = rf::cuda::DecodeTuning<D>>
void check_simulated(const AttentionShapes& shapes, int blocks, std::size_t most_schedules = 2) {
  const AttentionBatch<T> batch(shapes, D);
  std::vector<std::vector<T>> outputs;
  static std::size_t next = 0;  // so that cases differ
  if (rf::arch::simulator::sanitized) most_schedules = (most_schedules + 1) / 2;
  for (std::size_t i = 0; i < most_schedules; ++i) {
    TestDevice device(schedules()[next++ % schedules().size()]);
    outputs.push_back(check_decode<T, D, Ring, Tuning>(device, batch, shapes, blocks));
    CHECK(std::memcmp(outputs[0].data(), outputs[i].data(), outputs[0].size() * sizeof(T)) == 0);
  }
}

}  // namespace

TEST_CASE("CUDA attention decode: ragged batch, grouped heads, split keys, every schedule") {
  const AttentionShapes shapes{.sequences = packed({{1, 700}, {0, 3}, {8, 0}, {2, 40}, {1, 255}, {1, 256}}),
                               .heads = 3,
                               .group_index = {2, 0},
                               .layer_groups = 3,
                               .mask = {}};
  check_simulated<rf::bf16, 16, false>(shapes, 40, 4);
  check_simulated<rf::fp16, 64, false>(shapes, 24, 4);
}

TEST_CASE("CUDA attention decode: d_head 16 to 256 with the tiles that ship") {
  const AttentionShapes shapes{.sequences = packed({{1, 300}, {3, 70}}), .heads = 1, .mask = {}};
  check_simulated<rf::bf16, 16, false>(shapes, 4);
  check_simulated<rf::bf16, 32, false>(shapes, 4);
  check_simulated<rf::bf16, 64, false>(shapes, 4);
  check_simulated<rf::bf16, 80, false>(shapes, 4, 1);
  check_simulated<rf::bf16, 96, false>(shapes, 4, 1);
  check_simulated<rf::bf16, 128, false>(shapes, 4);
  check_simulated<rf::fp16, 128, false>(shapes, 1, 1);
  check_simulated<rf::bf16, 256, false>(shapes, 4, 1);
}

TEST_CASE("CUDA attention decode: more than 16 queries of a group") {
  const AttentionShapes shapes{.sequences = packed({{8, 300}, {1, 9}, {5, 0}}), .heads = 5, .mask = {}};
  check_simulated<rf::bf16, 32, false>(shapes, 6);
  check_simulated<rf::bf16, 32, false, rf::cuda::DecodeTuning<32, 2>>(shapes, 6);
  check_simulated<rf::fp16, 128, false, rf::cuda::DecodeTuning<128, 2>>(shapes, 6, 1);
}

TEST_CASE("CUDA attention decode: rings and masks") {
  const auto sequences = packed({{1, 0}, {2, 3}, {0, 90}, {8, 640}, {1, 41}});
  for (const rf::AttentionMask& mask :
       {rf::AttentionMask{.sink = 4, .window = 16}, rf::AttentionMask{.sink = 0, .window = 1},
        rf::AttentionMask{.sink = 70, .window = 300}, rf::AttentionMask{.sink = 4, .window = 1000}}) {
    const AttentionShapes shapes{.sequences = sequences,
                                 .heads = 2,
                                 .group_index = {0, 1},
                                 .layer_groups = 2,
                                 .mask = mask,
                                 .ring_extra = mask.window == 1 ? 0 : 3};
    check_simulated<rf::bf16, 16, true>(shapes, 30);
    check_simulated<rf::fp16, 64, true>(shapes, 30, 1);
    check_simulated<rf::fp16, 32, false>(shapes, 30, 1);
  }
}

TEST_CASE("CUDA attention decode: huge and tiny activations, NaN in another sequence") {
  AttentionShapes shapes{.sequences = packed({{1, 300}, {2, 200}, {1, 150}}), .heads = 2, .mask = {}};
  shapes.scale = 30.0;
  check_simulated<rf::bf16, 16, false>(shapes, 8);
  shapes.scale = 1e-18;
  shapes.offset = 1e30;
  check_simulated<rf::bf16, 16, false>(shapes, 8);
  shapes.scale = 1.0;
  shapes.offset = 0.0;
  shapes.poisoned = 1;
  check_simulated<rf::fp16, 32, false>(shapes, 8);
  shapes.mask = {.sink = 2, .window = 140};
  check_simulated<rf::fp16, 32, true>(shapes, 8);
}
