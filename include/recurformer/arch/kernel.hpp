#ifndef RECURFORMER_ARCH_KERNEL_HPP
#define RECURFORMER_ARCH_KERNEL_HPP

// What can be launched, and how.

#include <concepts>
#include <type_traits>

#include "recurformer/arch/types.hpp"

namespace rf::arch {

/// A kernel type, as arch/arch.hpp describes it. Its Parameters are copied to the device byte by byte.
template <class K>
concept Kernel = std::is_trivially_copyable_v<typename K::Parameters> && requires {
  { K::threads } -> std::convertible_to<int>;
  { K::blocks_per_multiprocessor } -> std::convertible_to<int>;
};

/// The oldest GPUs a kernel runs on: its least_compute_capability if it has one (90 for what uses TMA or
/// wgmma), otherwise 80.
template <class K>
RECURFORMER_HOST_DEVICE constexpr int least_compute_capability() {
  if constexpr (requires { K::least_compute_capability; })
    return K::least_compute_capability;
  else
    return 80;
}

/// Dynamic shared memory that a block can have on every GPU that kernels are for (compute capability 8.6 has
/// least), and on those of 9.0.
inline constexpr int shared_bytes_everywhere = 99 * 1024;
inline constexpr int shared_bytes_of_hopper = 227 * 1024;

/// The grid of a launch.
struct LaunchShape {
  Dim3 blocks = {};
  int shared_bytes = 0;      ///< dynamic shared memory of each block
  bool cooperative = false;  ///< all blocks run at once, so that sync_grid may be used
};

}  // namespace rf::arch

#endif  // RECURFORMER_ARCH_KERNEL_HPP
