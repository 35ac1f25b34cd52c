// MixerKernel<Mamba2<…>> against the recurrence in double, by the harness that all mixers share.

#include "recurformer/cpu/mamba2_mixer.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "recurformer/core/precision.hpp"
#include "recurformer/reference/mamba2.hpp"
#include "support/mixer_harness.hpp"

namespace {

using rf::Gate;
using rf::Mamba2;
using rf::SsdPolicy;
using rf::test::MixerCase;

using Converted = Mamba2<>;
using Normed = Mamba2<SsdPolicy{.rope = true, .norm = true, .gate = Gate::silu}>;

/// States stored in 16 bits between calls.
struct SmallState : rf::Fp32 {
  using State = rf::bf16;
};

template <class Mixer, class Precision = rf::Fp32, int d_head = 16>
using Harness = rf::test::MixerHarness<Mixer, Precision, std::integer_sequence<int, d_head>>;

/// Overwrites the step sizes' pre-activations, the last column of every group.
template <class H>
void set_steps(H& harness, const rf::HeadShape& shape, auto&& f) {
  const auto width = static_cast<std::size_t>(projection_width(Converted{}, shape));
  for (std::size_t i = 0; i * width < harness.projected.size(); ++i)
    harness.projected[(i + 1) * width - 1] = f(i);
}

TEST_CASE("Mamba2: declared columns, cache and parameters") {
  const rf::HeadShape shape{.d_model = 8, .d_head = 16, .queries_per_group = 2};
  CHECK(projection_width(Converted{}, shape) == 6 * 16 + 1);
  CHECK(Converted{}.cache_fields(shape)[0].slice.size() == 17 * 16);
  CHECK(Converted{}.parameters(shape).size() == 10);
  CHECK(Normed{}.parameters(shape).size() == 11);
  CHECK(Normed{}.parameters(shape).back().name == "norm.weight");
  for (const auto& parameter : Normed{}.parameters(shape))
    CHECK(parameter.weight_decay == (parameter.role == rf::Role::projection));
}

TEST_CASE("Mamba2: initialisers give step sizes and decays in their documented ranges") {
  const rf::HeadShape shape{.d_model = 8, .d_head = 16};
  rf::Random random(3);
  for (int i = 0; i < 100; ++i) {
    std::array<float, 1> bias{}, a_log{};
    rf::initial::mamba2_dt_bias(bias, shape, random);
    rf::initial::mamba2_a_log(a_log, shape, random);
    const double step = rf::softplus(static_cast<double>(bias[0]));
    CHECK(step >= 0.99e-3);
    CHECK(step <= 1.01e-1);
    CHECK(a_log[0] >= 0.0f);
    CHECK(a_log[0] <= std::log(16.0f) + 1e-6f);
  }
}

TEST_CASE("Mamba2 forward, as converted") {
  Harness<Converted> harness({}, {.lengths = {19, 0, 1, 70}});
  harness.check_forward();
  harness.check_chunks({1, 33, 34, 40, 69});
  harness.check_nan_isolation();
  harness.check_threads();
}

TEST_CASE("Mamba2 forward with rotary positions, norm and silu") {
  Harness<Normed, rf::Fp32, 64> harness(
      {}, {.shape = {.d_model = 8, .d_head = 64, .queries_per_group = 3}, .lengths = {5, 0, 130}});
  harness.check_forward();
  harness.check_threads();
}

TEST_CASE("Mamba2 forward, one head and one sequence on more threads than states") {
  Harness<Converted> harness({}, {.shape = {.d_model = 8, .d_head = 16}, .groups = {2}, .lengths = {150}});
  rf::set_threads(5);
  harness.check_forward();
  rf::set_threads(2);
}

TEST_CASE("Mamba2: a layer of one KV group with several queries") {
  Harness<Converted> harness(
      {}, {.shape = {.d_model = 8, .d_head = 16, .queries_per_group = 5}, .layer_groups = 1, .groups = {0}});
  harness.check_forward();
  harness.check_threads();
}

TEST_CASE("Mamba2 forward: step sizes at both ends of softplus") {
  const MixerCase what{.lengths = {40, 7}};
  for (const float magnitude : {50.0f, 200.0f}) {
    Harness<Converted> harness({}, what);
    set_steps(harness, what.shape, [&](std::size_t i) { return i % 3 == 0 ? magnitude : -magnitude; });
    harness.check_forward();
  }
}

TEST_CASE("Mamba2 forward: huge and tiny activations") {
  Harness<Normed>({}, {.lengths = {40}, .scale = 30.0}).check_forward();
  Harness<Converted>({}, {.lengths = {40}, .scale = 1e-6}).check_forward();
}

TEST_CASE("Mamba2 forward: a state stored in 16 bits is converted at the borders of calls") {
  Harness<Converted, SmallState> harness({}, {.lengths = {19, 0, 1, 70}});
  harness.check_forward();
  harness.check_chunks({1, 3, 64, 65});
  Harness<Converted> exact({}, {.lengths = {19, 0, 1, 70}});
  CHECK(rf::test::same_bits(harness.run_chunks({}), exact.run_chunks({})));  // nothing was stored in between
}

TEST_CASE("Mamba2 backward, as converted") {
  Harness<Converted> harness({}, {.lengths = {3, 0, 1, 36}});
  harness.check_backward();
}

TEST_CASE("Mamba2 backward with rotary positions, norm and silu") {
  Harness<Normed> harness(
      {}, {.shape = {.d_model = 8, .d_head = 16, .queries_per_group = 1}, .lengths = {34, 0, 2}});
  harness.check_backward();
}

TEST_CASE("Mamba2 backward: step sizes at both ends of softplus") {
  const MixerCase what{.shape = {.d_model = 8, .d_head = 16}, .groups = {1}, .lengths = {20}};
  Harness<Converted> harness({}, what);
  set_steps(harness, what.shape, [](std::size_t i) { return i % 4 == 0 ? 20.0f : -30.0f; });
  harness.check_backward();
}

TEST_CASE("Mamba2: a width that was not instantiated is an error that lists the others") {
  rf::cpu::ForwardArguments arguments;
  arguments.shape = {.d_model = 8, .d_head = 32};
  using Widths = std::integer_sequence<int, 16>;
  CHECK_THROWS_WITH_AS((rf::cpu::MixerKernel<Converted>::forward<rf::Fp32, Widths>({}, arguments)),
                       "d_head 32 was not instantiated; this build has 16", rf::ArgumentError);
}

}  // namespace
