#ifndef RECURFORMER_TESTS_SUPPORT_TEST_DEVICE_HPP
#define RECURFORMER_TESTS_SUPPORT_TEST_DEVICE_HPP

// The device that tests of kernels run on: the simulator, or, in a file that nvcc compiles, a GPU. The tests
// of cuda/ and tile/ are compiled both ways.

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
