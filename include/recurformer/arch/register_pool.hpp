#ifndef RECURFORMER_ARCH_REGISTER_POOL_HPP
#define RECURFORMER_ARCH_REGISTER_POOL_HPP

// Registers given from one warpgroup of a block to another (sm_90a). A block is launched with R registers per
// thread, what its launch bounds allow: 65536 / (threads · blocks_per_multiprocessor), rounded down to a
// multiple of 8. Producers decrease theirs and consumers increase, so that the sum over warpgroups stays
// within what the launch gave: for 384 threads 3 · 168, which 24 + 240 + 240 fit and 32 + 240 + 240 don't.
// All warps of a warpgroup take part, and meet at a barrier before the next time. A warpgroup has 24 to 256
// registers per thread, a multiple of 8.

#include "recurformer/arch/types.hpp"
#if !defined(__CUDACC__)
#include "recurformer/arch/simulator/register_pool.hpp"
#endif

namespace rf::arch {
inline namespace RECURFORMER_ARCH {

/// Gives registers back, down to Count per thread. (setmaxnreg.dec)
template <int Count>
RECURFORMER_DEVICE void decrease_registers([[maybe_unused]] Caller caller = Caller::here()) {
  static_assert(Count >= 24 && Count <= 256 && Count % 8 == 0,
                "recurformer: setmaxnreg takes multiples of 8 from 24 to 256");
#if defined(__CUDACC__)
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count));
#else
  simulator::set_registers(Count, false, "decrease_registers", caller);
#endif
}

/// Takes registers, up to Count per thread; waits until so many have been given back. (setmaxnreg.inc)
template <int Count>
RECURFORMER_DEVICE void increase_registers([[maybe_unused]] Caller caller = Caller::here()) {
  static_assert(Count >= 24 && Count <= 256 && Count % 8 == 0,
                "recurformer: setmaxnreg takes multiples of 8 from 24 to 256");
#if defined(__CUDACC__)
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count));
#else
  simulator::set_registers(Count, true, "increase_registers", caller);
#endif
}

}  // namespace RECURFORMER_ARCH
}  // namespace rf::arch

#endif  // RECURFORMER_ARCH_REGISTER_POOL_HPP
