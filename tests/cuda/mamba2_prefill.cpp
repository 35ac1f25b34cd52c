// Mamba2's prefill on tensor cores against the recurrence in double.

#include "recurformer/cuda/mamba2_prefill.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <set>
#include <vector>

#include "cuda/mamba2_harness.hpp"
#include "support/test_device.hpp"

namespace {

using rf::bf16;
using rf::fp16;
using rf::Gate;
using rf::Mamba2;
using rf::SsdPolicy;
using rf::arch::CopyTiming;
using rf::arch::SimulatorOptions;
using rf::cuda::Mamba2Plan;
using rf::test::Mamba2Case;
using rf::test::Mamba2Harness;
using rf::test::Mamba2Result;
using rf::test::TestDevice;

using Converted = Mamba2<>;
using Normed = Mamba2<SsdPolicy{.rope = true, .norm = true, .gate = Gate::silu}>;

/// Cut into segments of so many chunks; 0: not cut, and without loading ahead.
template <class Mixer, class T, int P, class Device>
Mamba2Result run(Device& device, const Mamba2Harness<Mixer, T, P>& harness, int segment_chunks = 0,
                 const std::vector<std::int64_t>& cuts = {}) {
  return harness.run(
      device,
      [&](Device& on, const rf::cuda::Mamba2Arguments<T>& call) {
        const std::int64_t rows = segment_chunks > 0 ? segment_chunks * 64 : (call.longest + 63) / 64 * 64;
        const Mamba2Plan plan{.segments = rows > 0 ? static_cast<int>((call.longest + rows - 1) / rows) : 1,
                              .segment_rows = rows,
                              .stages = segment_chunks > 0 ? 2 : 1};
        rf::cuda::DeviceArray<unsigned char, Device> workspace(
            on, rf::cuda::mamba2_workspace_bytes<P>(plan, call.sequence_count, call.groups));
        rf::cuda::mamba2_prefill<Mixer, P>(on, call, plan, workspace.data());
      },
      cuts);
}

template <class Mixer, class T, int P, class Device>
void check_prefill(Device& device, const Mamba2Case& what, int segment_chunks = 0,
                   const std::vector<std::int64_t>& cuts = {}) {
  const Mamba2Harness<Mixer, T, P> harness(what);
  harness.check(run(device, harness, segment_chunks, cuts));
}

template <int Columns>
void check_banks() {
  using Tile = rf::cuda::SsdTile<bf16, Columns>;
  for (int row = 0; row < 16; row += 8)
    for (int piece = 0; piece < Columns / 8; ++piece) {
      unsigned banks = 0;  // of 16 bytes
      for (int i = 0; i < 8; ++i) banks |= 1u << (Tile::offset(row + i, piece) / 16 % 8);
      CHECK(banks == 0xff);
    }
  std::set<int> places;
  for (int row = 0; row < 64; ++row)
    for (int piece = 0; piece < Columns / 8; ++piece) places.insert(Tile::offset(row, piece));
  CHECK(places.size() == 8 * Columns);
  CHECK(*places.rbegin() == Tile::bytes(64) - 16);
}

TEST_CASE("SSD tiles: eight rows of one column lie in different banks") {
  check_banks<16>();
  check_banks<32>();
  check_banks<64>();
  check_banks<128>();
}

TEST_CASE("Mamba2 prefill: all widths") {
  TestDevice device;
  check_prefill<Converted, bf16, 16>(device, {.lengths = {65, 0, 1, 130}});
  check_prefill<Normed, fp16, 32>(device, {.lengths = {65, 0, 1, 16}});
  check_prefill<Normed, bf16, 64>(device, {.group_index = {1}, .lengths = {100}, .positions = {17}});
  check_prefill<Converted, fp16, 64>(device, {.queries = 1, .group_index = {2}, .lengths = {80}});
  check_prefill<Normed, bf16, 128>(device, {.queries = 1, .group_index = {2}, .lengths = {70}});
  check_prefill<Converted, fp16, 128>(device, {.queries = 3, .group_index = {2}, .lengths = {70}});
}

TEST_CASE("Mamba2 prefill: segments, and calls cut anywhere") {
  TestDevice device;
  check_prefill<Converted, bf16, 16>(device, {.lengths = {65, 0, 1, 64, 200}}, 1);
  check_prefill<Normed, fp16, 16>(device, {.lengths = {65, 0, 1, 300}}, 2);
  check_prefill<Converted, bf16, 16>(device, {.queries = 1, .group_index = {0}, .lengths = {3, 650}}, 1);
  check_prefill<Converted, bf16, 16>(device, {.lengths = {65, 0, 1, 200}}, 0, {1, 33, 64, 66});
  check_prefill<Normed, fp16, 16>(device, {.lengths = {65, 0, 1, 200}}, 1, {1, 130});
}

TEST_CASE("Mamba2 prefill: rows that are not aligned, and no cache") {
  TestDevice device;
  check_prefill<Normed, bf16, 16>(device, {.lengths = {66, 0, 5}, .aligned = false});
  check_prefill<Converted, fp16, 32>(device,
                                     {.lengths = {66, 0, 5}, .aligned = false, .keeps_states = false});
  check_prefill<Converted, bf16, 16>(device, {.lengths = {130, 3}, .keeps_states = false}, 1);
}

TEST_CASE("Mamba2 prefill: only what is read from the past") {
  TestDevice device;
  Mamba2Harness<Converted, bf16, 32> wide({.queries = 1, .group_index = {0}, .lengths = {130}});
  Mamba2Harness<Converted, fp16, 16> narrow({.lengths = {130, 10}});
  for (float& x : wide.local(4)) x = 0.0f;
  for (float& x : narrow.local(4)) x = 0.0f;
  wide.check(run(device, wide, 1));
  narrow.check(run(device, narrow));
}

TEST_CASE("Mamba2 prefill: the same bits under every schedule") {
  const Mamba2Harness<Normed, fp16, 16> one({.lengths = {40, 0, 70}});
  const Mamba2Harness<Converted, bf16, 32> other({.queries = 1, .group_index = {0}, .lengths = {70}});
  TestDevice in_order;
  const Mamba2Result first = run(in_order, one, 1), second = run(in_order, other, 0);
  for (const SimulatorOptions& options :
       {SimulatorOptions{.seed = 0, .copies = CopyTiming::early}, SimulatorOptions{.seed = 1},
        SimulatorOptions{.seed = 2, .copies = CopyTiming::late},
        SimulatorOptions{.seed = 3, .copies = CopyTiming::early}}) {
    TestDevice device(options);
    const Mamba2Result again = run(device, one, 1), and_again = run(device, other, 0);
    CHECK(again.y == first.y);
    CHECK(again.state == first.state);
    CHECK(and_again.y == second.y);
    CHECK(and_again.state == second.state);
  }
}

TEST_CASE("Mamba2 prefill: step sizes and decays at both ends") {
  TestDevice device;
  const Mamba2Case what{.group_index = {1}, .lengths = {100, 7}};
  const auto check = [&](auto dt, float a_log) {
    Mamba2Harness<Converted, bf16, 16> small(what);
    Mamba2Harness<Normed, fp16, 16> large(what);
    small.set_steps(dt), large.set_steps(dt);
    for (float& x : small.local(1)) x = a_log;
    for (float& x : large.local(1)) x = a_log;
    small.check(run(device, small));
    large.check(run(device, large));
  };
  SUBCASE("hardly any step") {
    check([](std::size_t, std::int64_t) { return -14.0; }, 0.0f);
  }
  SUBCASE("almost no step at all") {
    check([](std::size_t, std::int64_t) { return -45.0; }, 0.0f);
  }
  SUBCASE("nothing is remembered") {
    check([](std::size_t, std::int64_t) { return 50.0; }, 1.0f);
  }
  SUBCASE("small steps behind huge ones") {
    check([](std::size_t, std::int64_t t) { return t % 64 < 8 ? 3e4 : -2.0; }, 0.0f);
  }
  SUBCASE("a decay too fast for a float") {
    check([](std::size_t, std::int64_t t) { return t % 2 == 0 ? -1.0 : 0.5; }, 80.0f);
  }
  SUBCASE("hardly any decay") {
    check([](std::size_t, std::int64_t t) { return t % 2 == 0 ? -1.0 : 0.5; }, -40.0f);
  }
}

TEST_CASE("Mamba2 prefill: huge and tiny activations") {
  TestDevice device;
  check_prefill<Normed, bf16, 16>(device, {.lengths = {80}, .scale = 1e4});
  check_prefill<Normed, fp16, 16>(device, {.lengths = {80}, .scale = 60.0, .step_bias = 4.0});
  check_prefill<Converted, bf16, 16>(device, {.lengths = {80}, .scale = 1e-6});
  check_prefill<Converted, fp16, 16>(device, {.lengths = {80}, .scale = 1e-3});
}

TEST_CASE("Mamba2 prefill: a NaN stays in its sequence") {
  TestDevice device;
  Mamba2Harness<Converted, bf16, 16> harness({.lengths = {20, 70, 5}});
  const Mamba2Result clean = run(device, harness, 1);
  const rf::SequenceRows& poisoned = harness.sequences()[1];
  for (std::int64_t c = 0; c < 16; ++c)
    harness.projected(poisoned.first_row + 3, 0)[c] =
        rf::convert<bf16>(std::numeric_limits<float>::quiet_NaN());
  for (const int segment : {0, 1}) {
    const Mamba2Result got = run(device, harness, segment);
    CHECK(std::isnan(got.y[2][3 * 32]));
    for (const std::size_t i : {0u, 1u, 3u, 4u, 5u}) {
      CHECK(got.y[i] == clean.y[i]);
      CHECK(got.state[i] == clean.state[i]);
    }
  }
}

TEST_CASE("Mamba2 plan: one walk where there are enough, otherwise segments of whole chunks") {
  constexpr auto plan = [](int sequences, int groups, std::int64_t longest) {
    return rf::cuda::mamba2_plan<64>(132, 227 * 1024, sequences, groups, longest);
  };
  CHECK(plan(16, 10, 4096).segments == 1);
  CHECK(plan(16, 10, 4096).segment_rows == 4096);
  CHECK(plan(16, 10, 4096).stages == 2);
  CHECK(rf::cuda::mamba2_plan<128>(84, 99 * 1024, 16, 10, 4096).stages == 1);
  CHECK(plan(1, 10, 1).segments == 1);
  CHECK(plan(1, 10, 64).segment_rows == 64);
  CHECK(plan(0, 10, 0).segments == 1);
  for (const std::int64_t longest : {65, 1000, 4096, 100000})
    for (const int groups : {1, 3, 10, 131}) {
      const Mamba2Plan cut = plan(1, groups, longest);
      CHECK(cut.segment_rows % 64 == 0);
      CHECK(cut.segments * cut.segment_rows >= longest);
      CHECK((cut.segments - 1) * cut.segment_rows < longest);
      CHECK(cut.segments * groups <= 264);
    }
  TestDevice device;
  const rf::cuda::Mamba2Arguments<bf16> call{.sequence_count = 1, .longest = 100, .groups = 1};
  const auto refuses = [&](const Mamba2Plan& wrong, const char* why) {
    CHECK_THROWS_WITH_AS((rf::cuda::mamba2_prefill<Converted, 16>(device, call, wrong, nullptr)), why,
                         rf::ArgumentError);
  };
  refuses({.segments = 1, .segment_rows = 100},
          "mamba2_prefill: segment_rows is 100; it must be a multiple of 64");
  refuses({.segments = 1, .segment_rows = 64},
          "mamba2_prefill: 1 segments of 64 rows do not cover the longest sequence's 100");
  refuses({.segments = 2, .segment_rows = 64},
          "mamba2_prefill: a plan of several segments needs mamba2_workspace_bytes of workspace");
  CHECK(rf::cuda::mamba2_workspace_bytes<64>({.segments = 3, .segment_rows = 64}, 2, 5) ==
        3 * 2 * 5 * (65 * 64 + 1) * 4);
}

}  // namespace
