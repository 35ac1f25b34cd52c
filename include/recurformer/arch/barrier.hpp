#ifndef RECURFORMER_ARCH_BARRIER_HPP
#define RECURFORMER_ARCH_BARRIER_HPP

// Barriers of a warp and of a block. The barrier of a whole grid is in arch/memory.hpp, made of atomics.

#include "recurformer/arch/thread.hpp"
#include "recurformer/arch/types.hpp"
#if !defined(__CUDACC__)
#include "recurformer/arch/simulator/collective.hpp"
#endif

namespace rf::arch {
inline namespace RECURFORMER_ARCH {

/// Waits for all threads of the block, each of which must call it. Memory accesses before it are visible to
/// the block after it. (barrier.sync 0)
RECURFORMER_DEVICE void sync_threads([[maybe_unused]] Caller caller = Caller::here()) {
#if defined(__CUDACC__)
  __syncthreads();
#else
  simulator::barrier(0, block_size(), true, "sync_threads", caller);
#endif
}

/// Waits until `threads` threads, whole warps of them, have arrived at barrier `id` (1 to 15; 0 is
/// sync_threads'), by this or by arrive_named. (barrier.sync id, threads)
RECURFORMER_DEVICE void sync_named(int id, int threads, [[maybe_unused]] Caller caller = Caller::here()) {
#if defined(__CUDACC__)
  asm volatile("barrier.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#else
  simulator::barrier(id, threads, true, "sync_named", caller);
#endif
}

/// The same where whole warps arrive together and the numbers are known when compiling: as cheap as
/// sync_threads. (barrier.sync.aligned Id, Threads)
template <int Id, int Threads>
RECURFORMER_DEVICE void sync_named([[maybe_unused]] Caller caller = Caller::here()) {
  static_assert(Id >= 1 && Id <= 15 && Threads % warp_size == 0,
                "recurformer: named barriers are 1 to 15, and whole warps arrive at them");
#if defined(__CUDACC__)
  asm volatile("barrier.sync.aligned %0, %1;" ::"n"(Id), "n"(Threads) : "memory");
#else
  simulator::barrier(Id, Threads, true, "sync_named", caller);
#endif
}

/// Counts as arrived at barrier `id` without waiting. (barrier.arrive id, threads)
RECURFORMER_DEVICE void arrive_named(int id, int threads, [[maybe_unused]] Caller caller = Caller::here()) {
#if defined(__CUDACC__)
  asm volatile("barrier.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#else
  simulator::barrier(id, threads, false, "arrive_named", caller);
#endif
}

/// Waits for the lanes of the mask; their memory accesses before it are visible to each other after it.
/// (bar.warp.sync)
RECURFORMER_DEVICE void sync_warp(unsigned lanes = all_lanes,
                                  [[maybe_unused]] Caller caller = Caller::here()) {
#if defined(__CUDACC__)
  __syncwarp(lanes);
#else
  simulator::Thread& thread = simulator::this_thread();
  const void* place = &thread.block->warps[static_cast<std::size_t>(thread.warp())];
  simulator::release(place);
  simulator::Nothing in, out;
  simulator::collective(
      lanes, in, out, [](auto, auto, unsigned) {}, "sync_warp", caller);
  simulator::acquire(place);
#endif
}

}  // namespace RECURFORMER_ARCH
}  // namespace rf::arch

#endif  // RECURFORMER_ARCH_BARRIER_HPP
