#include "recurformer/model/sampler.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

using rf::Sampler;
using rf::SamplingOptions;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

std::vector<float> random_logits(std::size_t count, std::uint64_t seed) {
  rf::Random random(seed);
  std::vector<float> logits(count);
  for (float& logit : logits) logit = static_cast<float>(3 * random.normal());
  return logits;
}

/// The distribution by definition: a full sort, then the two cuts.
std::vector<double> expected_distribution(const std::vector<float>& logits, const SamplingOptions& options) {
  std::vector<std::size_t> order(logits.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return logits[a] > logits[b]; });
  if (options.top_k > 0) order.resize(std::min(order.size(), static_cast<std::size_t>(options.top_k)));
  std::vector<double> probability(logits.size(), 0.0);
  const auto normalise = [&] {
    const double sum = std::accumulate(probability.begin(), probability.end(), 0.0);
    for (double& p : probability) p /= sum;
  };
  for (const auto i : order)
    probability[i] = std::exp((double{logits[i]} - double{logits[order[0]]}) / options.temperature);
  normalise();
  double reached = 0;
  for (const auto i : order) {
    if (reached >= options.top_p) probability[i] = 0;
    reached += probability[i];
  }
  normalise();
  return probability;
}

}  // namespace

TEST_CASE("greedy takes the largest logit, the first of equals") {
  Sampler sampler({});
  CHECK(sampler.sample(std::vector{1.0f}, 0, 0) == 0);
  CHECK(sampler.sample(std::vector{-1.0f, 2.0f, -3.0f}, 0, 0) == 1);
  CHECK(sampler.sample(std::vector{1.0f, 5.0f, 5.0f, 5.0f}, 0, 0) == 1);
  CHECK(sampler.sample(std::vector{-infinity, -infinity, -7.0f}, 9, 9) == 2);
  CHECK(sampler.sample(std::vector{0.0f, -0.0f}, 0, 0) == 0);
  CHECK(Sampler::greedy(std::vector{3e38f, -3e38f, 3.1e38f}) == 2);
}

TEST_CASE("the draws follow the distribution that is left by temperature, top-k and top-p") {
  const auto logits = random_logits(40, 1);
  const SamplingOptions rows[] = {
      {.temperature = 1},
      {.temperature = 0.3},
      {.temperature = 4},
      {.temperature = 1, .top_k = 5},
      {.temperature = 2, .top_k = 40},
      {.temperature = 2, .top_k = 1000},
      {.temperature = 2, .top_p = 0.5},
      {.temperature = 2, .top_p = 0.999999},
      {.temperature = 2, .top_k = 10, .top_p = 0.8},
      {.temperature = 1, .top_p = 0.95, .seed = 77},
  };
  constexpr int draws = 20000;
  for (const auto& options : rows) {
    CAPTURE(options.temperature);
    CAPTURE(options.top_k);
    CAPTURE(options.top_p);
    const auto expected = expected_distribution(logits, options);
    std::vector<int> counts(logits.size(), 0);
    Sampler sampler(options);
    for (std::uint64_t i = 0; i < draws; ++i)
      ++counts[static_cast<std::size_t>(sampler.sample(logits, 3, i))];
    for (std::size_t i = 0; i < logits.size(); ++i) {
      if (expected[i] == 0) CHECK(counts[i] == 0);
      const double sigma = std::sqrt(expected[i] * (1 - expected[i]) / draws);
      CHECK(std::abs(static_cast<double>(counts[i]) / draws - expected[i]) <= 4.5 * sigma + 1e-4);
    }
  }
}

TEST_CASE("draws of different sequences are independent") {
  // The same step of 20000 sequences: a stream that ignored the sequence would give one token.
  Sampler sampler({.temperature = 1});
  const std::vector logits{0.0f, 0.0f, 0.0f, 0.0f};
  int counts[4] = {}, repeats = 0;
  for (std::uint64_t sequence = 0; sequence < 20000; ++sequence) {
    const auto token = sampler.sample(logits, sequence, 5);
    ++counts[token];
    repeats += token == sampler.sample(logits, sequence, 6);
  }
  for (const int count : counts) CHECK(std::abs(count - 5000) < 4.5 * std::sqrt(20000 * 3.0 / 16));
  CHECK(std::abs(repeats - 5000) < 4.5 * std::sqrt(20000 * 3.0 / 16));
}

TEST_CASE("options that leave one token are greedy") {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    auto logits = random_logits(100, seed);
    logits[70] = logits[7] = 50;  // a tie at the top
    const auto greedy = Sampler::greedy(logits);
    CHECK(greedy == 7);
    CHECK(Sampler({.temperature = 9, .top_k = 1, .seed = seed}).sample(logits, 0, 0) == greedy);
    CHECK(Sampler({.temperature = 9, .top_p = 1e-12, .seed = seed}).sample(logits, 0, 0) == greedy);
    CHECK(Sampler({.temperature = 9, .top_k = 50, .top_p = 1e-300}).sample(logits, 0, seed) == greedy);
    logits[70] = 49;
    CHECK(Sampler({.temperature = 1e-4, .seed = seed}).sample(logits, 0, 0) == greedy);
    CHECK(Sampler({.temperature = 1e-310, .seed = seed}).sample(logits, 0, 0) == greedy);
  }
}

