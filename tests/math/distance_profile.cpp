#include "recurformer/math/distance_profile.hpp"

#include <doctest/doctest.h>

#include <vector>

TEST_CASE("bins are exact to 256, then four to an octave, and cover every lag once") {
  for (const std::int64_t length : {1, 2, 255, 256, 257, 300, 4096, 100000}) {
    const auto borders = rf::distance_bin_borders(length);
    CHECK(borders.front() == 0);
    CHECK(borders.back() == length);
    for (std::size_t i = 0; i + 1 < borders.size(); ++i) {
      CHECK(borders[i] < borders[i + 1]);
      if (borders[i] < 256 && borders[i + 1] <= 256) CHECK(borders[i + 1] == borders[i] + 1);
    }
  }
  const auto borders = rf::distance_bin_borders(600);
  CHECK(borders[257] == 304);  // 256 · 2^(1/4)
  CHECK(borders[260] == 512);
}

TEST_CASE("each lag is divided by its own number of pairs") {
  rf::DistanceSums sums;
  sums.add(std::vector<double>{4.0, 1.5, 0.5, 1.0});  // pairs 4, 3, 2, 1
  sums.add(std::vector<double>{2.0, 0.5});            // pairs 2, 1
  const auto profile = sums.profile();
  REQUIRE(profile.lag.size() == 4);
  CHECK(profile.probability[0] == doctest::Approx(6.0 / 6));
  CHECK(profile.probability[1] == doctest::Approx(2.0 / 4));
  CHECK(profile.probability[2] == doctest::Approx(0.25));
  CHECK(profile.probability[3] == doctest::Approx(1.0));
}
