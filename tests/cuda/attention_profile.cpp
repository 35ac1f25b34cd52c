#include "recurformer/cuda/attention_profile.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "recurformer/cuda/attention_items.hpp"
#include "support/attention_batch.hpp"
#include "support/test_device.hpp"

namespace {

using rf::test::AttentionBatch;
using rf::test::AttentionShapes;
using rf::test::packed;
using rf::test::TestDevice;

/// mass[sequence][head of the run][lag] by the kernels: prefill with the probe, then the profile.
template <class T, int D>
std::vector<std::vector<std::vector<double>>> profiles(TestDevice& device, const AttentionBatch<T>& batch,
                                                       const AttentionShapes& shapes) {
  using Tuning = rf::cuda::PrefillTuning<D>;
  const auto groups = static_cast<int>(shapes.group_index.size());
  const rf::test::DeviceBatch<T, TestDevice, false> memory(device, batch, shapes);
  const std::int64_t stride = std::int64_t{shapes.layer_groups} * shapes.heads;
  const std::vector<float> poison(static_cast<std::size_t>(batch.rows() * stride), std::nanf(""));
  const rf::cuda::DeviceArray<float, TestDevice> log_sum_exp(device, std::span<const float>(poison));
  const auto parameters =
      memory.parameters(rf::cuda::RecencyProbe{.stride = stride, .log_sum_exp = log_sum_exp.data()});
  const auto tiles = rf::cuda::plan_prefill<Tuning>(shapes.sequences, groups, shapes.heads, shapes.mask);
  const rf::cuda::DeviceArray<rf::cuda::AttentionItem, TestDevice> tiles_there(device, std::span(tiles));
  rf::cuda::attention_prefill<D, Tuning>(device, parameters, std::span(tiles_there.data(), tiles.size()));

  const auto items = rf::cuda::plan_profile(shapes.sequences, groups * shapes.heads);
  const rf::cuda::DeviceArray<rf::cuda::ProfileItem, TestDevice> there(device, std::span(items));
  const rf::cuda::DeviceArray<float, TestDevice> sums(device, items.size() * rf::cuda::profile_lags);
  rf::cuda::attention_profile<D>(device, parameters, std::span(there.data(), items.size()), sums.data());
  const std::vector<float> got = sums.to_host();

  std::vector<std::vector<std::vector<double>>> mass;
  for (const rf::SequenceRows& s : shapes.sequences)
    mass.emplace_back(static_cast<std::size_t>(groups * shapes.heads),
                      std::vector<double>(static_cast<std::size_t>(s.rows)));
  for (std::size_t i = 0; i < items.size(); ++i) {
    const auto s = static_cast<std::size_t>(items[i].sequence);
    rf::cuda::each_profile_lag(
        items[i], std::span(got).subspan(i * rf::cuda::profile_lags, rf::cuda::profile_lags),
        shapes.sequences[s].rows, [&](std::int64_t lag, double x) {
          mass[s][static_cast<std::size_t>(items[i].head)][static_cast<std::size_t>(lag)] += x;
        });
  }
  return mass;
}

template <class T, int D>
void check_profiles(TestDevice& device, const AttentionShapes& shapes) {
  const AttentionBatch<T> batch(shapes, D);
  const auto got = profiles<T, D>(device, batch, shapes);
  for (std::size_t s = 0; s < shapes.sequences.size(); ++s) {
    const rf::SequenceRows& sequence = shapes.sequences[s];
    for (std::int64_t lag = 0; lag < sequence.rows; ++lag) {
      std::vector<double> want(static_cast<std::size_t>(shapes.layer_groups * shapes.heads));
      batch.masses([&](std::int64_t position, std::int64_t key) { return position - key == lag; },
                   [&](std::int64_t row, int head, double mass, double) {
                     if (row >= sequence.first_row && row < sequence.first_row + sequence.rows)
                       want[static_cast<std::size_t>(head)] += mass;
                   });
      for (std::size_t g = 0; g < shapes.group_index.size(); ++g)
        for (int h = 0; h < shapes.heads; ++h) {
          CAPTURE(lag);
          const auto of_run = g * static_cast<std::size_t>(shapes.heads) + static_cast<std::size_t>(h);
          const auto of_layer = static_cast<std::size_t>(shapes.group_index[g] * shapes.heads + h);
          const double mass = got[s][of_run][static_cast<std::size_t>(lag)];
          CHECK(std::abs(mass - want[of_layer]) <= 1e-4 * want[of_layer] + 1e-6);
        }
    }
  }
}

}  // namespace

TEST_CASE("attention profile on CUDA: the reference's weights, lag by lag") {
  for (const auto& schedule : rf::test::schedules()) {
    CAPTURE(schedule.seed);
    TestDevice device(schedule);
    check_profiles<rf::bf16, 16>(device, {.sequences = packed({{70, 0}, {0, 0}, {1, 0}}),
                                          .heads = 2,
                                          .group_index = {1, 0},
                                          .layer_groups = 3,
                                          .mask = {}});
    if (rf::arch::simulator::sanitized) return;
  }
}

TEST_CASE("attention profile on CUDA: tiles that are just full, several bands, sharp and flat attention") {
  TestDevice device({.seed = 5});
  check_profiles<rf::fp16, 64>(device, {.sequences = packed({{64, 0}}), .mask = {}, .scale = 4.0});
  check_profiles<rf::bf16, 128>(device, {.sequences = packed({{65, 0}}), .mask = {}, .scale = 0.01});
  check_profiles<rf::bf16, 32>(device, {.sequences = packed({{197, 0}}), .mask = {}});
}

TEST_CASE(
    "attention profile on CUDA: the same bits under every schedule; sequences with a past are refused") {
  const AttentionShapes shapes{.sequences = packed({{140, 0}}), .mask = {}};
  const AttentionBatch<rf::bf16> batch(shapes, 16);
  TestDevice first({.seed = 0}), second({.seed = 7});
  CHECK(profiles<rf::bf16, 16>(first, batch, shapes) == profiles<rf::bf16, 16>(second, batch, shapes));
  CHECK_THROWS_AS(rf::cuda::plan_profile(packed({{3, 2}}), 1), rf::ArgumentError);
}
