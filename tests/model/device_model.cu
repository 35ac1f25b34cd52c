#include <doctest/doctest.h>

#include "model/device_cache_cases.hpp"
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

TEST_CASE("device model on a GPU: heads with biases beside heads without") {
  rf::Cuda device;
  device_model::check_biases(device);
}

TEST_CASE("device model on a GPU: layers of attention only, by the kernel that Hopper has for them") {
  rf::Cuda device;
  device_model::check_attention_only(device);
}

TEST_CASE("device model on a GPU: tokens are drawn on the device as on the host") {
  rf::Cuda device;
  device_model::check_sampling(device);
}

TEST_CASE("device model on a GPU: two models on two streams, one of them the caller's, take turns") {
  cudaStream_t stream;
  REQUIRE(cudaStreamCreate(&stream) == cudaSuccess);
  {
    rf::Cuda left, right(0, stream);
    device_model::check_two_models(left, right);
  }
  CHECK(cudaStreamDestroy(stream) == cudaSuccess);
}

TEST_CASE("device layer on a GPU: a layer of a user's own program computes its definition") {
  rf::Cuda device;
  device_model::check_layer(device);
}

TEST_CASE("device cache on a GPU: rollback takes tokens back, wherever the sequence stands") {
  rf::Cuda device;
  device_cache::check_rollback(device);
}

TEST_CASE("device cache on a GPU: a replay gives the bits of a cache that never went further") {
  rf::Cuda device;
  device_cache::check_replay(device);
}

TEST_CASE("device cache on a GPU: speculative decoding of two sequences") {
  rf::Cuda device;
  device_cache::check_speculation(device);
}

TEST_CASE("device cache on a GPU: prompts of all lengths in one call, then taken back") {
  rf::Cuda device;
  device_cache::check_batch(device);
}

TEST_CASE("device cache on a GPU: what it cannot take back is an error") {
  rf::Cuda device;
  device_cache::check_refusals(device);
}
