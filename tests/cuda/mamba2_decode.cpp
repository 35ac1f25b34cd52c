// Mamba2 token by token on CUDA cores against the recurrence in double.

#include "recurformer/cuda/mamba2_decode.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "cuda/mamba2_harness.hpp"
#include "recurformer/cuda/mamba2_prefill.hpp"
#include "support/test_device.hpp"

namespace {

using rf::bf16;
using rf::fp16;
using rf::Gate;
using rf::Mamba2;
using rf::SsdPolicy;
using rf::arch::SimulatorOptions;
using rf::cuda::Mamba2Arguments;
using rf::test::Mamba2Case;
using rf::test::Mamba2Harness;
using rf::test::Mamba2Result;
using rf::test::TestDevice;

using Converted = Mamba2<>;
using Normed = Mamba2<SsdPolicy{.rope = true, .norm = true, .gate = Gate::silu}>;

template <class Mixer, class T, int P, class Device>
Mamba2Result run(Device& device, const Mamba2Harness<Mixer, T, P>& harness,
                 const std::vector<std::int64_t>& cuts = {}) {
  return harness.run(
      device, [](Device& on, const Mamba2Arguments<T>& call) { rf::cuda::mamba2_decode<Mixer, P>(on, call); },
      cuts);
}

template <class Mixer, class T, int P, class Device>
void check_decode(Device& device, const Mamba2Case& what, const std::vector<std::int64_t>& cuts = {}) {
  const Mamba2Harness<Mixer, T, P> harness(what);
  harness.check(run(device, harness, cuts));
}

TEST_CASE("Mamba2 decode: all widths and storage types") {
  TestDevice device;
  const std::vector<std::int64_t> few = {1, 0, 8, 3};
  check_decode<Converted, float, 16>(device, {.queries = 1, .lengths = few});
  check_decode<Normed, bf16, 16>(device, {.queries = 3, .lengths = few, .positions = {5, 0, 100}});
  check_decode<Normed, float, 32>(device, {.queries = 5, .lengths = few, .positions = {5, 0, 100}});
  check_decode<Converted, fp16, 32>(device, {.lengths = few, .aligned = false});
  check_decode<Normed, fp16, 64>(device, {.queries = 5, .lengths = few});
  check_decode<Converted, float, 64>(device, {.queries = 1, .lengths = few, .keeps_states = false});
  check_decode<Normed, float, 128>(device, {.queries = 1, .lengths = few});
  check_decode<Converted, bf16, 128>(device, {.queries = 6, .group_index = {2}, .lengths = {2}});
}

TEST_CASE("Mamba2 decode: any number of tokens, in calls cut anywhere") {
  TestDevice device;
  check_decode<Normed, float, 16>(device, {.lengths = {70, 0, 1, 33}});
  check_decode<Normed, float, 16>(device, {.lengths = {70, 0, 1, 33}}, {1, 2, 10, 33});
  check_decode<Converted, float, 16>(device, {.queries = 60, .group_index = {1}, .lengths = {20}});
}

TEST_CASE("Mamba2 decode: the same bits under every schedule") {
  const Mamba2Harness<Normed, bf16, 64> harness({.queries = 5, .group_index = {1}, .lengths = {3, 0, 9}});
  TestDevice in_order;
  const Mamba2Result first = run(in_order, harness);
  for (unsigned seed = 1; seed < 4; ++seed) {
    TestDevice device(SimulatorOptions{.seed = seed});
    const Mamba2Result again = run(device, harness);
    CHECK(again.y == first.y);
    CHECK(again.state == first.state);
  }
}

TEST_CASE("Mamba2 decode: step sizes and decays at both ends, huge and tiny activations") {
  TestDevice device;
  for (const double dt : {-45.0, -14.0, 50.0}) {
    Mamba2Harness<Converted, float, 16> harness({.lengths = {9, 7}});
    harness.set_steps([&](std::size_t, std::int64_t t) { return t % 3 == 0 ? dt : -1.0; });
    harness.check(run(device, harness));
  }
  Mamba2Harness<Converted, float, 16> fast({.lengths = {9}});
  for (float& x : fast.local(1)) x = 80.0f;
  fast.check(run(device, fast));
  check_decode<Normed, float, 16>(device, {.lengths = {9}, .scale = 1e4});
  check_decode<Converted, float, 16>(device, {.lengths = {9}, .scale = 1e-6});
}

TEST_CASE("Mamba2 decode: a NaN stays in its sequence") {
  TestDevice device;
  Mamba2Harness<Normed, float, 16> harness({.lengths = {2, 3, 1}});
  const Mamba2Result clean = run(device, harness);
  harness.projected(harness.sequences()[1].first_row, 0)[0] = std::numeric_limits<float>::quiet_NaN();
  const Mamba2Result got = run(device, harness);
  CHECK(std::isnan(got.y[2][0]));
  for (const std::size_t i : {0u, 1u, 4u, 5u}) {
    CHECK(got.y[i] == clean.y[i]);
    CHECK(got.state[i] == clean.state[i]);
  }
}

TEST_CASE("Mamba2: decoding goes on where prefill stopped") {
  TestDevice device;
  const Mamba2Harness<Normed, bf16, 16> harness({.lengths = {70, 66, 1}});
  harness.check(harness.run(device,
                            [](TestDevice& on, const Mamba2Arguments<bf16>& call) {
                              if (call.longest > 8)
                                rf::cuda::mamba2_prefill<Normed, 16>(
                                    on, call, {.segments = 1, .segment_rows = 128}, nullptr);
                              else
                                rf::cuda::mamba2_decode<Normed, 16>(on, call);
                            },
                            {65, 66, 68}));
}

}  // namespace
