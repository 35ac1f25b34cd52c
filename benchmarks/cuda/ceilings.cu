// The ceilings that shares refer to: medians of ten, after a warm-up.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "cublas.cuh"
#include "harness.cuh"
#include "random_array.cuh"
#include "recurformer/arch/math.hpp"

namespace rf::benchmarks {

/// Chains of exponentials, enough of them to hide their latency: x = 2^-x stays between 0.5 and 1.
struct ExponentialKernel {
  struct Parameters {
    float* out = nullptr;  ///< one per thread
  };
  static constexpr int threads = 256, steps = 4096, chains = 8;
  static constexpr int blocks_per_multiprocessor = 4;

  RECURFORMER_DEVICE static void run(const Parameters& p) {
    const int thread = arch::block_index().x * threads + arch::thread_index();
    float x[chains];
    RECURFORMER_UNROLL
    for (int i = 0; i < chains; ++i) x[i] = static_cast<float>(arch::thread_index() + i) * 1e-3f;
    RECURFORMER_ROLLED
    for (int step = 0; step < steps; ++step) {
      RECURFORMER_UNROLL
      for (int i = 0; i < chains; ++i) x[i] = arch::exp2(-x[i]);
    }
    float sum = 0;
    RECURFORMER_UNROLL
    for (int i = 0; i < chains; ++i) sum += x[i];
    p.out[thread] = sum;
  }
};

namespace {

template <class Body>
double median_seconds(Body&& body) {
  Stopwatch watch;
  for (int warm_up = 0; warm_up < 3; ++warm_up) body();
  std::vector<double> seconds;
  for (int i = 0; i < 10; ++i) {
    overwrite_cache();
    watch.start();
    body();
    seconds.push_back(watch.stop());
  }
  std::sort(seconds.begin(), seconds.end());
  return (seconds[4] + seconds[5]) / 2;
}

double copy_rate() {
  constexpr std::int64_t floats = std::int64_t{1} << 28;
  const auto from = random_array<float>(floats);
  const DeviceArray<float> to(gpu(), from.size());
  const double seconds = median_seconds([&] { gpu().copy_on_device(to.data(), from.data(), from.bytes()); });
  return 2 * static_cast<double>(from.bytes()) / seconds;
}

double product_rate() {
  if (!cublas().missing().empty()) return 0;
  constexpr int size = 8192;
  constexpr std::int64_t elements = std::int64_t{size} * size;
  const auto x = random_array<bf16>(elements), w = random_array<bf16>(elements);
  const DeviceArray<bf16> y(gpu(), x.size());
  const double seconds =
      median_seconds([&] { cublas().multiply(x.data(), w.data(), y.data(), size, size, size); });
  return 2.0 * size * size * size / seconds;
}

double exponential_rate() {
  using Kernel = ExponentialKernel;
  const int blocks = gpu().multiprocessors() * Kernel::blocks_per_multiprocessor;
  const DeviceArray<float> out(gpu(), static_cast<std::size_t>(blocks) * Kernel::threads);
  const double seconds =
      median_seconds([&] { gpu().launch<Kernel>({.blocks = {.x = blocks}}, {.out = out.data()}); });
  return static_cast<double>(out.size()) * Kernel::steps * Kernel::chains / seconds;
}

}  // namespace

const Ceilings& ceilings() {
  static const Ceilings measured{
      .bytes = copy_rate(), .operations = product_rate(), .exponentials = exponential_rate()};
  return measured;
}

}  // namespace rf::benchmarks
