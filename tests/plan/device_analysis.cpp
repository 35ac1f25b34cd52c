#include "recurformer/plan/device_analysis.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "recurformer/plan/analysis.hpp"
#include "support/simulated_model.hpp"
#include "support/small_model.hpp"

namespace {

constexpr rf::AnalysisOptions options{.window = 4, .sink = 2};

/// Weights whose attention is far from even, the same for the device and, in float, for the CPU.
device_model::Weights sharp_weights() {
  device_model::Weights out = device_model::host_weights();
  for (const auto& parameter : rf::parameter_refs(out)) {
    if (parameter.name.find("projection") == std::string::npos) continue;
    for (auto& value :
         std::span(static_cast<rf::bf16*>(parameter.data), static_cast<std::size_t>(parameter.size)))
      value = rf::convert<rf::bf16>(4 * rf::convert<float>(value));
  }
  return out;
}

small::Model cpu_model(device_model::Weights& weights) {
  rf::Plan plan = device_model::host_plan;
  for (auto& kind : plan.kinds) kind.precision = "fp32";
  small::Model out(device_model::host_shape, plan);
  const auto from = rf::parameter_refs(weights), to = rf::parameter_refs(out.weights());
  REQUIRE(from.size() == to.size());
  for (std::size_t p = 0; p < from.size(); ++p) {
    REQUIRE(from[p].size == to[p].size);
    auto* values = static_cast<float*>(to[p].data);
    for (std::int64_t i = 0; i < from[p].size; ++i)
      values[i] = from[p].dtype == rf::DType::F32
                      ? static_cast<const float*>(from[p].data)[i]
                      : rf::convert<float>(static_cast<const rf::bf16*>(from[p].data)[i]);
  }
  return out;
}

/// Rows of several lengths: more than a tile of queries, too short to count, and empty.
rf::Batch batch(std::uint64_t seed) {
  rf::Batch out;
  for (const std::int64_t length : {70, 5, 0, 33}) {
    const auto tokens = device_model::random_tokens(length + 1, seed + static_cast<std::uint64_t>(length));
    out.append(std::span(tokens).first(static_cast<std::size_t>(length)), std::span(tokens).subspan(1));
  }
  return out;
}

}  // namespace

TEST_CASE("analysis on a device: what the CPU measures, head by head, whatever the heads' kind") {
  device_model::Weights weights = sharp_weights();
  small::Model host = cpu_model(weights);
  rf::Simulated device({.seed = 6});
  rf::Model<device_model::Spec, rf::Simulated> model(device, weights);
  rf::Analyser<small::Model> expected(host, options);
  rf::DeviceAnalyser<device_model::Spec, rf::Simulated> measured(model, options);
  for (const std::uint64_t seed : {1u, 2u}) {
    expected.add(batch(seed));
    measured.add(batch(seed));
  }
  const rf::ModelAnalysis want = expected.result(), got = measured.result();
  CHECK(got.sequences == want.sequences);
  CHECK(got.tokens == want.tokens);
  REQUIRE(got.heads.size() == want.heads.size());
  double spread = 0;  // of the recency ratios: heads must differ by more than what rounding may do
  for (std::size_t l = 0; l < want.heads.size(); ++l) {
    REQUIRE(got.heads[l].size() == want.heads[l].size());
    for (std::size_t h = 0; h < want.heads[l].size(); ++h) {
      CAPTURE(l);
      CAPTURE(h);
      const rf::HeadAnalysis &a = got.heads[l][h], &b = want.heads[l][h];
      // activations have 8 significant bits on the device
      const auto near = [](double x, double y) { return std::abs(x - y) <= 0.02; };
      CHECK(a.queries == b.queries);
      // left out are queries with less than a hundredth outside the sink; rounding may carry some across
      CHECK(std::abs(a.skipped_queries - b.skipped_queries) <= 3);
      CHECK(near(a.recency.mean, b.recency.mean));
      CHECK(near(a.recency.error, b.recency.error));
      CHECK(near(a.sink_free_recency.mean, b.sink_free_recency.mean));
      CHECK(near(a.sink_mass.mean, b.sink_mass.mean));
      REQUIRE(a.profile.probability.size() == b.profile.probability.size());
      for (std::size_t i = 0; i < a.profile.probability.size(); ++i)
        CHECK(near(a.profile.probability[i], b.profile.probability[i]));
      if (b.queries > 0) spread = std::max(spread, std::abs(b.recency.mean - want.heads[0][0].recency.mean));
    }
  }
  CHECK(spread > 0.1);
}

TEST_CASE("analysis on a device: nothing added and packed parts of sequences are refused") {
  device_model::Weights weights = device_model::host_weights();
  rf::Simulated device;
  rf::Model<device_model::Spec, rf::Simulated> model(device, weights);
  rf::DeviceAnalyser<device_model::Spec, rf::Simulated> analyser(model, options);
  CHECK_THROWS_AS((void)analyser.result(), rf::ArgumentError);
  const auto tokens = device_model::random_tokens(10, 3);
  const rf::SequenceRows later{.first_row = 0, .rows = 10, .position = 7}, gap{.first_row = 2, .rows = 8};
  CHECK_THROWS_AS(analyser.add(tokens, {&later, 1}), rf::ArgumentError);
  CHECK_THROWS_AS(analyser.add(tokens, {&gap, 1}), rf::ArgumentError);
}
