#include "recurformer/cpu/attention_profile.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "recurformer/core/random.hpp"

TEST_CASE("the mass on every lag is that of the attention matrix") {
  const rf::AttentionMask all = {}, recent = {.sink = 0, .window = 5}, both = {.sink = 3, .window = 20};
  for (const auto& of_head : {std::pair{16, all}, {80, all}, {16, recent}, {32, both}}) {
    const int d = of_head.first;
    const rf::AttentionMask mask = of_head.second;
    for (const std::int64_t rows : {1, 2, 15, 16, 17, 63, 130}) {
      CAPTURE(d);
      CAPTURE(mask.window);
      CAPTURE(rows);
      // q, k and the log-sum-exp lie in wider rows, as in a layer's projected activations; what lies between
      // is poison.
      const std::int64_t stride = 2 * d + 3;
      std::vector<float> projected(static_cast<std::size_t>(rows * stride),
                                   std::numeric_limits<float>::quiet_NaN());
      rf::Random random(static_cast<std::uint64_t>(rows + d));
      for (std::int64_t r = 0; r < rows; ++r)
        for (int c = 0; c < 2 * d; ++c)
          projected[static_cast<std::size_t>(r * stride + c)] = static_cast<float>(2 * random.normal());
      std::vector<float> lse(static_cast<std::size_t>(2 * rows));
      constexpr double canary = 1234.5;  // before and behind what is written
      std::vector<double> expected(static_cast<std::size_t>(rows)),
          output(static_cast<std::size_t>(rows) + 2, canary);
      const std::span<double> mass = std::span(output).subspan(1, expected.size());
      for (std::int64_t i = 0; i < rows; ++i) {
        std::vector<double> scores;
        double sum = 0;
        for (std::int64_t j = 0; j <= i; ++j) {
          double score = 0;
          for (int c = 0; c < d; ++c)
            score += static_cast<double>(projected[static_cast<std::size_t>(i * stride + c)]) *
                     static_cast<double>(projected[static_cast<std::size_t>(j * stride + d + c)]);
          scores.push_back(score / std::sqrt(static_cast<double>(d)));
          if (mask.visible(i, j)) sum += std::exp(scores.back());
        }
        lse[static_cast<std::size_t>(2 * i)] = static_cast<float>(std::log(sum));
        for (std::int64_t j = 0; j <= i; ++j)
          if (mask.visible(i, j))
            expected[static_cast<std::size_t>(i - j)] += std::exp(scores[static_cast<std::size_t>(j)]) / sum;
      }
      rf::cpu::attention_profile({.rows = rows,
                                  .d_head = d,
                                  .q = projected.data(),
                                  .q_stride = stride,
                                  .k = projected.data() + d,
                                  .k_stride = stride,
                                  .log_sum_exp = lse.data(),
                                  .log_sum_exp_stride = 2,
                                  .mask = mask},
                                 mass);
      CHECK(output.front() == canary);
      CHECK(output.back() == canary);
      double total = 0;
      for (std::size_t lag = 0; lag < mass.size(); ++lag) {
        CHECK(std::abs(mass[lag] - expected[lag]) < 1e-5 * static_cast<double>(rows));
        total += mass[lag];
      }
      CHECK(total == doctest::Approx(static_cast<double>(rows)).epsilon(1e-5));
    }
  }
}
