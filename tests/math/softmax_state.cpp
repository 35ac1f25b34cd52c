#include "recurformer/math/softmax_state.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "recurformer/core/random.hpp"

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

/// The state of some scores, added one by one.
rf::SoftmaxState state_of(const std::vector<float>& scores) {
  rf::SoftmaxState state;
  for (const float score : scores) state = merge(state, {.maximum = score, .sum = 1.0f}).state;
  return state;
}

double exact_log_sum_exp(const std::vector<float>& scores) {
  double sum = 0;
  for (const float score : scores) sum += std::exp2(static_cast<double>(score) - 100.0);
  return std::log(sum) + 100.0 * std::log(2.0);
}

}  // namespace

TEST_CASE("softmax state: nothing seen") {
  const rf::SoftmaxState empty;
  CHECK(empty.sum == 0.0f);
  CHECK(log_sum_exp(empty) == -infinity);
  const rf::SoftmaxMerge both = merge(empty, empty);
  CHECK(both.state.maximum == -infinity);
  CHECK(both.state.sum == 0.0f);
  CHECK(both.left == 0.0f);
  CHECK(both.right == 0.0f);
}

TEST_CASE("softmax state: merging with an empty state changes nothing") {
  const rf::SoftmaxState state{.maximum = 3.0f, .sum = 1.5f};
  for (const rf::SoftmaxMerge& merged : {merge(state, {}), merge({}, state)}) {
    CHECK(merged.state.maximum == 3.0f);
    CHECK(merged.state.sum == 1.5f);
    CHECK(merged.left + merged.right == 1.0f);
  }
}

TEST_CASE("softmax state: any split of the scores gives the same log-sum-exp") {
  rf::Random random(7);
  std::vector<float> scores;
  for (int i = 0; i < 300; ++i) scores.push_back(static_cast<float>(100.0 + 20.0 * random.normal()));
  const double exact = exact_log_sum_exp(scores);
  for (const std::ptrdiff_t cut : {0, 1, 7, 150, 299, 300}) {
    const std::vector<float> left(scores.begin(), scores.begin() + cut),
        right(scores.begin() + cut, scores.end());
    const rf::SoftmaxState merged = merge(state_of(left), state_of(right)).state;
    CHECK(static_cast<double>(log_sum_exp(merged)) == doctest::Approx(exact).epsilon(1e-6));
  }
}

TEST_CASE("softmax state: outputs scaled by the factors are relative to the new maximum") {
  const rf::SoftmaxMerge merged = rf::merge({.maximum = 2.0f, .sum = 1.0f}, {.maximum = 5.0f, .sum = 1.0f});
  CHECK(merged.left == 0.125f);
  CHECK(merged.right == 1.0f);
  CHECK(merged.state.sum == 1.125f);
  // far apart: the smaller one vanishes, nothing overflows
  const rf::SoftmaxMerge far = rf::merge({.maximum = -3e38f, .sum = 1.0f}, {.maximum = 3e38f, .sum = 1.0f});
  CHECK(far.left == 0.0f);
  CHECK(far.state.sum == 1.0f);
}
