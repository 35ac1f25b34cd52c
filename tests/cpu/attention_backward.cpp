// Gradients over sequences that backward cuts into several spans, against a naive backward in double.
// (attention_mixer.cpp compares with finite differences, on short sequences.)
#include "recurformer/cpu/attention_backward.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "recurformer/core/random.hpp"
#include "recurformer/reference/attention.hpp"

namespace {

constexpr int d_head = 16;

/// A group with `heads` query heads, not rotated (all rotary angles are undone before the comparison).
struct Problem {
  std::int64_t tokens;
  int heads;
  std::int64_t columns = (heads + 2) * d_head;
  std::vector<float> projected = numbers(tokens * columns, 1);
  std::vector<float> d_out = numbers(tokens * heads * d_head, 2);
  std::vector<float> out = std::vector<float>(d_out.size());
  std::vector<float> log_sum_exp = std::vector<float>(static_cast<std::size_t>(tokens * heads));

  static std::vector<float> numbers(std::int64_t count, std::uint64_t seed) {
    rf::Random random(seed);
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& x : values) x = static_cast<float>(random.normal());
    return values;
  }
};

/// Gradients of all projected columns; also fills in what forward would have written.
std::vector<double> naive_gradients(Problem& p, const rf::reference::AttentionMask& mask) {
  const std::vector<double> x(p.projected.begin(), p.projected.end());
  std::vector<double> gradients(x.size()), keys;
  const auto row = [&](auto& values, std::int64_t t, std::int64_t column) {
    return values.data() + t * p.columns + column;
  };
  const std::int64_t key_column = p.heads * d_head, value_column = key_column + d_head;
  for (std::int64_t t = 0; t < p.tokens; ++t)
    keys.insert(keys.end(), row(x, t, key_column), row(x, t, key_column) + d_head);
  for (int h = 0; h < p.heads; ++h)
    for (std::int64_t i = 0; i < p.tokens; ++i) {
      const auto attention =
          rf::reference::attention_row(row(x, i, h * d_head), keys.data(), i + 1, d_head, mask, i);
      const std::int64_t at = i * p.heads + h;
      p.log_sum_exp[static_cast<std::size_t>(at)] = static_cast<float>(attention.log_sum_exp);
      const float* d_out = p.d_out.data() + at * d_head;
      std::vector<double> d_weight(static_cast<std::size_t>(i + 1)), out(d_head);
      double delta = 0;
      for (std::int64_t j = 0; j <= i; ++j) {
        const double weight = attention.weights[static_cast<std::size_t>(j)];
        for (int d = 0; d < d_head; ++d) {
          out[static_cast<std::size_t>(d)] += weight * row(x, j, value_column)[d];
          d_weight[static_cast<std::size_t>(j)] += static_cast<double>(d_out[d]) * row(x, j, value_column)[d];
          row(gradients, j, value_column)[d] += weight * static_cast<double>(d_out[d]);
        }
        delta += weight * d_weight[static_cast<std::size_t>(j)];
      }
      for (int d = 0; d < d_head; ++d)
        p.out[static_cast<std::size_t>(at * d_head + d)] =
            static_cast<float>(out[static_cast<std::size_t>(d)]);
      for (std::int64_t j = 0; j <= i; ++j) {
        const double d_score = attention.weights[static_cast<std::size_t>(j)] *
                               (d_weight[static_cast<std::size_t>(j)] - delta) / std::sqrt(double{d_head});
        for (int d = 0; d < d_head; ++d) {
          row(gradients, i, h * d_head)[d] += d_score * row(x, j, key_column)[d];
          row(gradients, j, key_column)[d] += d_score * row(x, i, h * d_head)[d];
        }
      }
    }
  return gradients;
}

std::vector<float> gradients(const Problem& p, const rf::AttentionMask& mask,
                             const rf::cpu::RopeTable& rope) {
  std::vector<float> result(p.projected.size(), std::nanf(""));
  const float* keys = p.projected.data() + p.heads * d_head;
  const rf::cpu::KeyBlock<float> block{
      .keys = {keys, p.columns}, .values = {keys + d_head, p.columns}, .position = 0, .rows = p.tokens};
  const rf::cpu::AttentionGradientGroup group{
      .forward = {.queries = {.data = p.projected.data(), .stride = p.columns},
                  .heads = p.heads,
                  .tokens = p.tokens,
                  .position = 0,
                  .blocks = {&block, 1},
                  .out = {},
                  .log_sum_exp = nullptr,
                  .probe = {}},
      .log_sum_exp = p.log_sum_exp.data(),
      .out = {.data = p.out.data(), .stride = p.heads * d_head},
      .d_out = {.data = p.d_out.data(), .stride = p.heads * d_head},
      .d_queries = {.data = result.data(), .stride = p.columns}};
  rf::cpu::attention_backward<d_head>({&group, 1}, rope, mask);
  return result;
}

void check(std::int64_t tokens, int heads, const rf::reference::AttentionMask& mask) {
  Problem problem{.tokens = tokens, .heads = heads};
  const std::vector<double> want = naive_gradients(problem, mask);
  rf::cpu::RopeTable rope(d_head, 10000.0);
  rope.reserve(tokens);
  const rf::AttentionMask kernel_mask{.sink = mask.sink,
                                      .window = std::min(mask.window, rf::AttentionMask::unlimited)};
  rf::set_threads(1);
  std::vector<float> got = gradients(problem, kernel_mask, rope);
  rf::set_threads(3);
  CHECK(got == gradients(problem, kernel_mask, rope));
  rf::set_threads(2);
  // backward turned q and k back by their positions; turn them again
  for (std::int64_t t = 0; t < tokens; ++t)
    rf::cpu::rope_rotate(rope, t, got.data() + t * problem.columns, heads + 1);
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    error += std::pow(static_cast<double>(got[i]) - want[i], 2);
    norm += want[i] * want[i];
  }
  INFO("normwise relative error ", std::sqrt(error / norm));
  CHECK(std::sqrt(error) <= 1e-5 * std::sqrt(norm));
}

}  // namespace

TEST_CASE("attention backward: one span, several spans, many heads") {
  check(1, 1, {});
  check(100, 3, {});
  check(1030, 1, {});
  check(1541, 2, {});
}

TEST_CASE("attention backward: sinks and window over several spans") {
  check(1100, 1, {.sink = 4, .window = 100});
  check(1100, 1, {.sink = 0, .window = 1});
}
