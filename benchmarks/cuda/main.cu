// benchmark_cuda [Google Benchmark's options]: times the CUDA backend on the first GPU. Without a GPU it can
// list what it has (--benchmark_list_tests); otherwise it says so and ends with 77, which CTest reports as
// skipped, or with 1 where RECURFORMER_REQUIRE_GPU is set.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <string_view>

#include "commit.hpp"
#include "cublas.cuh"
#include "harness.cuh"

namespace {

int without_gpu(const std::string& reason) {
  const char* required = std::getenv("RECURFORMER_REQUIRE_GPU");
  const bool fails = required && *required != '\0' && std::string(required) != "0";
  std::fprintf(stderr, "%s: no GPU: %s\n", fails ? "failed" : "skipped", reason.c_str());
  return fails ? 1 : 77;
}

/// What a result is worth nothing without, for the head of the output.
void describe_run() {
  using rf::text;
  const rf::Cuda& device = rf::benchmarks::gpu();
  const rf::benchmarks::Ceilings& most = rf::benchmarks::ceilings();
  int driver = 0;
  rf::cuda::check_cuda(cudaDriverGetVersion(&driver), "asking for the driver's version");
  benchmark::AddCustomContext("commit", RECURFORMER_COMMIT);
  benchmark::AddCustomContext("gpu", device.properties().name);
  benchmark::AddCustomContext("multiprocessors", text(device.multiprocessors()));
  benchmark::AddCustomContext("compute_capability", text(device.compute_capability()));
  benchmark::AddCustomContext("cuda_driver", text(driver));
  benchmark::AddCustomContext("cuda_compiled", text(CUDART_VERSION));
  benchmark::AddCustomContext("ceiling_copy_GB/s", text(most.bytes * 1e-9));
  benchmark::AddCustomContext("ceiling_bf16_product_TFLOP/s", text(most.operations * 1e-12));
  benchmark::AddCustomContext("ceiling_exponentials_G/s", text(most.exponentials * 1e-9));
  const std::string& missing = rf::benchmarks::cublas().missing();
  if (missing.empty()) return;
  benchmark::AddCustomContext("missing", "cuBLAS: " + missing);
  std::fprintf(stderr, "cuBLAS is missing (%s): no ceiling for matrix products, no share of it\n",
               missing.c_str());
}

}  // namespace

int main(int count, char** arguments) {
  bool only_lists = false;
  for (int i = 1; i < count; ++i)
    only_lists |= std::string_view(arguments[i]).starts_with("--benchmark_list_tests");
  benchmark::Initialize(&count, arguments);
  if (benchmark::ReportUnrecognizedArguments(count, arguments)) return 2;
  std::string reason;
  if (!only_lists && rf::cuda::device_count(&reason) == 0) return without_gpu(reason);
  try {
    if (!only_lists) describe_run();
    benchmark::RunSpecifiedBenchmarks();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "benchmark_cuda: %s\n", error.what());
    return 1;
  }
  benchmark::Shutdown();
  return 0;
}
