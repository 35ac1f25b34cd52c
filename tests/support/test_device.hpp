#ifndef RECURFORMER_TESTS_SUPPORT_TEST_DEVICE_HPP
#define RECURFORMER_TESTS_SUPPORT_TEST_DEVICE_HPP

// The device that tests of kernels run on: the simulator, or, in a file that nvcc compiles, a GPU. The tests
// of cuda/ and tile/ are compiled both ways.

#include <doctest/doctest.h>

#include <cstddef>
#include <vector>

#include "recurformer/arch/simulator/options.hpp"
#if defined(__CUDACC__)
#include "recurformer/cuda/device.cuh"
#else
#include "recurformer/cuda/simulated.hpp"
#endif

namespace rf::test {

#if defined(__CUDACC__)
/// A GPU, which has its own schedules. Memory starts as 0xff, NaNs, as the simulator's does.
class TestDevice : public Cuda {
 public:
  explicit TestDevice(const arch::SimulatorOptions& = {}) {}

  void* allocate(std::size_t bytes) {
    void* memory = Cuda::allocate(bytes);
    if (memory) cuda::check_cuda(cudaMemsetAsync(memory, 0xff, bytes, stream()), "filling ", bytes, " bytes");
    return memory;
  }
};
#else
using TestDevice = Simulated;
#endif

/// True, with a message, where kernels of sm_90a do not run: on every GPU but those of compute
/// capability 9.0.
inline bool lacks_hopper() {
  const int found = TestDevice().compute_capability();
  if (found != 90)
    MESSAGE("skipped: it takes compute capability 9.0, and this GPU has ", found / 10, ".", found % 10);
  return found != 90;
}

/// Schedules that between them order warps and land copies in every way, with few and with many blocks at
/// once.
inline std::vector<arch::SimulatorOptions> schedules() {
  using arch::CopyTiming;
  return {{.seed = 0, .copies = CopyTiming::early},
          {.seed = 1, .copies = CopyTiming::late, .resident_blocks = 1},
          {.seed = 2, .copies = CopyTiming::random, .resident_blocks = 2},
          {.seed = 3, .copies = CopyTiming::late, .resident_blocks = 3}};
}

}  // namespace rf::test

#endif  // RECURFORMER_TESTS_SUPPORT_TEST_DEVICE_HPP
