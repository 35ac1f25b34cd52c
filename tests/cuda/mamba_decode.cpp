#include "recurformer/cuda/mamba_decode.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <vector>

#include "cuda/mamba_harness.hpp"

namespace {

using rf::bf16;
using rf::fp16;
using rf::Mamba;
using rf::ScanShape;
using rf::test::MambaCase;
using rf::test::MambaHarness;
using rf::test::MambaResult;
using rf::test::TestDevice;

using Converted = Mamba<>;
using Standard = Mamba<ScanShape{.d_state = 11, .d_conv = 3, .dt_rank = 5}, rf::standard_mamba>;

template <class Mixer, class T, int d_head, class Device>
void check_decode(Device& device, const MambaCase& what) {
  const MambaHarness<Mixer, T, d_head> harness(what);
  harness.check(harness.decode_at_once(device), harness.reference());
}

TEST_CASE_TEMPLATE("Mamba on CUDA: decode equals the reference under every schedule", T, float, bf16, fp16) {
  for (const auto& schedule : rf::test::schedules()) {
    CAPTURE(schedule.seed);
    TestDevice device(schedule);
    check_decode<Converted, T, 16>(device, {.lengths = {1, 0, 8, 3}});
    check_decode<Standard, T, 32>(device, {.lengths = {2, 1}, .groups = {1}});
  }
}

TEST_CASE_TEMPLATE("Mamba on CUDA: decode with other numbers of states", Mixer,
                   Mamba<ScanShape{.d_state = 1, .d_conv = 2}>, Mamba<ScanShape{.d_state = 18, .d_conv = 5}>,
                   Mamba<ScanShape{.d_state = 100}>) {
  TestDevice device({.seed = 4});
  check_decode<Mixer, float, 16>(device, {.lengths = {1, 7}, .groups = {1}});
}

TEST_CASE("Mamba on CUDA: decode of every width") {
  TestDevice device({.seed = 5});
  const MambaCase what{.lengths = {1, 4}, .groups = {0}, .layer_groups = 1, .heads_per_group = 1};
  check_decode<Converted, bf16, 64>(device, what);
  check_decode<Converted, bf16, 80>(device, what);
  check_decode<Standard, float, 96>(device, what);
  check_decode<Converted, float, 128>(device, what);
  check_decode<Converted, bf16, 256>(device, what);
}

/// Token by token, and 8 at a time; rings of past inputs shorter and longer than a step.
template <class Mixer, class Device>
void check_steps(Device& device) {
  const MambaHarness<Mixer, float, 16> harness({.lengths = {21, 0, 3}, .groups = {1}});
  const MambaResult expected = harness.reference();
  std::vector<std::int64_t> each;
  for (std::int64_t t = 1; t < 22; ++t) each.push_back(t);
  harness.check(harness.run(device, each), expected);
  harness.check(harness.run(device, {8, 16, 19, 21}), expected);
}

TEST_CASE("Mamba on CUDA: decode step by step") {
  TestDevice device({.seed = 6});
  check_steps<Converted>(device);
  check_steps<Standard>(device);
  check_steps<Mamba<ScanShape{.d_state = 4, .d_conv = 12}>>(device);
}

TEST_CASE("Mamba on CUDA: decode gives the same bits for tokens at once and one by one, under any schedule") {
  const MambaHarness<Converted, bf16, 16> harness({.lengths = {8, 5}, .groups = {1}});
  TestDevice first;
  const MambaResult expected = harness.decode_at_once(first);
  for (const auto& schedule : rf::test::schedules()) {
    TestDevice device(schedule);
    CHECK(rf::test::same_bits(harness.decode_at_once(device), expected));
    CHECK(rf::test::same_bits(harness.run(device, {1, 2, 3, 4, 5, 6, 7, 8}), expected));
  }
}

}  // namespace
