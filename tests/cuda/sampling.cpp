#include "recurformer/cuda/sampling.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "recurformer/core/random.hpp"
#include "recurformer/cuda/device_array.hpp"
#include "recurformer/model/sampler.hpp"
#include "support/test_device.hpp"

namespace {

using rf::SamplingOptions;
using rf::cuda::DeviceArray;
using rf::test::TestDevice;

std::vector<std::int32_t> sample(TestDevice& device, const std::vector<float>& logits, int vocabulary,
                                 const SamplingOptions& options, const std::vector<double>& uniforms) {
  const DeviceArray<float, TestDevice> rows(device, std::span<const float>(logits));
  const DeviceArray<double, TestDevice> draws(device, std::span<const double>(uniforms));
  const DeviceArray<std::int32_t, TestDevice> tokens(device, uniforms.size());
  rf::cuda::sample(device, {.logits = {rows.data(), vocabulary},
                            .rows = static_cast<int>(uniforms.size()),
                            .vocabulary = vocabulary,
                            .temperature = static_cast<float>(options.temperature),
                            .top_k = options.top_k,
                            .top_p = options.top_p,
                            .uniforms = draws.data(),
                            .tokens = tokens.data()});
  return tokens.to_host();
}

/// Rows of the vocabulary's size in one launch, against the host's sampler, token by token.
void check_like_host(TestDevice& device, int vocabulary, const SamplingOptions& options,
                     double coarseness = 0) {
  constexpr int rows = 6;
  rf::Random random(static_cast<std::uint64_t>(vocabulary) + options.seed);
  std::vector<float> logits;
  for (int i = 0; i < rows * vocabulary; ++i) {
    double x = 3 * random.normal();
    if (coarseness > 0) x = coarseness * std::round(x / coarseness);  // ties
    logits.push_back(random.uniform() < 0.05 && i % vocabulary > 0 ? -std::numeric_limits<float>::infinity()
                                                                   : static_cast<float>(x));
  }
  std::vector<double> uniforms;
  for (std::uint64_t step = 0; step < rows; ++step)
    uniforms.push_back(rf::Sampler::uniform(options, 3, step));
  const auto got = sample(device, logits, vocabulary, options, uniforms);
  rf::Sampler sampler(options);
  for (std::size_t r = 0; r < rows; ++r) {
    CAPTURE(r);
    const std::size_t size = static_cast<std::size_t>(vocabulary);
    CHECK(got[r] == sampler.sample(std::span(logits).subspan(r * size, size), 3, r));
  }
}

}  // namespace

TEST_CASE("sampling on a device: the tokens that the host would draw") {
  for (const auto& schedule : rf::test::schedules()) {
    TestDevice device(schedule);
    const std::uint64_t seed = schedule.seed;
    check_like_host(device, 700, {.temperature = 1.0, .seed = seed});
    check_like_host(device, 700, {.temperature = 0.7, .top_k = 20, .seed = seed});
    check_like_host(device, 513, {.temperature = 1.3, .top_p = 0.9, .seed = seed});
    check_like_host(device, 512, {.temperature = 1.0, .top_k = 30, .top_p = 0.5, .seed = seed}, 0.5);
    if (rf::arch::simulator::sanitized) return;
  }
}

TEST_CASE("sampling on a device: small vocabularies, extreme options") {
  TestDevice device({.seed = 9});
  check_like_host(device, 1, {.temperature = 1.0});
  check_like_host(device, 8, {.temperature = 1.0, .top_k = 8});
  check_like_host(device, 40, {.temperature = 1.0, .top_k = 1});
  check_like_host(device, 40, {.temperature = 1e-3, .top_p = 1e-9});
  check_like_host(device, 40, {.temperature = 1e6, .top_k = 39, .top_p = 0.999}, 1.0);
}

TEST_CASE("sampling on a device: of equals the first ones are kept") {
  TestDevice device({.seed = 2});
  const std::vector<float> logits(64, -1.5f);
  for (const double u : {0.0, 0.3, 0.999999}) {
    CAPTURE(u);
    const auto chosen = [&](const SamplingOptions& options) {
      return sample(device, logits, 64, options, {u})[0];
    };
    CHECK(chosen({.temperature = 2, .top_k = 10}) == static_cast<int>(10 * u));
    CHECK(chosen({.temperature = 2, .top_p = 0.25}) == static_cast<int>(16 * u));
    CHECK(chosen({.temperature = 2, .top_k = 8, .top_p = 0.5}) == static_cast<int>(4 * u));
  }
}

TEST_CASE("sampling on a device: logits that are no distribution are reported, and only they") {
  TestDevice device({.seed = 1});
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> logits = {0,         1,         2,        3,         0, 1,         std::nanf(""),
                                     3,         0,         infinity, 2,         3, -infinity, -infinity,
                                     -infinity, -infinity, 0,        -infinity, 0, 0};
  const auto tokens = sample(device, logits, 4, {.temperature = 1, .top_k = 2}, {0.0, 0.5, 0.5, 0.5, 0.9});
  const int broken = rf::cuda::not_a_distribution;
  CHECK(tokens == std::vector<std::int32_t>{2, broken, broken, broken, 2});
}

TEST_CASE("sampling on a device: what it refuses") {
  TestDevice device;
  CHECK_THROWS_AS(rf::cuda::sample(device, {.vocabulary = 4, .temperature = 0}), rf::ArgumentError);
  CHECK_THROWS_AS(rf::cuda::sample(device, {.vocabulary = 4, .top_p = 0}), rf::ArgumentError);
  CHECK_THROWS_AS(rf::cuda::sample(device, {.vocabulary = 0}), rf::ArgumentError);
}
