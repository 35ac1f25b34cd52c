#ifndef RECURFORMER_ARCH_HIDDEN_HPP
#define RECURFORMER_ARCH_HIDDEN_HPP

// A constant that nvcc's optimiser does not know, but ptxas does: code that it guards steers the one and
// leaves no instruction of the other.

#include "recurformer/arch/types.hpp"

namespace rf::arch {
inline namespace RECURFORMER_ARCH {

/// False.
RECURFORMER_DEVICE bool hidden_false() {
#if defined(__CUDACC__)
  unsigned zero;
  asm("mov.u32 %0, 0;" : "=r"(zero));
  return zero != 0;
#else
  return false;
#endif
}

}  // namespace RECURFORMER_ARCH
}  // namespace rf::arch

#endif  // RECURFORMER_ARCH_HIDDEN_HPP
