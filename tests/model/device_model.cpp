#include <doctest/doctest.h>

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
