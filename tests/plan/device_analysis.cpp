#include "recurformer/plan/device_analysis.hpp"

#include <doctest/doctest.h>

#include "plan/device_analysis_cases.hpp"
#include "support/simulated_model.hpp"
#include "support/small_model.hpp"

namespace {

constexpr rf::AnalysisOptions options{.window = 4, .sink = 2};

}  // namespace

TEST_CASE("analysis on a device: what the CPU measures, head by head, whatever the heads' kind") {
  rf::Simulated device({.seed = 6});
  device_analysis::check_analysis<device_model::Spec, small::Model>(device, device_model::host_shape,
                                                                    device_model::host_plan, options, 70);
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
