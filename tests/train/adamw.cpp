#include "recurformer/train/adamw.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "recurformer/core/random.hpp"

namespace {

rf::ParameterRef ref(std::vector<float>& values, bool decay = true) {
  return {.name = "w",
          .data = values.data(),
          .size = static_cast<std::int64_t>(values.size()),
          .weight_decay = decay};
}

/// Values between guards, where a vector that reaches too far shows.
template <class T>
struct Guarded {
  static constexpr std::size_t width = 16;

  Guarded(std::size_t size, T of_guards) : guard(of_guards), all(size + 2 * width, guard) {}
  std::span<T> values() { return std::span(all).subspan(width, all.size() - 2 * width); }
  bool guards_alive() const {
    return std::count(all.begin(), all.begin() + width, guard) == width &&
           std::count(all.end() - width, all.end(), guard) == width;
  }

  T guard;
  std::vector<T> all;
};

/// Three blocks of the loops, which are cut at 16384 elements for threads; no vector width divides the last.
constexpr std::size_t several_blocks = 2 * 16384 + 7007;

Guarded<float> random_values(std::size_t size, std::uint64_t seed, float guard) {
  Guarded<float> out(size, guard);
  rf::Random random(seed);
  for (float& value : out.values()) value = static_cast<float>(random.normal());
  return out;
}

/// What `f` returns with one thread; with three it has to be the same.
template <class F>
auto on_any_threads(F&& f) {
  rf::set_threads(1);
  const auto alone = f();
  rf::set_threads(3);
  CHECK((f() == alone));
  rf::set_threads(2);
  return alone;
}

}  // namespace

TEST_CASE("a tensor of several blocks is updated whole, and nothing beside it, on any number of threads") {
  constexpr float canary = 1234.5f;
  const rf::cpu::AdamwStep step{.rate = 1e-2f, .decay = 0.1f, .gradient_scale = 0.5f};
  auto g = random_values(several_blocks, 1, std::nanf(""));
  const auto start = random_values(several_blocks, 2, canary);
  const auto [weights, rounded] = on_any_threads([&] {
    auto w = start;
    Guarded<float> m(several_blocks, canary), v(several_blocks, canary);
    Guarded<rf::bf16> stored(several_blocks, rf::bf16(canary));
    for (auto* moment : {&m, &v}) std::fill(moment->values().begin(), moment->values().end(), 0.0f);
    rf::cpu::adamw(step, several_blocks, g.values().data(), w.values().data(), m.values().data(),
                   v.values().data(), stored.values().data());
    for (const auto* array : {&w, &m, &v}) CHECK(array->guards_alive());
    CHECK(stored.guards_alive());
    return std::pair(w.all, stored.all);
  });
  std::size_t wrong = 0, unrounded = 0;
  for (std::size_t i = g.width; i < g.width + several_blocks; ++i) {
    const double gradient = 0.5 * static_cast<double>(g.all[i]), old = static_cast<double>(start.all[i]);
    const double direction = 0.1 * gradient / (std::sqrt(0.05 * gradient * gradient) + 1e-8);
    const double error = static_cast<double>(weights[i]) - (old - 1e-2 * (direction + 0.1 * old));
    wrong += std::abs(error) < 1e-6 ? 0u : 1u;
    unrounded += rounded[i] == rf::bf16(weights[i]) ? 0u : 1u;
  }
  CHECK(wrong == 0);
  CHECK(unrounded == 0);
}

TEST_CASE(
    "the sum of squares takes every element of several blocks, with the same bits on any number of threads") {
  auto g = random_values(several_blocks, 3, std::nanf(""));
  const double sum =
      on_any_threads([&] { return rf::cpu::sum_of_squares(g.values().data(), several_blocks); });
  double expected = 0;
  for (const float value : g.values()) expected += static_cast<double>(value) * static_cast<double>(value);
  CHECK(sum == doctest::Approx(expected).epsilon(1e-6));
}

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
