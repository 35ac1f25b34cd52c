#ifndef RECURFORMER_BENCHMARKS_CUDA_HARNESS_CUH
#define RECURFORMER_BENCHMARKS_CUDA_HARNESS_CUH

// What the benchmarks of the CUDA backend share: the GPU, the work of a call, and measuring it against what
// this GPU was measured to do at most. Times of kernels are between CUDA events, with the L2 cache
// overwritten before each call; times of whole models are the host's.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <exception>
#include <string>
#include <utility>

#include "recurformer/cuda/device.cuh"
#include "recurformer/cuda/device_array.hpp"

namespace rf::benchmarks {

template <class T>
using DeviceArray = cuda::DeviceArray<T, Cuda>;

/// The GPU of all benchmarks. The first call opens it.
inline Cuda& gpu() {
  static Cuda device;
  return device;
}

/// Per second, measured in this run; 0 for what could not be measured.
struct Ceilings {
  double bytes = 0;         ///< read and written by a large copy on the device
  double operations = 0;    ///< of a large bf16 matrix product through cuBLAS
  double exponentials = 0;  ///< of ex2.approx on registers
};

/// Measured by the first call.
const Ceilings& ceilings();

/// What one call has to do at least.
struct Work {
  double operations = 0;    ///< floating-point, on tensor cores
  double bytes = 0;         ///< read or written once each
  double exponentials = 0;  ///< and other special functions
};

/// Seconds that the ceilings allow for work: those of the unit that is busy the longest, or 0 if one that the
/// work needs was not measured.
inline double floor_seconds(const Work& work) {
  const Ceilings& most = ceilings();
  double floor = 0;
  for (const auto& [amount, rate] :
       {std::pair(work.operations, most.operations), std::pair(work.bytes, most.bytes),
        std::pair(work.exponentials, most.exponentials)}) {
    if (amount > 0 && rate == 0) return 0;
    if (amount > 0) floor = std::max(floor, amount / rate);
  }
  return floor;
}

/// The time between two points of the device's stream.
class Stopwatch {
 public:
  Stopwatch() {
    cuda::check_cuda(cudaEventCreate(&start_), "creating an event");
    cuda::check_cuda(cudaEventCreate(&stop_), "creating an event");
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;
  ~Stopwatch() {
    cudaEventDestroy(start_);
    cudaEventDestroy(stop_);
  }

  void start() { cuda::check_cuda(cudaEventRecord(start_, gpu().stream()), "recording an event"); }
  /// Seconds since start(), once the device has come here.
  double stop() {
    cuda::check_cuda(cudaEventRecord(stop_, gpu().stream()), "recording an event");
    cuda::check_cuda(cudaEventSynchronize(stop_), "waiting for an event");
    float milliseconds = 0;
    cuda::check_cuda(cudaEventElapsedTime(&milliseconds, start_, stop_), "reading an event");
    return 1e-3 * static_cast<double>(milliseconds);
  }

 private:
  cudaEvent_t start_ = nullptr, stop_ = nullptr;
};

/// Puts a write of twice the L2 cache onto the stream. What was cached is gone, and while the device is busy
/// with it the host has time to enqueue what is measured.
inline void overwrite_cache() {
  static const DeviceArray<unsigned char> memory(
      gpu(), 2 * static_cast<std::size_t>(gpu().properties().l2CacheSize));
  static int value = 0;
  cuda::check_cuda(cudaMemsetAsync(memory.data(), ++value, memory.bytes(), gpu().stream()),
                   "overwriting the cache");
}

/// Reports TFLOP/s, GB/s and `share`, the time the ceilings allow over the time taken.
inline void report(benchmark::State& state, const Work& work, double seconds) {
  if (work.operations > 0) state.counters["TFLOP/s"] = work.operations / seconds * 1e-12;
  if (work.bytes > 0) state.counters["GB/s"] = work.bytes / seconds * 1e-9;
  if (const double floor = floor_seconds(work); floor > 0) state.counters["share"] = floor / seconds;
}

/// Times what body() puts onto the stream.
template <class Body>
void measure(benchmark::State& state, const Work& work, Body&& body) {
  Stopwatch watch;
  for (int warm_up = 0; warm_up < 3; ++warm_up) body();
  double total = 0;
  for (auto _ : state) {
    overwrite_cache();
    watch.start();
    body();
    const double seconds = watch.stop();
    state.SetIterationTime(seconds);
    total += seconds;
  }
  gpu().synchronize();
  report(state, work, total / static_cast<double>(state.iterations()));
}

/// Seconds that body() takes on the host, which must wait for the device itself.
template <class Body>
double host_seconds(Body&& body) {
  gpu().synchronize();
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Registers a benchmark with the settings of all. An exception is reported as its error: the others still
/// run.
template <class Body>
benchmark::internal::Benchmark* add(const std::string& name, Body body) {
  return benchmark::RegisterBenchmark(name.c_str(),
                                      [body](benchmark::State& state) {
                                        try {
                                          body(state);
                                        } catch (const std::exception& error) {
                                          state.SkipWithError(error.what());
                                        }
                                      })
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond)
      ->Iterations(20)
      ->Repetitions(5)
      ->ReportAggregatesOnly(true);
}

/// The same for kernels of sm_90a, which other GPUs report as an error of these rows.
template <class Body>
benchmark::internal::Benchmark* add_hopper(const std::string& name, Body body) {
  return add(name, [body](benchmark::State& state) {
    if (gpu().compute_capability() == 90)
      body(state);
    else
      state.SkipWithError("takes compute capability 9.0");
  });
}

}  // namespace rf::benchmarks

#endif  // RECURFORMER_BENCHMARKS_CUDA_HARNESS_CUH
