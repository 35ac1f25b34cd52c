#include "recurformer/train/adamw.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "recurformer/core/random.hpp"

namespace {

rf::ParameterRef ref(std::vector<float>& values, bool decay = true) {
  return {.name = "w",
          .data = values.data(),
          .size = static_cast<std::int64_t>(values.size()),
          .weight_decay = decay};
}

}  // namespace

TEST_CASE("steps follow the formula of AdamW, for sizes that fill no vector") {
  for (const std::size_t size : {1u, 7u, 16u, 33u}) {
    std::vector<float> weights(size), gradient(size);
    std::vector<double> expected(size), first(size), second(size);
    rf::Random random(size);
    for (std::size_t i = 0; i < size; ++i) expected[i] = weights[i] = static_cast<float>(random.normal());
    rf::Adamw optimizer({ref(weights)}, {.weight_decay = 0.1, .clip = 0});
    for (int t = 1; t <= 5; ++t) {
      for (auto& g : gradient) g = static_cast<float>(random.normal());
      const double rates[] = {1e-2};
      const rf::ParameterRef gradients[] = {ref(gradient)};
      optimizer.step(gradients, rates);
      for (std::size_t i = 0; i < size; ++i) {
        const double g = gradient[i];
        first[i] = 0.9 * first[i] + 0.1 * g;
        second[i] = 0.95 * second[i] + 0.05 * g * g;
        const double direction =
            first[i] / (1 - std::pow(0.9, t)) / (std::sqrt(second[i] / (1 - std::pow(0.95, t))) + 1e-8);
        expected[i] -= 1e-2 * (direction + 0.1 * expected[i]);
      }
    }
    for (std::size_t i = 0; i < size; ++i) CHECK(weights[i] == doctest::Approx(expected[i]).epsilon(1e-5));
  }
}

TEST_CASE("the gradient is clipped by its global norm, over parameters that move") {
  std::vector<float> a(3, 0.0f), b(4, 0.0f), frozen(2, 1.0f);
  std::vector<float> da(3, 3.0f), db(4, 4.0f), d_frozen(2, 1e6f);
  rf::Adamw optimizer({ref(a), ref(b, false), ref(frozen)}, {.clip = 1.0});
  const rf::ParameterRef gradients[] = {ref(da), ref(db), ref(d_frozen)};
  const double rates[] = {1e-3, 1e-3, 0.0};
  CHECK(optimizer.step(gradients, rates) == doctest::Approx(std::sqrt(27.0 + 64.0)));
  CHECK(frozen == std::vector<float>(2, 1.0f));
  CHECK(optimizer.state()[1].values[0] == doctest::Approx(0.1 * 3.0 / std::sqrt(91.0)));
}

TEST_CASE("parameters stored in bf16 keep a float master: steps below their resolution add up") {
  std::vector<rf::bf16> stored(20, rf::bf16(1.0f));
  std::vector<float> gradient(20, 1.0f);
  const rf::ParameterRef parameter{.name = "w", .dtype = rf::DType::BF16, .data = stored.data(), .size = 20};
  rf::Adamw optimizer({parameter}, {.weight_decay = 0, .clip = 0});
  const double rates[] = {1e-4};
  const rf::ParameterRef gradients[] = {ref(gradient)};
  for (int step = 0; step < 100; ++step) optimizer.step(gradients, rates);
  CHECK(optimizer.state()[0].values[19] == doctest::Approx(0.99).epsilon(1e-4));
  CHECK(stored[19] == rf::bf16(optimizer.state()[0].values[19]));
}

TEST_CASE("a gradient that is not finite stops the run before it harms the weights") {
  std::vector<float> weights(4, 1.0f), gradient(4, std::numeric_limits<float>::quiet_NaN());
  rf::Adamw optimizer({ref(weights)}, {});
  const double rates[] = {1e-3};
  const rf::ParameterRef gradients[] = {ref(gradient)};
  CHECK_THROWS_WITH_AS(optimizer.step(gradients, rates),
                       "the gradient's norm is not finite at step 1; lower the learning rate",
                       rf::ArgumentError);
  CHECK(weights == std::vector<float>(4, 1.0f));
}
