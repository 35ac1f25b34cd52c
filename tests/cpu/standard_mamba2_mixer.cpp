// MixerKernel<StandardMamba2<…>> against the recurrence in double, by the harness that all mixers share.

#include "recurformer/cpu/standard_mamba2_mixer.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "recurformer/core/precision.hpp"
#include "recurformer/reference/standard_mamba2.hpp"
#include "support/mixer_harness.hpp"

namespace {

using rf::HeadShape;
using rf::SsdShape;
using rf::StandardMamba2;

using Small = StandardMamba2<SsdShape{.d_state = 16}>;
// With more keys than values, few taps, and a group's channels in more than one call of the convolution.
using Wide = StandardMamba2<SsdShape{.d_state = 112, .d_conv = 2}>;

constexpr std::size_t dt_bias = 6;  // of the local parameters

/// States stored in 16 bits between calls.
struct SmallState : rf::Fp32 {
  using State = rf::bf16;
};

template <class Mixer, class Precision = rf::Fp32, int d_head = 16>
using Harness = rf::test::MixerHarness<Mixer, Precision, std::integer_sequence<int, d_head>>;

TEST_CASE("standard Mamba-2 forward equals the reference, however sequences are cut") {
  Harness<Small> harness({}, {.lengths = {19, 0, 1, 140}});
  harness.check_forward();
  harness.check_chunks({1, 2, 3, 33, 34, 40, 63, 64, 65, 139});
  harness.check_nan_isolation();
  harness.check_threads();
}

TEST_CASE("standard Mamba-2 forward with states wider than heads, and the other way round") {
  Harness<Wide>({}, {.shape = {.d_model = 8, .d_head = 16, .queries_per_group = 3}, .lengths = {5, 0, 70}})
      .check_forward();
  Harness<Small, rf::Fp32, 64> harness(
      {}, {.shape = {.d_model = 8, .d_head = 64, .queries_per_group = 2}, .lengths = {130, 7}});
  harness.check_forward();
  harness.check_threads();
}

TEST_CASE("standard Mamba-2: one group of many heads, and more threads than heads") {
  Harness<Small> many({}, {.shape = {.d_model = 8, .d_head = 16, .queries_per_group = 21},
                           .layer_groups = 1,
                           .groups = {0},
                           .lengths = {40, 3}});
  many.check_forward();
  many.check_threads();
  Harness<Small> one({}, {.shape = {.d_model = 8, .d_head = 16}, .groups = {2}, .lengths = {150}});
  rf::set_threads(5);
  one.check_forward();
  rf::set_threads(2);
}

TEST_CASE("standard Mamba-2: step sizes at both ends of softplus, and within limits") {
  for (const rf::StepLimits limits : {rf::StepLimits{}, rf::StepLimits{.least = 0.25, .most = 0.75}}) {
    CAPTURE(limits.least);
    Harness<Small> harness(
        {}, {.shape = {.d_model = 8, .d_head = 16, .queries_per_group = 2, .step_limits = limits},
             .lengths = {40, 3}});
    harness.check_forward();
    for (std::size_t i = 0; i < harness.local[dt_bias].size(); ++i)
      harness.local[dt_bias][i] = i % 2 == 0 ? 50.0f : -50.0f;
    harness.check_forward();
  }
}

TEST_CASE("standard Mamba-2: huge and tiny activations") {
  Harness<Small>({}, {.lengths = {40}, .scale = 30.0}).check_forward();
  Harness<Small>({}, {.lengths = {40}, .scale = 1e-6}).check_forward();
}

TEST_CASE("standard Mamba-2: what is stored in 16 bits is converted at the borders of calls") {
  Harness<Small, SmallState> harness({}, {.lengths = {19, 0, 1, 70}});
  harness.check_forward();
  harness.check_chunks({1, 3, 64, 65});
  Harness<Small> exact({}, {.lengths = {19, 0, 1, 70}});
  CHECK(rf::test::same_bits(harness.run_chunks({}), exact.run_chunks({})));  // nothing was stored in between
}

TEST_CASE("standard Mamba-2: gradients equal finite differences of the reference") {
  Harness<Small>({}, {.lengths = {3, 0, 1, 36}}).check_backward();
  Harness<Wide>({}, {.shape = {.d_model = 8, .d_head = 16, .queries_per_group = 3},
                     .layer_groups = 2,
                     .groups = {1},
                     .lengths = {4, 1}})
      .check_backward();
}

TEST_CASE("standard Mamba-2: gradients of many tokens and of limited step sizes") {
  // Several blocks of the convolution and chunks of the recurrence.
  Harness<Small>({}, {.shape = {.d_model = 8, .d_head = 16}, .groups = {1}, .lengths = {70}})
      .check_backward();
  Harness<Small> limited({}, {.shape = {.d_model = 8,
                                        .d_head = 16,
                                        .queries_per_group = 2,
                                        .step_limits = {.least = 0.3, .most = 0.8}},
                              .groups = {1},
                              .lengths = {12, 2}});
  for (float& bias : limited.local[dt_bias]) bias = 0.1f;  // steps on both sides of both limits
  limited.check_backward();
}

}  // namespace
