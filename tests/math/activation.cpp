#include "recurformer/math/activation.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <initializer_list>
#include <limits>

namespace {

TEST_CASE("sigmoid saturates without overflow") {
  CHECK(rf::sigmoid(0.0) == 0.5);
  CHECK(rf::sigmoid(2.0) == doctest::Approx(1 / (1 + std::exp(-2.0))));
  CHECK(rf::sigmoid(1000.0) == 1.0);
  CHECK(rf::sigmoid(-1000.0) == 0.0);
  CHECK(rf::sigmoid(-1000.0f) == 0.0f);
}

TEST_CASE("softplus is exact where it is huge, tiny and in between") {
  CHECK(rf::softplus(0.0) == doctest::Approx(std::log(2.0)).epsilon(1e-15));
  CHECK(rf::softplus(50.0) == 50.0);
  CHECK(rf::softplus(1e4) == 1e4);
  CHECK(rf::softplus(-50.0) == doctest::Approx(std::exp(-50.0)).epsilon(1e-14));
  CHECK(rf::softplus(-1000.0) == 0.0);
  CHECK(rf::softplus(1.5f) == doctest::Approx(std::log1p(std::exp(1.5))).epsilon(1e-6));
  CHECK(std::isnan(rf::softplus(std::numeric_limits<double>::quiet_NaN())));
}

TEST_CASE("inverse_softplus inverts") {
  for (const double y : {1e-6, 1e-3, 0.1, 1.0, 30.0, 800.0})
    CHECK(rf::softplus(rf::inverse_softplus(y)) == doctest::Approx(y).epsilon(1e-10));
}

TEST_CASE("activations and gates") {
  using rf::Activation, rf::Gate;
  CHECK(rf::activate(Activation::none, -3.0) == -3.0);
  CHECK(rf::activate(Activation::silu, 2.0) == doctest::Approx(2 / (1 + std::exp(-2.0))));
  CHECK(rf::gate_value(Gate::silu, 2.0) == doctest::Approx(2 / (1 + std::exp(-2.0))));
  CHECK(rf::gate_value(Gate::two_sigmoid, 0.0) == 1.0);
  CHECK(rf::gate_value(Gate::two_sigmoid, 2.0) == doctest::Approx(2 / (1 + std::exp(-2.0))));
  CHECK(rf::gate_value(Gate::two_sigmoid, -1.0) == doctest::Approx(2 / (1 + std::exp(1.0))));
}

}  // namespace
