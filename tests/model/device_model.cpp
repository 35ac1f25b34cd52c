#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>

#include "model/device_model_cases.hpp"
#include "support/simulated_model.hpp"

TEST_CASE("device model, simulated: prefill at once, in chunks and token by token") {
  for (const unsigned seed : {0u, 5u}) {
    rf::Simulated device({.seed = seed});
    device_model::check_chunks(device);
  }
}

TEST_CASE(
    "device model, simulated: several sequences at once are as each alone, and greedy tokens are the best "
    "ones") {
  rf::Simulated device({.seed = 3});
  device_model::check_batch(device);
}

TEST_CASE("device model, simulated: a snapshot is a moment, and shared pages are copied when written") {
  rf::Simulated device;
  device_model::check_snapshot(device);
}

TEST_CASE("device model, simulated: what it refuses") {
  rf::Simulated device;
  device_model::check_refusals(device);
}

TEST_CASE("device model, simulated: prefill and decode across the border between two pages of the cache") {
  rf::Simulated device;
  device_model::check_pages(device);
}

TEST_CASE("device model, simulated: heads with biases beside heads without") {
  rf::Simulated device({.seed = 7});
  device_model::check_biases(device);
}

TEST_CASE("device model, simulated: layers of attention only, by the kernel that Hopper has for them") {
  rf::Simulated device({.seed = 2});
  device_model::check_attention_only(device);
}

TEST_CASE("device model, simulated: tokens are drawn on the device as on the host") {
  rf::Simulated device({.seed = 4});
  device_model::check_sampling(device);
}

TEST_CASE("device model, simulated: two models on two devices take turns") {
  rf::Simulated left({.seed = 5}), right({.seed = 6});
  device_model::check_two_models(left, right);
}

TEST_CASE("device model, simulated: four launches per layer of a prefill, one of a decode step") {
  // with one layer and with two: what belongs to the model and not to a layer drops out
  struct Launches {
    std::int64_t prefill, decode, wide_decode;
  };
  const auto count = [](int layers) {
    rf::ModelShape shape = device_model::host_shape;
    rf::Plan plan = device_model::host_plan;
    shape.layers = layers;
    plan.kind_of_group.resize(static_cast<std::size_t>(layers));
    const auto weights = device_model::random_weights<device_model::Spec>(shape, plan);
    rf::Simulated device;
    rf::Model<device_model::Spec, rf::Simulated> model(device, weights);
    auto cache = model.make_cache({.sequences = 2});
    const auto launches = [&](std::int64_t first, std::int64_t second) {
      const rf::SequenceTokens parts[] = {{0, first}, {1, second}};
      const std::int64_t before = device.launches();
      model.forward(device_model::random_tokens(first + second, 9), parts, cache);
      return device.launches() - before;
    };
    return Launches{launches(20, 3), launches(1, 7), launches(8, 8)};
  };
  const Launches one = count(1), two = count(2);
  CHECK(two.prefill - one.prefill == 4);
  CHECK(two.decode - one.decode == 1);
  CHECK(two.wide_decode - one.wide_decode == 4);  // of more rows than the one launch takes
}
