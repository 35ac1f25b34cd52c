#include "recurformer/cuda/mamba_prefill.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
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

// Converted heads are the default. Standard Mamba, with every size unlike the default one.
using Converted = Mamba<>;
using Standard = Mamba<ScanShape{.d_state = 11, .d_conv = 3, .dt_rank = 5}, rf::standard_mamba>;

template <class Mixer, class T, int d_head, class Device>
void check_prefill(Device& device, const MambaCase& what, const std::vector<int>& chunk_rows) {
  const MambaHarness<Mixer, T, d_head> harness(what);
  const MambaResult expected = harness.reference();
  for (const int rows : chunk_rows) {
    CAPTURE(rows);
    harness.check(harness.prefill(device, rows), expected);
  }
}

TEST_CASE_TEMPLATE("Mamba on CUDA: prefill equals the reference under every schedule", T, float, bf16, fp16) {
  for (const auto& schedule : rf::test::schedules()) {
    CAPTURE(schedule.seed);
    TestDevice device(schedule);
    check_prefill<Converted, T, 16>(device, {}, {0, 16});
    check_prefill<Standard, T, 16>(device, {.lengths = {33, 2}, .groups = {1}}, {0, 20});
  }
}

TEST_CASE("Mamba on CUDA: chunks of every length around a tile's, many and few") {
  TestDevice device({.seed = 4});
  check_prefill<Converted, float, 16>(device, {.lengths = {1, 2, 0}},
                                      {0});  // less than the convolution's past
  check_prefill<Converted, float, 16>(device, {.lengths = {67, 32}, .groups = {0}, .heads_per_group = 1},
                                      {3, 5, 31, 32, 33, 66, 67, 68});
}

TEST_CASE_TEMPLATE("Mamba on CUDA: numbers of states", Mixer, Mamba<ScanShape{.d_state = 1, .d_conv = 2}>,
                   Mamba<ScanShape{.d_state = 8}>, Mamba<ScanShape{.d_state = 18, .d_conv = 5}>,
                   Mamba<ScanShape{.d_state = 64}>, Mamba<ScanShape{.d_state = 100}>) {
  TestDevice device({.seed = 5});
  check_prefill<Mixer, float, 16>(device, {.lengths = {37, 5}, .groups = {1}, .heads_per_group = 1}, {0, 12});
}

template <class Mixer, class T, int d_head, class Device>
void check_width(Device& device) {
  check_prefill<Mixer, T, d_head>(
      device, {.lengths = {35, 1}, .groups = {0}, .layer_groups = 1, .heads_per_group = 1}, {0, 16});
}

TEST_CASE("Mamba on CUDA: widths of heads") {
  TestDevice device({.seed = 6});
  check_width<Standard, float, 32>(device);
  check_width<Converted, bf16, 64>(device);
  check_width<Standard, fp16, 80>(device);
  check_width<Converted, float, 96>(device);
  check_width<Converted, bf16, 128>(device);
  check_width<Standard, bf16, 256>(device);
}

/// Cut anywhere, in pieces that are prefilled or decoded, the result is that of the whole.
template <class Mixer, class Device>
void check_pieces(Device& device) {
  const MambaHarness<Mixer, float, 16> harness({.lengths = {50, 0, 3, 21}, .groups = {1}});
  const MambaResult expected = harness.reference();
  harness.check(harness.run(device, {1, 2, 10, 11, 33}), expected);
  harness.check(harness.run(device, {20, 40}, 5), expected);
}

TEST_CASE("Mamba on CUDA: sequences in pieces") {
  TestDevice device({.seed = 7});
  check_pieces<Converted>(device);
  check_pieces<Standard>(device);
}

template <class Device>
void check_without_states(Device& device) {
  const MambaHarness<Converted, float, 16> harness({.lengths = {40, 2}, .groups = {1}, .started = false});
  const MambaResult expected = harness.reference();
  for (const int rows : {0, 16}) {
    const MambaResult got = harness.run(device, {}, rows, false);
    rf::test::check_float(got.out, expected.out);
    for (const double value : got.scan) CHECK(value == 0);  // where it would have been kept
  }
}

TEST_CASE("Mamba on CUDA: without states sequences start at zero and nothing is kept") {
  TestDevice device;
  check_without_states(device);
}

template <class Device>
void check_nan_isolation(Device& device) {
  const MambaCase what{.lengths = {18, 40, 1, 9}, .groups = {2}, .heads_per_group = 1};
  MambaHarness<Converted, bf16, 16> harness(what);
  const std::size_t d = harness.d;
  for (const int rows : {0, 16}) {
    MambaHarness<Converted, bf16, 16> poisoned(harness);
    for (std::size_t i = 18 * harness.stride(); i < 58 * harness.stride(); ++i)
      poisoned.projected[i] = bf16(std::numeric_limits<float>::quiet_NaN());
    const MambaResult clean = harness.prefill(device, rows), got = poisoned.prefill(device, rows);
    std::size_t different = 0, kept = 0;
    for (std::size_t i = 0; i < clean.out.size(); ++i)
      if (i / d < 18 || i / d >= 58)
        different += got.out[i] != clean.out[i];
      else
        kept += !std::isnan(got.out[i]);
    for (std::size_t i = 0; i < clean.scan.size(); ++i)
      if (i / harness.scan_size != 1) different += got.scan[i] != clean.scan[i];
    CHECK(different == 0);
    CHECK(kept == 0);
  }
}

