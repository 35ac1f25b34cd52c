#include "recurformer/cpu/mamba_mixer.hpp"

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "recurformer/core/precision.hpp"
#include "recurformer/reference/mamba.hpp"
#include "support/mixer_harness.hpp"

namespace {

using rf::Fp32;
using rf::Mamba;
using rf::test::MixerHarness;
using Widths = std::integer_sequence<int, 16, 80>;

// Converted heads are the default. Standard Mamba, with every size unlike the default one: states that do not
// fill a vector and are no multiple of a pass, few taps, a given rank.
using Converted = Mamba<>;
using Standard = Mamba<rf::ScanShape{.d_state = 11, .d_conv = 3, .dt_rank = 5}, rf::standard_mamba>;
// More states than one pass over time holds.
using Large = Mamba<rf::ScanShape{.d_state = 18, .d_conv = 2}>;

/// States stored in bfloat16 between calls.
struct SmallState {
  using Weight = float;
  using Cache = float;
  using State = rf::bf16;
  using Accumulator = float;
  static constexpr std::string_view name = "small state";
};
static_assert(rf::Precision<SmallState>);

template <class Mixer>
using Harness = MixerHarness<Mixer, Fp32, Widths>;

TEST_CASE_TEMPLATE("Mamba: forward equals the reference, however sequences are cut", Mixer, Converted,
                   Standard, Large) {
  Harness<Mixer>(Mixer{}, {}).check_forward();
  Harness<Mixer>(Mixer{},
                 {.shape = {.d_model = 8, .d_head = 80}, .groups = {3, 0}, .lengths = {1, 70, 0, 129}})
      .check_forward();
}

TEST_CASE_TEMPLATE("Mamba: gradients equal finite differences of the reference", Mixer, Converted, Standard,
                   Large) {
  Harness<Mixer>(Mixer{}, {.groups = {1}, .lengths = {18, 0, 3}}).check_backward();
}

TEST_CASE("Mamba: chunks of every length up to the convolution's, and around the block's") {
  Harness<Converted> harness(Converted{}, {.lengths = {140, 7}});
  for (std::int64_t step = 1; step <= 5; ++step) {
    std::vector<std::int64_t> borders;
    for (std::int64_t at = step; at < 12; at += step) borders.push_back(at);
    harness.check_chunks(borders);
  }
  harness.check_chunks({63, 64, 65, 128, 129});
}

TEST_CASE("Mamba: the same bits for any number of threads; sequences do not see each other") {
  Harness<Converted> harness(Converted{}, {.lengths = {70, 0, 3, 12}});
  harness.check_threads();
  harness.check_nan_isolation();
  // One head and more threads than heads: its channels are split.
  Harness<Standard> split(Standard{},
                          {.shape = {.d_model = 8, .d_head = 80}, .groups = {2}, .lengths = {130}});
  split.check_threads();
}

TEST_CASE("Mamba: a layer of one KV group with several queries") {
  Harness<Converted> harness(
      {}, {.shape = {.d_model = 8, .d_head = 16, .queries_per_group = 5}, .layer_groups = 1, .groups = {0}});
  harness.check_forward();
  harness.check_threads();
}

TEST_CASE("Mamba: step sizes from e^-50 to 50 and huge inputs") {
  Harness<Converted> harness(Converted{}, {.groups = {1}, .lengths = {20, 3}, .scale = 30.0});
  // local parameters: conv weight, conv bias, x_proj weight and bias, dt_proj weight and bias, …
  std::vector<float>& dt_bias = harness.local[5];
  for (std::size_t i = 0; i < dt_bias.size(); ++i)
    dt_bias[i] = i % 3 == 0 ? 50.0f : i % 3 == 1 ? -50.0f : 0.5f;
  for (float& weight : harness.local[4]) weight *= 0.01f;  // so that the inputs do not undo it
  harness.check_forward();
  harness.check_backward();
}

TEST_CASE("Mamba: states stored in bfloat16 between calls") {
  MixerHarness<Converted, SmallState, Widths> harness(Converted{}, {.lengths = {12, 0, 70}});
  harness.check_forward();
  harness.check_chunks({1, 3, 64, 65});
}

TEST_CASE("Mamba: widths that nothing is instantiated for") {
  for (const int d_head : {48, 272}) {
    CAPTURE(d_head);
    const rf::HeadShape shape{.d_model = 8, .d_head = d_head};
    Harness<Standard>({}, {.shape = shape, .lengths = {1, 70, 0}}).check_forward();
    Harness<Standard>({}, {.shape = shape, .lengths = {20}}).check_threads();
  }
  Harness<Standard>({}, {.shape = {.d_model = 8, .d_head = 48}, .groups = {1}, .lengths = {18, 0, 3}})
      .check_backward();
}

}  // namespace
