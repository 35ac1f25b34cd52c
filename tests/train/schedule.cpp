#include "recurformer/train/schedule.hpp"

#include <doctest/doctest.h>

TEST_CASE("the learning rate rises linearly, then falls along half a cosine to its floor") {
  const rf::WarmupCosine rate{.steps = 101, .warmup = 10, .floor = 0.1};
  CHECK(rate(0) == doctest::Approx(0.1));
  CHECK(rate(9) == doctest::Approx(1.0));
  CHECK(rate(10) == doctest::Approx(1.0));
  CHECK(rate(55) == doctest::Approx(0.1 + 0.9 * 0.5));
  CHECK(rate(100) == doctest::Approx(0.1));
  for (int step = 11; step <= 100; ++step) CHECK(rate(step) < rate(step - 1));
}

TEST_CASE("short runs have a rate in every step") {
  CHECK(rf::WarmupCosine{.steps = 1, .warmup = 0}(0) == 1.0);
  CHECK(rf::WarmupCosine{.steps = 2, .warmup = 5}(1) == doctest::Approx(0.4));
  CHECK(rf::WarmupCosine{.steps = 3, .warmup = 2}(2) == 1.0);
}
