#ifndef RECURFORMER_ARCH_SIMULATOR_OPTIONS_HPP
#define RECURFORMER_ARCH_SIMULATOR_OPTIONS_HPP

// How simulated kernels are scheduled. Every compiler sees this header, so that a test that names a schedule
// also compiles for a GPU, which has its own.

#include <cstddef>

#include "recurformer/arch/simulator/sanitizer.hpp"

namespace rf::arch {

/// When an asynchronous copy becomes visible, between its issue and the wait for it.
enum class CopyTiming { early, late, random };

struct SimulatorOptions {
  unsigned seed = 0;  ///< 0: warps and lanes in order; otherwise shuffled, and copies land by its dice
  CopyTiming copies = CopyTiming::random;
  int resident_blocks = 4;  ///< >= 1, at once; a cooperative launch holds all its blocks at once
  std::size_t stack_bytes = simulator::sanitized ? 256 * 1024 : 64 * 1024;  ///< of each CUDA thread
};

}  // namespace rf::arch

#endif  // RECURFORMER_ARCH_SIMULATOR_OPTIONS_HPP
