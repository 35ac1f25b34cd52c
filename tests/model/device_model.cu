#include <doctest/doctest.h>

#include "model/device_model_cases.hpp"
#include "recurformer/cuda/device.cuh"

TEST_CASE("device model on a GPU: prefill at once, in chunks and token by token") {
  rf::Cuda device;
  device_model::check_chunks(device);
}

TEST_CASE(
    "device model on a GPU: several sequences at once are as each alone, and greedy tokens are the best "
    "ones") {
  rf::Cuda device;
  device_model::check_batch(device);
}

TEST_CASE("device model on a GPU: a snapshot is a moment, and shared pages are copied when written") {
  rf::Cuda device;
  device_model::check_snapshot(device);
}

TEST_CASE("device model on a GPU: what it refuses") {
  rf::Cuda device;
  device_model::check_refusals(device);
}

TEST_CASE("device model on a GPU: prefill and decode across the border between two pages of the cache") {
  rf::Cuda device;
  device_model::check_pages(device);
}

TEST_CASE("device model on a GPU: layers of attention only, by the kernel that Hopper has for them") {
  rf::Cuda device;
  device_model::check_attention_only(device);
}

TEST_CASE("device model on a GPU: tokens are drawn on the device as on the host") {
  rf::Cuda device;
  device_model::check_sampling(device);
}