TEST_CASE("Mamba on CUDA: NaNs of one sequence do not reach another") {
  TestDevice device({.seed = 8});
  check_nan_isolation(device);
}

TEST_CASE("Mamba on CUDA: the same plan gives the same bits under any schedule") {
  const MambaHarness<Converted, bf16, 16> harness({.lengths = {40, 17}, .groups = {1}});
  TestDevice first;
  for (const int rows : {0, 16}) {
    const MambaResult expected = harness.prefill(first, rows);
    for (const auto& schedule : rf::test::schedules()) {
      TestDevice device(schedule);
      CHECK(rf::test::same_bits(harness.prefill(device, rows), expected));
    }
  }
}

TEST_CASE("Mamba on CUDA: more sequences than a warp has lanes, most of them short or empty") {
  MambaCase what{.lengths = {}, .groups = {0}, .layer_groups = 1, .heads_per_group = 1};
  for (int s = 0; s < 70; ++s) what.lengths.push_back(s % 3 == 0 ? 0 : s % 7 == 0 ? 9 : 1);
  TestDevice device({.seed = 9});
  check_prefill<Mamba<ScanShape{.d_state = 4}>, float, 16>(device, what, {0, 4});
}

/// dt_proj.bias is local parameter 5, dt_proj.weight 4.
template <class Device>
void check_step_sizes(Device& device) {
  MambaHarness<Converted, float, 16> harness(
      {.lengths = {60, 3}, .groups = {1}, .heads_per_group = 1, .scale = 30.0});
  for (std::size_t i = 0; i < harness.local[5].size(); ++i)
    harness.local[5][i] = i % 3 == 0 ? 50.0f : i % 3 == 1 ? -50.0f : 0.5f;
  for (float& weight : harness.local[4]) weight *= 0.01f;  // so that the inputs do not undo it
  const MambaResult expected = harness.reference();
  harness.check(harness.prefill(device), expected);
  harness.check(harness.prefill(device, 16), expected);
}

TEST_CASE("Mamba on CUDA: step sizes from e^-50 to 50, huge and tiny inputs") {
  TestDevice device({.seed = 10});
  check_step_sizes(device);
  const MambaCase tiny{.lengths = {40}, .groups = {1}, .heads_per_group = 1, .scale = 1e-6};
  check_prefill<Converted, float, 16>(device, tiny, {0, 16});
}

TEST_CASE("Mamba on CUDA: a state that decays by less than a float's precision per token survives chunks") {
  TestDevice device({.seed = 11});
  const MambaCase slow{.lengths = {300}, .groups = {1}, .heads_per_group = 1, .slowest = 1e-6};
  check_prefill<Mamba<ScanShape{.d_state = 4}>, float, 16>(device, slow, {0, 32});
}

TEST_CASE("Mamba on CUDA: plans cut time only where heads and sequences leave multiprocessors idle") {
  using rf::SequenceRows;
  using rf::cuda::mamba::plan_chunks;
  const std::vector<SequenceRows> one = {{.first_row = 0, .rows = 16384}};
  CHECK(plan_chunks(one, 1000, 528).chunks == 1);
  CHECK(!plan_chunks(one, 1000, 528).several);
  const auto cut = plan_chunks(one, 8, 528);
  CHECK(cut.several);
  CHECK(cut.chunks > 16);
  CHECK(cut.chunks == (16384 + cut.chunk_rows - 1) / cut.chunk_rows);
  const std::vector<SequenceRows> brief = {{.first_row = 0, .rows = 50}, {.first_row = 50, .rows = 0}};
  CHECK(plan_chunks(brief, 8, 528).chunks == 1);
  const std::vector<SequenceRows> none = {{.first_row = 0, .rows = 0}};
  CHECK(plan_chunks(none, 8, 528).chunks == 0);
  using Head = rf::cuda::mamba::DimensionsOf<Converted, 16>;
  CHECK(rf::cuda::mamba::workspace_bytes<Head>(plan_chunks(brief, 8, 528), 8) == 0);
  CHECK(rf::cuda::mamba::workspace_bytes<Head>(rf::cuda::mamba::plan_with_chunks(brief, 20), 8) ==
        std::size_t{3 * 8 * 17 * 16 * 4});
}

TEST_CASE("Mamba on CUDA: rows that are not aligned are refused; empty batches are not") {
  using namespace rf::cuda::mamba;
  using Head = DimensionsOf<Converted, 16>;
  TestDevice device;
  const Plan plan{.chunk_rows = 16, .chunks = 1};
  CHECK_THROWS_WITH_AS(
      prefill<Head>(device, plan, Arguments<bf16>{.projected = {nullptr, 33}}, nullptr),
      "Mamba: the projected rows must start at multiples of 16 bytes; pad their stride of 33 "
      "elements",
      rf::ArgumentError);
  CHECK_THROWS_AS(
      prefill<Head>(device, Plan{.chunk_rows = 2, .chunks = 2, .several = true}, Arguments<bf16>{}, nullptr),
      rf::ArgumentError);
  CHECK_NOTHROW(prefill<Head>(device, Plan{}, Arguments<bf16>{}, nullptr));
  const MambaHarness<Converted, bf16, 16> empty({.lengths = {0, 0}});
  CHECK(empty.prefill(device).out.empty());
}

}  // namespace
