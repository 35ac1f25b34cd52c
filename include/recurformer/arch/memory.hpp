#ifndef RECURFORMER_ARCH_MEMORY_HPP
#define RECURFORMER_ARCH_MEMORY_HPP

// Global memory: loads with a hint, atomics, and the acquire and release that blocks synchronise by.
// Everything written before a release, by the thread or by threads it has met at a barrier, is visible after
// an acquire that sees it; there are no free-standing fences. Scope is the whole GPU.

#include <cstdint>

#include "recurformer/arch/barrier.hpp"
#include "recurformer/arch/thread.hpp"
#include "recurformer/arch/types.hpp"
#if !defined(__CUDACC__)
#include <atomic>
#endif

namespace rf::arch {
inline namespace RECURFORMER_ARCH {

/// Reads 16 bytes of memory that nothing writes while the kernel runs; 16-byte aligned. (ld.global.nc.v4)
RECURFORMER_DEVICE Words4 load_read_only(const Words4* from,
                                         [[maybe_unused]] Caller caller = Caller::here()) {
#if defined(__CUDACC__)
  Words4 out;
  asm("ld.global.nc.v4.b32 {%0, %1, %2, %3}, [%4];"
      : "=r"(out.word[0]), "=r"(out.word[1]), "=r"(out.word[2]), "=r"(out.word[3])
      : "l"(__cvta_generic_to_global(from)));
  return out;
#else
  if (reinterpret_cast<std::uintptr_t>(from) % 16 != 0)
    throw SimulationError(
        text("load_read_only at ", simulator::place(caller), ": the address is not a multiple of 16"));
  return *from;
#endif
}

/// *at += value, as one operation; returns what was there. T is int, unsigned, unsigned long long or float.
/// Relaxed order: for float the sum depends on the schedule, so results that must repeat don't use it.
/// (atom.relaxed.gpu.add)
template <class T>
RECURFORMER_DEVICE T atomic_add(T* at, T value, [[maybe_unused]] Caller caller = Caller::here()) {
#if defined(__CUDACC__)
  return atomicAdd(at, value);
#else
  simulator::maybe_yield("atomic_add", caller);
  return std::atomic_ref<T>(*at).fetch_add(value, std::memory_order_relaxed);
#endif
}

/// The larger of *at and value into *at; returns what was there. (atom.relaxed.gpu.max)
RECURFORMER_DEVICE unsigned atomic_max(unsigned* at, unsigned value,
                                       [[maybe_unused]] Caller caller = Caller::here()) {
#if defined(__CUDACC__)
  return atomicMax(at, value);
#else
  simulator::maybe_yield("atomic_max", caller);
  std::atomic_ref<unsigned> target(*at);
  unsigned old = target.load(std::memory_order_relaxed);
  while (old < value && !target.compare_exchange_weak(old, value, std::memory_order_relaxed)) {
  }
  return old;
#endif
}

/// *at += value with release and acquire; returns what was there. (atom.acq_rel.gpu.add)
RECURFORMER_DEVICE unsigned atomic_add_acquire_release(unsigned* at, unsigned value,
                                                       [[maybe_unused]] Caller caller = Caller::here()) {
#if defined(__CUDACC__)
  unsigned old;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;"
               : "=r"(old)
               : "l"(__cvta_generic_to_global(at)), "r"(value)
               : "memory");
  return old;
#else
  simulator::maybe_yield("atomic_add_acquire_release", caller);
  return std::atomic_ref<unsigned>(*at).fetch_add(value, std::memory_order_acq_rel);
#endif
}

/// *at += value with release. (red.release.gpu.add)
RECURFORMER_DEVICE void atomic_add_release(unsigned* at, unsigned value,
                                           [[maybe_unused]] Caller caller = Caller::here()) {
#if defined(__CUDACC__)
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(__cvta_generic_to_global(at)), "r"(value)
               : "memory");
#else
  simulator::maybe_yield("atomic_add_release", caller);
  std::atomic_ref<unsigned>(*at).fetch_add(value, std::memory_order_release);
#endif
}

/// *at = value with release. (st.release.gpu)
RECURFORMER_DEVICE void store_release(unsigned* at, unsigned value) {
#if defined(__CUDACC__)
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(__cvta_generic_to_global(at)), "r"(value)
               : "memory");
#else
  std::atomic_ref<unsigned>(*at).store(value, std::memory_order_release);
#endif
}

/// Reads with acquire: the load to poll with. (ld.acquire.gpu)
RECURFORMER_DEVICE unsigned load_acquire(const unsigned* at,
                                         [[maybe_unused]] Caller caller = Caller::here()) {
#if defined(__CUDACC__)
  unsigned value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];"
               : "=r"(value)
               : "l"(__cvta_generic_to_global(at))
               : "memory");
  return value;
#else
  simulator::poll("load_acquire", caller);
  return std::atomic_ref<unsigned>(*const_cast<unsigned*>(at)).load(std::memory_order_acquire);
#endif
}

/// Waits for all blocks of a cooperative launch, each thread of which must call it. *state is 0 before the
/// first use and never needs a reset: its highest bit flips when the last block arrives (block 0 adds what
/// the others leave to 2^31), its low bits return to zero.
RECURFORMER_DEVICE void sync_grid(unsigned* state, Caller caller = Caller::here()) {
  const Dim3 grid = grid_size(), block = block_index();
  const auto blocks = static_cast<unsigned>(grid.x * grid.y * grid.z);
  sync_threads(caller);
  if (thread_index() == 0) {
    const bool first = block.x == 0 && block.y == 0 && block.z == 0;
    const unsigned old = atomic_add_acquire_release(state, first ? 0x80000000u - (blocks - 1) : 1u, caller);
    while (((old ^ load_acquire(state, caller)) & 0x80000000u) == 0) {
    }
  }
  sync_threads(caller);
}

}  // namespace RECURFORMER_ARCH
}  // namespace rf::arch

#endif  // RECURFORMER_ARCH_MEMORY_HPP
