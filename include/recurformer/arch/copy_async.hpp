#ifndef RECURFORMER_ARCH_COPY_ASYNC_HPP
#define RECURFORMER_ARCH_COPY_ASYNC_HPP

// Copies from global to shared memory that go on while the thread does (sm_80 and newer). A thread groups its
// copies and waits for its groups; other threads see them after a barrier that follows the wait.

#include <cstdint>

#include "recurformer/arch/thread.hpp"
#include "recurformer/arch/types.hpp"
#if !defined(__CUDACC__)
#include "recurformer/arch/simulator/machine.hpp"
#endif

namespace rf::arch {

#if !defined(__CUDACC__)
namespace simulator {

inline void land(const PendingCopy& copy) {
  KernelAccess visible;
  std::memcpy(copy.to, copy.from, static_cast<std::size_t>(copy.valid));
  std::memset(copy.to + copy.valid, 0, static_cast<std::size_t>(copy.bytes - copy.valid));
}

inline void copy_async(int bytes, SharedAddress to, const void* from, int valid, Caller caller) {
  Bookkeeping hidden;
  if (reinterpret_cast<std::uintptr_t>(from) % static_cast<unsigned>(bytes) != 0)
    throw SimulationError(
        text("copy_async at ", place(caller), ": the global address is not a multiple of ", bytes));
  if (valid < 0 || valid > bytes)
    throw SimulationError(text("copy_async at ", place(caller), ": ", valid, " valid bytes of ", bytes));
  const PendingCopy copy{.to = shared_bytes(to, static_cast<std::size_t>(bytes),
                                            static_cast<std::size_t>(bytes), "copy_async", caller),
                         .from = static_cast<const unsigned char*>(from),
                         .bytes = bytes,
                         .valid = valid};
  Thread& thread = this_thread();
  if (thread.block->grid.lands_at_once())
    land(copy);
  else
    thread.open_copies.push_back(copy);
}

inline void commit_copies() {
  Bookkeeping hidden;
  Thread& thread = this_thread();
  thread.committed_copies.push_back(std::move(thread.open_copies));
  thread.open_copies.clear();
}

/// Lands the oldest groups until at most `newest` are left.
inline void wait_for_copies(std::size_t newest) {
  Bookkeeping hidden;
  auto& groups = this_thread().committed_copies;
  while (groups.size() > newest) {
    for (const PendingCopy& copy : groups.front()) land(copy);
    groups.erase(groups.begin());
  }
}

}  // namespace simulator
#endif

inline namespace RECURFORMER_ARCH {

/// Starts copying Bytes (4, 8 or 16), both addresses aligned to Bytes: `valid` bytes of global memory, then
/// zeros. With valid = 0 nothing is read. 16 bytes bypass the first-level cache. (cp.async.ca, cp.async.cg)
template <int Bytes>
RECURFORMER_DEVICE void copy_async(SharedAddress to, const void* from, int valid = Bytes,
                                   [[maybe_unused]] Caller caller = Caller::here()) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16, "recurformer: cp.async copies 4, 8 or 16 bytes");
#if defined(__CUDACC__)
  if constexpr (Bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to),
                 "l"(__cvta_generic_to_global(from)), "r"(valid)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to),
                 "l"(__cvta_generic_to_global(from)), "n"(Bytes), "r"(valid)
                 : "memory");
#else
  simulator::copy_async(Bytes, to, from, valid, caller);
#endif
}

/// Makes one group, perhaps empty, of the thread's copies since the last. (cp.async.commit_group)
RECURFORMER_DEVICE void commit_copies() {
#if defined(__CUDACC__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  simulator::commit_copies();
#endif
}

/// Waits until at most the Newest last groups of this thread are still on their way. (cp.async.wait_group)
template <int Newest>
RECURFORMER_DEVICE void wait_for_copies() {
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_group %0;" ::"n"(Newest) : "memory");
#else
  simulator::wait_for_copies(Newest);
#endif
}

}  // namespace RECURFORMER_ARCH
}  // namespace rf::arch

#endif  // RECURFORMER_ARCH_COPY_ASYNC_HPP
