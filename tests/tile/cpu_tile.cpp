#include "recurformer/tile/cpu_tile.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "recurformer/core/random.hpp"
#include "recurformer/tile/transpose.hpp"

namespace {

namespace simd = rf::simd;
using rf::tile::LaneTile;
using rf::tile::Operand;
using rf::tile::RowValues;

constexpr int rows = 48, keys = 64, width = 32;
constexpr float infinity = std::numeric_limits<float>::infinity();

using Scores = LaneTile<rows, keys>;
using Queries = LaneTile<rows, width>;

std::vector<float> random_floats(std::size_t count, std::uint64_t seed) {
  rf::Random random(seed);
  std::vector<float> values(count);
  for (float& x : values) x = static_cast<float>(random.normal());
  return values;
}

/// A tile of random numbers; what lies outside its active rows stays NaN.
template <int Columns>
void randomise(LaneTile<rows, Columns>& tile, std::uint64_t seed) {
  rf::Random random(seed);
  for (int c = 0; c < Columns; ++c)
    for (int r = 0; r < rows; ++r)
      tile.column(c)[r] = r < tile.vectors * simd::width ? static_cast<float>(random.normal())
                                                         : std::numeric_limits<float>::quiet_NaN();
}

/// Numbers of active rows that leave one, two, three, … vectors at every width.
const int active_rows[] = {1, 16, 20, 33, 48};

bool close(float got, double want, double magnitude) {
  return std::abs(static_cast<double>(got) - want) <= 1e-6 * magnitude;
}

}  // namespace

TEST_CASE("tile: register transpose and sums of lanes") {
  simd::Vec square[simd::width];
  for (int i = 0; i < simd::width; ++i)
    for (int j = 0; j < simd::width; ++j) square[i][j] = static_cast<float>(100 * i + j);
  simd::transpose(square);
  bool transposed = true;
  for (int i = 0; i < simd::width; ++i)
    for (int j = 0; j < simd::width; ++j) transposed &= square[i][j] == static_cast<float>(100 * j + i);
  CHECK(transposed);
  simd::Vec powers[simd::width];
  for (int i = 0; i < simd::width; ++i) powers[i] = simd::broadcast(static_cast<float>(1 << i));
  const simd::Vec sums = simd::reduce_each(powers);
  for (int i = 0; i < simd::width; ++i) CHECK(sums[i] == static_cast<float>(simd::width * (1 << i)));
}

TEST_CASE("tile: interleaving puts pairs of bf16 back into their order") {
  alignas(64) rf::bf16 in[2 * simd::width];
  for (int i = 0; i < 2 * simd::width; ++i) in[i] = rf::bf16(static_cast<float>(i - 3));
  simd::Vec pairs;
  std::memcpy(&pairs, in, sizeof pairs);
  simd::Vec first = simd::first_of_pairs(pairs), second = simd::second_of_pairs(pairs);
  simd::interleave(first, second);
  for (int i = 0; i < simd::width; ++i) {
    CHECK(float{first[i]} == static_cast<float>(i - 3));
    CHECK(float{second[i]} == static_cast<float>(simd::width + i - 3));
  }
}

TEST_CASE("tile: scores = queries keysᵀ") {
  const auto data = random_floats(keys * width, 1);
  for (const int active : active_rows)
    for (const int count : {1, 7, 16, 63, 64}) {
      Queries q(rf::tile::vectors_for(active));
      randomise(q, 2);
      Scores s(q.vectors);
      s.fill(std::numeric_limits<float>::quiet_NaN());
      multiply_abt(s, q, Operand<width>{.data = data.data(), .rows = count});
      bool right = true;
      for (int r = 0; r < q.vectors * simd::width; ++r)
        for (int j = 0; j < count; ++j) {
          double sum = 0;
          for (int d = 0; d < width; ++d)
            sum += static_cast<double>(q.column(d)[r]) *
                   static_cast<double>(data[static_cast<std::size_t>(j * width + d)]);
          right &= close(s.column(j)[r], sum, 10);
        }
      CHECK(right);
    }
}

TEST_CASE("tile: output = diag(scale) output + weights values") {
  const auto data = random_floats(keys * width, 3);
  for (const int active : active_rows)
    for (const int count : {1, 30, 64}) {
      Scores p(rf::tile::vectors_for(active));
      randomise(p, 4);
      Queries o(p.vectors), before(p.vectors), plain(p.vectors);
      randomise(o, 5), randomise(before, 5), randomise(plain, 5);
      RowValues<rows> scale(p.vectors);
      for (int r = 0; r < p.vectors * simd::width; ++r) scale.values[r] = 0.01f * static_cast<float>(r);
      const Operand<width> values{.data = data.data(), .rows = count};
      scale_multiply_ab(o, scale, p, values);
      multiply_ab(plain, p, values);
      bool right = true;
      for (int r = 0; r < p.vectors * simd::width; ++r)
        for (int d = 0; d < width; ++d) {
          double sum = 0;
          for (int j = 0; j < count; ++j)
            sum += static_cast<double>(p.column(j)[r]) *
                   static_cast<double>(data[static_cast<std::size_t>(j * width + d)]);
          const auto start = static_cast<double>(before.column(d)[r]);
          right &= close(o.column(d)[r], sum + start * static_cast<double>(scale.values[r]), 20);
          right &= close(plain.column(d)[r], sum + start, 20);
        }
      CHECK(right);
    }
}

