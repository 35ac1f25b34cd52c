#ifndef RECURFORMER_BENCHMARKS_CUDA_RANDOM_ARRAY_CUH
#define RECURFORMER_BENCHMARKS_CUDA_RANDOM_ARRAY_CUH

// Random numbers made on the device, where gigabytes of them take no time. Never zeros: those draw less
// power, and GPUs then run faster than with real data.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "harness.cuh"
#include "recurformer/arch/thread.hpp"
#include "recurformer/core/dtype.hpp"

namespace rf::benchmarks {

/// Uniform in [-bound, bound), a function of seed and place.
template <class T>
struct RandomKernel {
  struct Parameters {
    T* out = nullptr;
    std::int64_t count = 0;
    float bound = 1;
    std::uint32_t seed = 0;
  };
  static constexpr int threads = 256;
  static constexpr int blocks_per_multiprocessor = 8;

  RECURFORMER_DEVICE static void run(const Parameters& p) {
    const std::int64_t step = std::int64_t{threads} * arch::grid_size().x;
    for (std::int64_t i = std::int64_t{threads} * arch::block_index().x + arch::thread_index(); i < p.count;
         i += step)
      p.out[i] = convert<T>(p.bound * (static_cast<float>(mixed(i, p.seed) >> 8) * 0x1p-23f - 1.0f));
  }

 private:
  RECURFORMER_DEVICE static std::uint32_t mixed(std::int64_t i, std::uint32_t seed) {
    auto x = static_cast<std::uint32_t>(i) * 0x9e3779b9u + static_cast<std::uint32_t>(i >> 32) + seed;
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
  }
};

template <class T>
DeviceArray<T> random_array(std::int64_t count, float bound = 1.7f) {
  static std::uint32_t seed = 0;
  DeviceArray<T> out(gpu(), static_cast<std::size_t>(count));
  gpu().template launch<RandomKernel<T>>(
      {.blocks = {.x = gpu().multiprocessors() * RandomKernel<T>::blocks_per_multiprocessor}},
      {.out = out.data(), .count = count, .bound = bound, .seed = ++seed * 0x85ebca6bu});
  return out;
}

template <class T>
DeviceArray<T> on_device(const std::vector<T>& values) {
  return DeviceArray<T>(gpu(), std::span<const T>(values));
}

}  // namespace rf::benchmarks

#endif  // RECURFORMER_BENCHMARKS_CUDA_RANDOM_ARRAY_CUH
