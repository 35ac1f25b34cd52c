#ifndef RECURFORMER_ARCH_MBARRIER_HPP
#define RECURFORMER_ARCH_MBARRIER_HPP

// Barriers in shared memory that threads and asynchronous copies arrive at (sm_90 and newer). An mbarrier
// goes through phases 0, 1, 2, …; a phase ends when `arrivals` threads have arrived and all bytes expected
// have landed, and the next begins at once. A thread waits for the end of a phase by its parity, phase modulo
// 2, and so must keep within one phase of the barrier: waiting for the parity of the phase before the current
// one returns immediately. Hence the ring of a producer and its consumers, lap 0, 1, … of slot s:
//
//   producer: wait_mbarrier(empty[s], (lap + 1) % 2); arrive_mbarrier_expecting(full[s], bytes); copies
//   consumer: wait_mbarrier(full[s], lap % 2); reads; arrive_mbarrier(empty[s])
//
// Memory accesses before an arrival, and bytes landed by copies, are visible to the threads of the block
// after a wait for that phase. An mbarrier is 8 bytes, 8-byte aligned.

#include "recurformer/arch/thread.hpp"
#include "recurformer/arch/types.hpp"
#if !defined(__CUDACC__)
#include "recurformer/arch/simulator/mbarrier.hpp"
#endif

namespace rf::arch {
inline namespace RECURFORMER_ARCH {

/// Bytes of an mbarrier, and its alignment.
inline constexpr int mbarrier_bytes = 8;

/// Makes an mbarrier in phase 0 whose phases take `arrivals` arrivals, 1 to 2^20 - 1. Others may use it after
/// fence_mbarrier_init by the same thread and then a barrier of the block. (mbarrier.init)
RECURFORMER_DEVICE void init_mbarrier(SharedAddress barrier, int arrivals,
                                      [[maybe_unused]] Caller caller = Caller::here()) {
#if defined(__CUDACC__)
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
#else
  simulator::Bookkeeping hidden;
  simulator::unit<simulator::Mbarriers>(*simulator::this_thread().block)
      .initialise(barrier, arrivals, caller);
#endif
}

/// Makes the memory of an mbarrier that nobody uses ordinary memory again. (mbarrier.inval)
RECURFORMER_DEVICE void invalidate_mbarrier(SharedAddress barrier,
                                            [[maybe_unused]] Caller caller = Caller::here()) {
#if defined(__CUDACC__)
  asm volatile("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
#else
  simulator::Bookkeeping hidden;
  simulator::unit<simulator::Mbarriers>(*simulator::this_thread().block).invalidate(barrier, caller);
#endif
}

/// Shows this thread's init_mbarriers to the asynchronous copies. (fence.mbarrier_init)
RECURFORMER_DEVICE void fence_mbarrier_init() {
#if defined(__CUDACC__)
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

/// Arrives. (mbarrier.arrive)
RECURFORMER_DEVICE void arrive_mbarrier(SharedAddress barrier,
                                        [[maybe_unused]] Caller caller = Caller::here()) {
#if defined(__CUDACC__)
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
#else
  simulator::arrive_mbarrier(barrier, 0, true, "arrive_mbarrier", caller);
#endif
}

/// Lets the current phase wait for `bytes` more bytes of copies, which start afterwards, at most 2^20 - 1 at
/// a time, and arrives. (mbarrier.arrive.expect_tx)
RECURFORMER_DEVICE void arrive_mbarrier_expecting(SharedAddress barrier, int bytes,
                                                  [[maybe_unused]] Caller caller = Caller::here()) {
#if defined(__CUDACC__)
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
#else
  simulator::arrive_mbarrier(barrier, bytes, true, "arrive_mbarrier_expecting", caller);
#endif
}

/// The same without arriving. (mbarrier.expect_tx)
RECURFORMER_DEVICE void expect_bytes(SharedAddress barrier, int bytes,
                                     [[maybe_unused]] Caller caller = Caller::here()) {
#if defined(__CUDACC__)
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
#else
  simulator::arrive_mbarrier(barrier, bytes, false, "expect_bytes", caller);
#endif
}

/// Whether the phase of this parity (0 or 1), the current one or the one before, has ended.
/// (mbarrier.test_wait.parity)
RECURFORMER_DEVICE bool test_mbarrier(SharedAddress barrier, unsigned parity,
                                      [[maybe_unused]] Caller caller = Caller::here()) {
#if defined(__CUDACC__)
  unsigned ended;
  asm volatile(
      "{\n.reg .pred ended;\n"
      "mbarrier.test_wait.parity.shared::cta.b64 ended, [%1], %2;\n"
      "selp.u32 %0, 1, 0, ended;\n}"
      : "=r"(ended)
      : "r"(barrier), "r"(parity)
      : "memory");
  return ended != 0;
#else
  return simulator::test_mbarrier(barrier, parity, caller);
#endif
}

/// Waits for that, asleep while the hardware lets it. (mbarrier.try_wait.parity)
RECURFORMER_DEVICE void wait_mbarrier(SharedAddress barrier, unsigned parity,
                                      [[maybe_unused]] Caller caller = Caller::here()) {
#if defined(__CUDACC__)
  asm volatile(
      "{\n.reg .pred ended;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 ended, [%0], %1;\n"
      "@!ended bra again;\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
#else
  simulator::wait_mbarrier(barrier, parity, caller);
#endif
}

}  // namespace RECURFORMER_ARCH
}  // namespace rf::arch

#endif  // RECURFORMER_ARCH_MBARRIER_HPP
