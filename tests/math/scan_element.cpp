#include "recurformer/math/scan_element.hpp"

#include <doctest/doctest.h>

#include <cstddef>
#include <vector>

#include "recurformer/core/random.hpp"

namespace {

using Element = rf::ScanElement<double>;

std::vector<Element> steps(std::size_t count) {
  rf::Random random(1);
  std::vector<Element> out(count);
  for (auto& step : out) step = {.decay = random.uniform(), .input = random.normal()};
  return out;
}

TEST_CASE("combining steps and applying them equals applying one after the other, wherever it is cut") {
  const auto all = steps(20);
  double state = 0.7;
  for (const auto& step : all) state = step.apply(state);
  for (std::size_t cut = 0; cut <= all.size(); ++cut) {
    Element left, right;
    for (std::size_t i = 0; i < all.size(); ++i)
      (i < cut ? left : right) = combine(i < cut ? left : right, all[i]);
    CHECK(combine(left, right).apply(0.7) == doctest::Approx(state).epsilon(1e-12));
  }
}

TEST_CASE("steps have a unit, are associative and do not commute") {
  const auto s = steps(3);
  CHECK(combine(Element{}, s[0]) == s[0]);
  CHECK(combine(s[0], Element{}) == s[0]);
  const Element left = combine(combine(s[0], s[1]), s[2]), right = combine(s[0], combine(s[1], s[2]));
  CHECK(left.decay == doctest::Approx(right.decay).epsilon(1e-14));
  CHECK(left.input == doctest::Approx(right.input).epsilon(1e-14));
  CHECK(combine(s[0], s[1]).input != doctest::Approx(combine(s[1], s[0]).input));
}

// Usable where kernels need it: in constant expressions and with float.
static_assert(combine(rf::ScanElement<float>{.decay = 0.5f, .input = 1.0f},
                      {.decay = 0.25f, .input = 2.0f}) ==
              rf::ScanElement<float>{.decay = 0.125f, .input = 2.25f});

}  // namespace
