#include "recurformer/math/least_squares.hpp"

#include <doctest/doctest.h>

#include <vector>

TEST_CASE("weights that are not negative are found exactly, others are held at zero") {
  // b = 2 a0 + 0 a1 + 3 a2
  const std::vector<double> a = {1, 0, 1, /**/ 0, 1, 1, /**/ 1, 1, 0, /**/ 2, 1, 1};
  std::vector<double> b(4);
  for (std::size_t r = 0; r < 4; ++r) b[r] = 2 * a[3 * r] + 3 * a[3 * r + 2];
  const auto x = rf::nonnegative_least_squares(a, b, 3);
  CHECK(x[0] == doctest::Approx(2).epsilon(1e-6));
  CHECK(x[1] == doctest::Approx(0));
  CHECK(x[2] == doctest::Approx(3).epsilon(1e-6));
  const auto negative =
      rf::nonnegative_least_squares(std::vector<double>{1, 1}, std::vector<double>{-1, -2}, 1);
  CHECK(negative[0] == 0);
}

TEST_CASE("a column of zeros gets zero, and sizes that do not fit are an error") {
  CHECK(rf::nonnegative_least_squares(std::vector<double>{0, 1, 0, 2}, std::vector<double>{1, 2}, 2)[0] == 0);
  CHECK_THROWS_AS(rf::nonnegative_least_squares(std::vector<double>{1, 2, 3}, std::vector<double>{1, 2}, 2),
                  rf::ArgumentError);
}
