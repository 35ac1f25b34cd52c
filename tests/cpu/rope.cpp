#include "recurformer/cpu/rope.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <span>
#include <vector>

#include "recurformer/core/random.hpp"
#include "recurformer/reference/rope.hpp"

namespace {

constexpr float canary = 1234.5f;

TEST_CASE("rope: turning agrees with the reference and turning back undoes it") {
  for (const int d_head : {2, 6, 16, 64, 80, 96, 256})
    for (const double base : {10000.0, 1e6})
      for (const std::int64_t heads : {1, 3}) {
        CAPTURE(d_head);
        CAPTURE(base);
        CAPTURE(heads);
        rf::cpu::RopeTable table(d_head, base);
        table.reserve(5001);
        auto random = rf::Random::stream(61, 1);
        const auto width = static_cast<std::size_t>(d_head), count = width * static_cast<std::size_t>(heads);
        std::vector<float> x(count + 1, canary);
        for (std::size_t i = 0; i < count; ++i) x[i] = static_cast<float>(random.normal());
        const std::vector<float> original = x;
        for (const std::int64_t position : {0, 1, 777, 5000}) {
          std::vector<double> want(x.begin(), x.end());
          for (std::size_t h = 0; h < count; h += width)
            rf::reference::rotate(want.data() + h, {.d_head = d_head, .rope_base = base}, position);
          rf::cpu::rope_rotate(table, position, x.data(), heads);
          bool agrees = true;
          for (std::size_t i = 0; i < count; ++i) agrees = agrees && std::fabs(double(x[i]) - want[i]) < 2e-6;
          CHECK(agrees);
          rf::cpu::rope_rotate_back(table, position, x.data(), heads);
          bool undone = true;
          for (std::size_t i = 0; i < count; ++i) undone = undone && std::fabs(x[i] - original[i]) < 2e-6f;
          CHECK(undone);
          CHECK(x[count] == canary);
          x = original;
        }
      }
}

TEST_CASE("rope: the product of a query and a key depends on their distance alone") {
  rf::cpu::RopeTable table(32, 10000.0);
  table.reserve(200);
  auto random = rf::Random::stream(61, 2);
  std::vector<float> q(32), k(32);
  for (float& value : q) value = static_cast<float>(random.normal());
  for (float& value : k) value = static_cast<float>(random.normal());
  const auto product = [&](std::int64_t query_position, std::int64_t key_position) {
    auto a = q, b = k;
    rf::cpu::rope_rotate(table, query_position, a.data());
    rf::cpu::rope_rotate(table, key_position, b.data());
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += double(a[i]) * double(b[i]);
    return sum;
  };
  CHECK(std::fabs(product(30, 10) - product(190, 170)) < 1e-4);
  CHECK(std::fabs(product(30, 10) - product(31, 10)) > 1e-2);
}

TEST_CASE("rope: growing keeps what was there") {
  rf::cpu::RopeTable table(10, 500.0), whole(10, 500.0);
  CHECK(table.positions() == 0);
  CHECK(table.d_head() == 10);
  whole.reserve(1000);
  for (const std::int64_t positions : {3, 2, 4, 1000}) {
    table.reserve(positions);
    CHECK(table.positions() >= positions);
  }
  for (std::int64_t p = 0; p < 1000; ++p)
    for (int i = 0; i < 5; ++i) {
      REQUIRE(table.cosines(p)[i] == whole.cosines(p)[i]);
      REQUIRE(table.sines(p)[i] == whole.sines(p)[i]);
    }
}

TEST_CASE("rope: an odd width or a base of one is an error") {
  CHECK_THROWS_AS(rf::cpu::RopeTable(7, 10000.0), rf::ArgumentError);
  CHECK_THROWS_AS(rf::cpu::RopeTable(0, 10000.0), rf::ArgumentError);
  CHECK_THROWS_AS(rf::cpu::RopeTable(8, 1.0), rf::ArgumentError);
}

}  // namespace
