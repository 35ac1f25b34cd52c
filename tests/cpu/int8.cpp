#include "recurformer/cpu/int8.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "recurformer/core/random.hpp"

namespace {

constexpr int count = 64;
constexpr float largest_float = std::numeric_limits<float>::max();

/// What quantising makes of a group.
struct Group {
  explicit Group(const std::array<float, count>& numbers)
      : scale(rf::cpu::quantise<count>(numbers.data(), q)) {}
  double value(std::size_t i) const { return static_cast<double>(scale) * q[i]; }

  std::int8_t q[count];
  float scale;
};

std::array<float, count> normals(double deviation, std::uint64_t seed) {
  rf::Random random(seed);
  std::array<float, count> out;
  for (float& value : out) value = static_cast<float>(deviation * random.normal());
  return out;
}

/// The largest error in units of the scale that the group should have.
double worst_error(const std::array<float, count>& numbers) {
  const Group group(numbers);
  double largest = 0, worst = 0;
  for (const float x : numbers) largest = std::max(largest, std::abs(static_cast<double>(x)));
  for (std::size_t i = 0; i < count; ++i)
    worst = std::max(worst, std::abs(static_cast<double>(numbers[i]) - group.value(i)));
  return worst / (largest / 127);
}

}  // namespace

TEST_CASE("int8: the error is at most half a step, whatever the magnitude") {
  for (const double deviation : {1.0, 1e-3, 1e-33, 1e37})
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      CAPTURE(deviation);
      const double error = worst_error(normals(deviation, seed));
      CHECK(error < 0.5001);
      CHECK(error > 0.4);  // of 64 numbers, some are near the middle of a step
    }
}

TEST_CASE("int8: the largest number is 127 steps, zeros stay zeros, signs are kept") {
  std::array<float, count> numbers = normals(1, 1), negative;
  numbers[5] = numbers[17] = 0;
  numbers[30] = -7;
  std::transform(numbers.begin(), numbers.end(), negative.begin(), [](float x) { return -x; });
  const Group group(numbers), mirrored(negative);
  CHECK(group.scale == 7.0f / 127);
  CHECK(group.q[30] == -127);
  CHECK(group.q[5] == 0);
  CHECK(group.q[17] == 0);
  CHECK(mirrored.scale == group.scale);
  for (std::size_t i = 0; i < count; ++i) CHECK(mirrored.q[i] == -group.q[i]);
}

TEST_CASE("int8: integers that fit are exact, and middles go to the even one") {
  std::array<float, count> numbers;
  for (std::size_t i = 0; i < count; ++i)
    numbers[i] = static_cast<float>(2 * static_cast<int>(i) - 63) * 0.25f;
  numbers[0] = 127 * 0.25f;  // the scale is 1/4
  numbers[1] = 0.625f;       // 2.5 steps
  numbers[2] = -0.875f;      // -3.5
  const Group group(numbers);
  CHECK(group.scale == 0.25f);
  CHECK(group.q[1] == 2);
  CHECK(group.q[2] == -4);
  for (std::size_t i = 3; i < count; ++i) CHECK(group.value(i) == static_cast<double>(numbers[i]));
}

TEST_CASE("int8: a group of zeros, or of numbers too small for a scale, is zeros") {
  std::array<float, count> numbers{};
  for (const float tiny : {0.0f, -0.0f, 1e-45f, -1e-38f, 1.4e-36f}) {
    numbers[9] = tiny;
    const Group group(numbers);
    CHECK(group.scale == 0);
    CHECK(std::all_of(group.q, group.q + count, [](int q) { return q == 0; }));
  }
  numbers[9] = 1.6e-36f;
  CHECK(worst_error(numbers) < 0.5001);
  CHECK(Group(numbers).scale > 0);
}

TEST_CASE("int8: the largest float does not overflow on the way back") {
  std::array<float, count> numbers{};
  numbers[3] = -largest_float;
  numbers[4] = largest_float / 2;
  const Group group(numbers);
  CHECK(std::isfinite(group.scale * static_cast<float>(group.q[3])));
  CHECK(group.q[3] == -127);
  CHECK(worst_error(numbers) < 0.5001);
}

TEST_CASE("int8: a NaN or an infinity makes its whole group NaN") {
  for (const float odd : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN()})
    for (const std::size_t at : {0u, 40u, 63u}) {
      std::array<float, count> numbers = normals(1, 2);
      numbers[at] = odd;
      CHECK(std::isnan(Group(numbers).scale));
    }
}
