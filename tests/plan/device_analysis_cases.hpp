#ifndef TESTS_PLAN_DEVICE_ANALYSIS_CASES_HPP
#define TESTS_PLAN_DEVICE_ANALYSIS_CASES_HPP

// What an analysis on a device is compared with: that of the same model on the CPU, in float.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "recurformer/cuda/simulated.hpp"
#include "recurformer/plan/analysis.hpp"
#include "recurformer/plan/device_analysis.hpp"
#include "support/device_model.hpp"

namespace device_analysis {

/// Weights whose attention is far from even.
template <class Spec>
auto sharp_weights(const rf::ModelShape& shape, const rf::Plan& plan) {
  auto out = device_model::random_weights<Spec>(shape, plan);
  for (const auto& parameter : rf::parameter_refs(out)) {
    if (parameter.name.find("projection") == std::string::npos) continue;
    for (auto& value :
         std::span(static_cast<rf::bf16*>(parameter.data), static_cast<std::size_t>(parameter.size)))
      value = rf::convert<rf::bf16>(4 * rf::convert<float>(value));
  }
  return out;
}

/// The weights in float.
template <class CpuModel, class Weights>
CpuModel cpu_model(const rf::ModelShape& shape, rf::Plan plan, Weights& weights) {
  for (auto& kind : plan.kinds) kind.precision = "fp32";
  CpuModel out(shape, plan);
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

/// Rows of several lengths: the longest of more than a tile of queries, others too short to count, and empty.
inline rf::Batch batch(std::int64_t longest, std::uint64_t seed) {
  rf::Batch out;
  for (const std::int64_t length : {longest, std::int64_t{5}, std::int64_t{0}, std::int64_t{33}}) {
    const auto tokens = device_model::random_tokens(length + 1, seed + static_cast<std::uint64_t>(length));
    out.append(std::span(tokens).first(static_cast<std::size_t>(length)), std::span(tokens).subspan(1));
  }
  return out;
}

/// Compares the analyses of two batches, head by head.
template <class Spec, class CpuModel>
void check_analysis(rf::Simulated& device, const rf::ModelShape& shape, const rf::Plan& plan,
                    const rf::AnalysisOptions& options, std::int64_t longest) {
  auto weights = sharp_weights<Spec>(shape, plan);
  auto host = cpu_model<CpuModel>(shape, plan, weights);
  rf::Model<Spec, rf::Simulated> model(device, weights);
  rf::Analyser<CpuModel> expected(host, options);
  rf::DeviceAnalyser<Spec, rf::Simulated> measured(model, options);
  for (const std::uint64_t seed : {1u, 2u}) {
    expected.add(batch(longest, seed));
    measured.add(batch(longest, seed));
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

}  // namespace device_analysis

#endif  // TESTS_PLAN_DEVICE_ANALYSIS_CASES_HPP