TEST_CASE("tile: sum += weightsᵀ rows, whole strips and nothing behind them") {
  const auto data = random_floats(rows * width, 6);
  for (const int count : {1, 16, 47, 48})
    for (const int columns : {16, 48, 64}) {
      Scores p(rf::tile::vectors_for(count));
      randomise(p, 7);
      std::vector<float> sum(static_cast<std::size_t>((keys + 1) * width), 0.5f);
      multiply_atb(sum.data(), p, columns, Operand<width>{.data = data.data(), .rows = count});
      bool right = true;
      for (int j = 0; j <= keys; ++j)
        for (int d = 0; d < width; ++d) {
          double want = 0.5;
          for (int r = 0; r < count && j < columns; ++r)
            want += static_cast<double>(p.column(j)[r]) *
                    static_cast<double>(data[static_cast<std::size_t>(r * width + d)]);
          right &= close(sum[static_cast<std::size_t>(j * width + d)], want, 20);
        }
      CHECK(right);
    }
}

TEST_CASE("tile: 2^x of non-positive x") {
  double worst = 0;
  for (float x = 0.0f; x > -126.0f; x -= 0.00371f) {
    const auto got = static_cast<double>(rf::tile::exp2_nonpositive(simd::broadcast(x))[0]);
    worst = std::max(worst, std::abs(got / std::exp2(static_cast<double>(x)) - 1.0));
  }
  CHECK(worst <= 2.5e-7);
  for (const float x : {-127.0f, -1000.0f, -infinity})
    CHECK(rf::tile::exp2_nonpositive(simd::broadcast(x))[0] == 0.0f);
  CHECK(std::isnan(rf::tile::exp2_nonpositive(simd::broadcast(std::numeric_limits<float>::quiet_NaN()))[0]));
}

TEST_CASE("tile: row maxima, weights and their sums") {
  for (const int active : active_rows) {
    Scores s(rf::tile::vectors_for(active));
    randomise(s, 8);
    s.column(2)[0] = -infinity;
    const std::vector<float> before(s.values[0], s.values[0] + rows * keys);
    constexpr int columns = 37;
    const RowValues<rows> start(s.vectors, 0.75f);
    const RowValues<rows> maximum = row_max(start, s, columns);
    RowValues<rows> sum(s.vectors, 2.0f);
    exponentiate(s, maximum, sum, columns);
    bool right = true;
    for (int r = 0; r < s.vectors * simd::width; ++r) {
      float largest = 0.75f;
      double total = 2.0;
      const auto at = [&](int c) { return before[static_cast<std::size_t>(c * rows + r)]; };
      for (int c = 0; c < columns; ++c) largest = std::max(largest, at(c));
      for (int c = 0; c < columns; ++c) {
        const double want = std::exp2(static_cast<double>(at(c)) - static_cast<double>(largest));
        right &= close(s.column(c)[r], want, 1);
        total += want;
      }
      right &= maximum.values[r] == largest;
      right &= close(sum.values[r], total, 40);
      right &= s.column(columns)[r] == at(columns);
    }
    CHECK(right);
  }
}

TEST_CASE("tile: gradients of scores, and zeros up to whole strips") {
  Scores weights(rf::tile::vectors_for(20)), d(weights.vectors);
  randomise(weights, 9), randomise(d, 10);
  const std::vector<float> scores(weights.values[0], weights.values[0] + rows * keys);
  const std::vector<float> d_weights(d.values[0], d.values[0] + rows * keys);
  const RowValues<rows> log2_sum_exp(weights.vectors, 5.0f), delta(weights.vectors, 0.3f);
  constexpr int columns = 21;
  differentiate_softmax(weights, d, log2_sum_exp, delta, columns);
  bool right = true;
  for (int c = 0; c < keys; ++c)
    for (int r = 0; r < weights.vectors * simd::width; ++r) {
      const auto at = static_cast<std::size_t>(c * rows + r);
      const double p = c < columns ? std::exp2(static_cast<double>(scores[at]) - 5.0) : 0.0;
      if (c >= 32) {
        right &= weights.column(c)[r] == scores[at] && d.column(c)[r] == d_weights[at];
      } else {
        right &= close(weights.column(c)[r], p, 1);
        right &= close(d.column(c)[r], p * (static_cast<double>(d_weights[at]) - 0.3), 1);
      }
    }
  CHECK(right);
}
