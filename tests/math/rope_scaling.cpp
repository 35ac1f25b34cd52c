// Against closed forms; tests/checkpoint/golden_models.cpp compares whole models with `transformers`.

#include "recurformer/math/rope_scaling.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <numbers>

#include "../support/error_message.hpp"

namespace {

using rf::RopeRule;
using rf::RopeScaling;

constexpr int d_head = 64;
constexpr double base = 10000;

double plain(int pair) { return std::pow(base, -2.0 * pair / d_head); }

}  // namespace

TEST_CASE("rope scaling: plain and linear") {
  for (const int pair : {0, 5, 31}) {
    CHECK(rf::rope_frequency({}, pair, d_head, base) == plain(pair));
    CHECK(rf::rope_frequency({.rule = RopeRule::linear, .factor = 4}, pair, d_head, base) ==
          doctest::Approx(plain(pair) / 4));
  }
}

TEST_CASE("rope scaling: llama3 keeps short wavelengths, interpolates long ones, and is continuous") {
  const RopeScaling scaling{.rule = RopeRule::llama3, .factor = 8, .original_positions = 512};
  for (int pair = 0; pair < d_head / 2; ++pair) {
    CAPTURE(pair);
    const double turns = 512 * plain(pair) / (2 * std::numbers::pi);  // in the original context
    const double got = rf::rope_frequency(scaling, pair, d_head, base);
    if (turns >= 4)
      CHECK(got == doctest::Approx(plain(pair)));
    else if (turns <= 1)
      CHECK(got == doctest::Approx(plain(pair) / 8));
    else  // 1/8 at one turn, 1 at four
      CHECK(got == doctest::Approx(plain(pair) * (1.0 / 8 + 7.0 / 8 * (turns - 1) / 3)));
  }
}

TEST_CASE("rope scaling: yarn's ramp runs over pairs") {
  RopeScaling scaling{.rule = RopeRule::yarn, .factor = 16, .original_positions = 512, .whole_pairs = false};
  // The pairs that turn 32 times and once in 512 positions.
  const auto pair_of = [](double turns) {
    return d_head * std::log(512 / (turns * 2 * std::numbers::pi)) / (2 * std::log(base));
  };
  const double first = pair_of(32), last = pair_of(1);
  for (int pair = 0; pair < d_head / 2; ++pair) {
    CAPTURE(pair);
    const double interpolated = std::fmin(1, std::fmax(0, (pair - first) / (last - first)));
    CHECK(rf::rope_frequency(scaling, pair, d_head, base) ==
          doctest::Approx(plain(pair) * (1 - interpolated * 15 / 16)));
  }
  scaling.whole_pairs = true;
  CHECK(rf::rope_frequency(scaling, static_cast<int>(std::floor(first)), d_head, base) ==
        doctest::Approx(plain(static_cast<int>(std::floor(first)))));
  CHECK(rf::yarn_magnitude(1) == 1);
}

TEST_CASE("rope scaling: numbers that cannot be computed with are refused") {
  const auto error = [](const RopeScaling& scaling) {
    return rf::test::message_of<rf::ArgumentError>([&] { rf::validate(scaling); });
  };
  CHECK(error({.factor = 0}) == "no error");  // plain: nothing is used
  CHECK(error({.rule = RopeRule::linear, .factor = std::nan("")}) ==
        "rope_scaling: factor is nan; it must be at least 1");
  CHECK(error({.rule = RopeRule::yarn, .original_positions = 0}) ==
        "rope_scaling: original_positions is 0; it must be at least 1");
  CHECK(error({.rule = RopeRule::yarn, .beta_fast = 1, .beta_slow = 1}) ==
        "rope_scaling: beta_slow is 1 and beta_fast 1; the first must be positive and the second larger");
  CHECK(error({.rule = RopeRule::yarn, .magnitude = -1}) ==
        "rope_scaling: magnitude is -1; it must be positive");
}
