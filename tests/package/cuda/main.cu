// A user's CUDA program: a kernel of their own, launched by way of the library on a stream of their own, with
// memory from a pool of their own.
#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "recurformer/arch/thread.hpp"
#include "recurformer/cuda/device.cuh"
#include "recurformer/cuda/device_array.hpp"

namespace user {

/// x[i] *= factor, one element per thread.
struct Scale {
  struct Parameters {
    float* x;
    float factor;
  };
  static constexpr int threads = 32, blocks_per_multiprocessor = 1;
  RECURFORMER_DEVICE static void run(const Parameters& p) { p.x[rf::arch::thread_index()] *= p.factor; }
};

float scaled_on(cudaStream_t stream, cudaMemPool_t pool, float x) {
  rf::Cuda device(0, stream, pool);
  const rf::cuda::DeviceArray<float, rf::Cuda> values(device, std::vector<float>(Scale::threads, x));
  device.launch<Scale>({.blocks = {.x = 1}}, {.x = values.data(), .factor = 3});
  return values.to_host().back();
}

}  // namespace user

int main() {
  std::string reason;
  if (rf::cuda::device_count(&reason) == 0) {
    std::printf("compiled and linked; not run: %s\n", reason.c_str());
    return 0;
  }
  cudaStream_t stream = nullptr;
  cudaMemPool_t pool = nullptr;
  if (cudaStreamCreate(&stream) != cudaSuccess) return 1;
  if (cudaDeviceGetDefaultMemPool(&pool, 0) != cudaSuccess) return 1;
  const float result = user::scaled_on(stream, pool, 5);
  std::uint64_t most = 0;
  cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemHigh, &most);
  cudaStreamDestroy(stream);
  std::printf("5 times 3 is %g\n", static_cast<double>(result));
  return result == 15 && most > 0 ? 0 : 1;
}
