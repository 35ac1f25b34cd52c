// One of two libraries that are linked into one program (main.cpp) and know nothing of each other. Both
// include the library's headers, instantiate the same templates, and have a kernel of their own, user::Scale:
// by accident of the same name, but this library's multiplies by LIBRARY_FACTOR. LIBRARY_NAME begins the
// names of what it exports.
#include <cmath>
#include <cstdio>
#include <exception>
#include <vector>

#include "recurformer/cuda/device.cuh"
#include "recurformer/cuda/device_array.hpp"
#include "recurformer/cuda/embedding.hpp"

namespace user {

struct Scale {
  struct Parameters {
    float* x;
  };
  static constexpr int threads = 32;
  static constexpr int blocks_per_multiprocessor = 1;
  RECURFORMER_DEVICE static void run(const Parameters& p) {
    p.x[rf::arch::thread_index()] *= static_cast<float>(LIBRARY_FACTOR);
  }
};

}  // namespace user

#define LIBRARY_JOIN(name, suffix) name##suffix
#define LIBRARY_EXPAND(name, suffix) LIBRARY_JOIN(name, suffix)
#define LIBRARY_EXPORT(suffix) LIBRARY_EXPAND(LIBRARY_NAME, suffix)

/// Kernels as the host knows them: the library's own, and one of recurformer's.
extern "C" const void* LIBRARY_EXPORT(_own_kernel)() {
  return reinterpret_cast<const void*>(&rf::cuda::entry<user::Scale>);
}
extern "C" const void* LIBRARY_EXPORT(_shared_kernel)() {
  return reinterpret_cast<const void*>(&rf::cuda::entry<rf::cuda::EmbeddingKernel<rf::bf16>>);
}

/// x times this library's factor, by a GPU; NaN if that fails.
extern "C" float LIBRARY_EXPORT(_scaled)(float x) {
  try {
    rf::Cuda device;
    const rf::cuda::DeviceArray<float, rf::Cuda> values(device, std::vector<float>(user::Scale::threads, x));
    device.launch<user::Scale>({.blocks = {.x = 1}}, {.x = values.data()});
    return values.to_host().back();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return std::nanf("");
  }
}

/// True if there is a GPU to run on.
extern "C" bool LIBRARY_EXPORT(_has_gpu)() { return rf::cuda::device_count() > 0; }
