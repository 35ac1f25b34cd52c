#ifndef RECURFORMER_TESTS_SUPPORT_RECENCY_PROBE_HPP
#define RECURFORMER_TESTS_SUPPORT_RECENCY_PROBE_HPP

// What attention's recency probe is tested with, whichever kernel has it: the reference's weights, added up.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "recurformer/cuda/attention_tile.hpp"
#include "recurformer/cuda/device_array.hpp"
#include "recurformer/math/attention_mask.hpp"
#include "support/attention_batch.hpp"
#include "support/test_device.hpp"

namespace rf::test {

/// What attention sees, and what of that the probe calls recent and sink.
struct ProbeRanges {
  AttentionMask mask;
  int window;
  int sink;
};

/// Ranges apart, empty, overlapping and longer than the sequences; then behind a mask that cuts them.
inline std::vector<ProbeRanges> probe_ranges() {
  return {{{}, 16, 4}, {{}, 1, 0}, {{}, 8, 40}, {{}, 500, 1}, {{.sink = 3, .window = 20}, 10, 5}};
}

/// A ragged batch of grouped heads in scattered groups.
inline AttentionShapes probe_shapes(const AttentionMask& mask) {
  return {.sequences = packed({{45, 0}, {0, 3}, {33, 40}}),
          .heads = 2,
          .group_index = {2, 0},
          .layer_groups = 3,
          .mask = mask};
}

/// Has prefill(device, parameters, shapes) compute a batch with the probe and checks all that it leaves.
template <class T, int D, class Prefill>
void check_probe(TestDevice& device, const AttentionShapes& shapes, int window, int sink, Prefill prefill) {
  CAPTURE(window);
  CAPTURE(sink);
  const AttentionBatch<T> batch(shapes, D);
  const DeviceBatch<T, TestDevice, false> memory(device, batch, shapes);
  const std::int64_t stride = shapes.layer_groups * shapes.heads + 1;
  const std::vector<float> poison(static_cast<std::size_t>(batch.rows() * stride),
                                  std::numeric_limits<float>::quiet_NaN());
  std::vector<cuda::DeviceArray<float, TestDevice>> arrays;
  for (int i = 0; i < 4; ++i) arrays.emplace_back(device, std::span(poison));
  prefill(device,
          memory.parameters(cuda::RecencyProbe{.stride = stride,
                                               .window = window,
                                               .sink = sink,
                                               .recent_mass = arrays[0].data(),
                                               .sink_mass = arrays[1].data(),
                                               .recent_sink_mass = arrays[2].data(),
                                               .log_sum_exp = arrays[3].data()}),
          shapes);
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

}  // namespace rf::test

#endif  // RECURFORMER_TESTS_SUPPORT_RECENCY_PROBE_HPP