TEST_CASE("ties at a cut keep the lower indices") {
  const std::vector logits{1.0f, 2.0f, 1.0f, 1.0f, 2.0f, 1.0f};
  std::vector<int> counts_k(6, 0), counts_p(6, 0);
  Sampler top_k({.temperature = 1, .top_k = 3}), top_p({.temperature = 1000, .top_p = 0.6});
  for (std::uint64_t i = 0; i < 1000; ++i) {
    ++counts_k[static_cast<std::size_t>(top_k.sample(logits, 0, i))];
    ++counts_p[static_cast<std::size_t>(top_p.sample(logits, 0, i))];  // nearly uniform: four of six
  }
  const std::vector<std::size_t> kept_k{0, 1, 4}, kept_p{0, 1, 2, 4};
  for (std::size_t i = 0; i < 6; ++i) {
    CHECK((counts_k[i] > 0) == std::count(kept_k.begin(), kept_k.end(), i));
    CHECK((counts_p[i] > 0) == std::count(kept_p.begin(), kept_p.end(), i));
  }
}

TEST_CASE("the nucleus is the one of a full sort, at every size") {
  for (const std::size_t count : {1u, 2u, 3u, 17u, 256u, 1000u})
    for (const double p : {0.01, 0.3, 0.77, 0.999}) {
      CAPTURE(count);
      CAPTURE(p);
      const auto logits = random_logits(count, count);
      const SamplingOptions options{.temperature = 1.5, .top_p = p};
      const auto expected = expected_distribution(logits, options);
      Sampler sampler(options);
      std::vector<bool> drawn(count, false);
      for (std::uint64_t i = 0; i < 2000; ++i)
        drawn[static_cast<std::size_t>(sampler.sample(logits, count, i))] = true;
      for (std::size_t i = 0; i < count; ++i) {
        if (drawn[i]) CHECK(expected[i] > 0);
        if (expected[i] > 0.01) CHECK(drawn[i]);  // missed with probability below 2e-9
      }
    }
}

TEST_CASE("a draw depends on seed, sequence and step, and on nothing drawn before") {
  const auto logits = random_logits(1000, 5);
  const SamplingOptions options{.temperature = 3, .top_k = 500, .top_p = 0.99, .seed = 8};
  const auto draw = [&](SamplingOptions o, std::uint64_t sequence, std::uint64_t first, std::size_t steps) {
    Sampler sampler(o);
    std::vector<std::int32_t> tokens;
    for (std::size_t i = 0; i < steps; ++i) tokens.push_back(sampler.sample(logits, sequence, first + i));
    return tokens;
  };
  const auto tokens = draw(options, 2, 0, 20);
  CHECK(tokens == draw(options, 2, 0, 20));
  const auto rest = draw(options, 2, 12, 8);
  CHECK(std::equal(rest.begin(), rest.end(), tokens.begin() + 12));
  CHECK(tokens != draw(options, 3, 0, 20));
  auto other_seed = options;
  other_seed.seed = 9;
  CHECK(tokens != draw(other_seed, 2, 0, 20));
}

TEST_CASE("excluded, huge and tiny logits") {
  Sampler sampler({.temperature = 1});
  // -inf is never drawn, with or without a cut that reaches it.
  const std::vector masked{-infinity, 0.0f, -infinity, 0.0f};
  Sampler cut({.temperature = 1, .top_k = 3, .top_p = 0.9999});
  for (std::uint64_t i = 0; i < 500; ++i) {
    CHECK(sampler.sample(masked, 0, i) % 2 == 1);
    CHECK(cut.sample(masked, 0, i) % 2 == 1);
  }
  // A difference that overflows a float has the weight zero; equal huge logits share.
  const std::vector huge{-3e38f, 3e38f, 3e38f, -3e38f};
  int counts[4] = {};
  for (std::uint64_t i = 0; i < 1000; ++i) ++counts[sampler.sample(huge, 0, i)];
  CHECK(counts[0] + counts[3] == 0);
  CHECK(std::abs(counts[1] - 500) < 75);
  // All logits far below zero: the largest is the reference, so nothing underflows.
  const std::vector low{-1e30f, -1e30f};
  int first = 0;
  for (std::uint64_t i = 0; i < 1000; ++i) first += sampler.sample(low, 0, i) == 0;
  CHECK(std::abs(first - 500) < 75);
}

TEST_CASE("rows that cannot be sampled are errors") {
  for (const double temperature : {0.0, 1.0}) {
    Sampler sampler({.temperature = temperature});
    CHECK_THROWS_WITH_AS(
        sampler.sample(std::vector{0.0f, NAN}, 0, 0),
        "the logit of token 1 is nan; allowed: finite numbers and -inf. The model's arithmetic "
        "broke down",
        rf::ArgumentError);
    CHECK_THROWS_AS(sampler.sample(std::vector{infinity, 0.0f}, 0, 0), rf::ArgumentError);
    CHECK_THROWS_WITH_AS(sampler.sample(std::vector{-infinity, -infinity}, 0, 0),
                         "cannot choose a token: every logit is -inf; leave at least one token allowed",
                         rf::ArgumentError);
    CHECK_THROWS_AS(sampler.sample({}, 0, 0), rf::ArgumentError);
  }
}

TEST_CASE("options out of range are refused") {
  CHECK_THROWS_WITH_AS(Sampler({.temperature = -1}),
                       "temperature is -1; allowed: 0 (greedy) and finite positive numbers",
                       rf::ArgumentError);
  CHECK_THROWS_AS(Sampler({.temperature = NAN}), rf::ArgumentError);
  CHECK_THROWS_AS(Sampler({.temperature = HUGE_VAL}), rf::ArgumentError);
  CHECK_THROWS_WITH_AS(Sampler({.top_k = -1}), "top_k is -1; allowed: 0 (off) and positive numbers",
                       rf::ArgumentError);
  CHECK_THROWS_AS(Sampler({.top_p = 0}), rf::ArgumentError);
  CHECK_THROWS_AS(Sampler({.top_p = NAN}), rf::ArgumentError);
  CHECK_THROWS_WITH_AS(Sampler({.top_p = 1.01}), "top_p is 1.01; allowed: above 0, up to 1 (off)",
                       rf::ArgumentError);
}
