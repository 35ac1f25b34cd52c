#ifndef RECURFORMER_ARCH_PROXY_HPP
#define RECURFORMER_ARCH_PROXY_HPP

// TMA and wgmma reach memory on a path of their own, the asynchronous proxy (sm_90 and newer). What threads
// have written goes over to it by a fence of the threads that wrote, followed by a barrier with the thread
// that starts the asynchronous access. The other way, a wait for the mbarrier, the store or the multiply is
// enough.

#include "recurformer/arch/thread.hpp"
#include "recurformer/arch/types.hpp"
#if !defined(__CUDACC__)
#include "recurformer/arch/simulator/proxy.hpp"
#endif

namespace rf::arch {
inline namespace RECURFORMER_ARCH {

/// Shows the asynchronous proxy what the thread, and threads it has met at barriers, have written to shared
/// memory, be it by stores, cp.async (after its wait) or stmatrix. (fence.proxy.async.shared::cta)
RECURFORMER_DEVICE void fence_async_shared() {
#if defined(__CUDACC__)
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#else
  simulator::Bookkeeping hidden;
  simulator::unit<simulator::AsyncProxy>(*simulator::this_thread().block).fence();
#endif
}

/// The same for global memory, which loads and stores here share with those of threads. The simulator does
/// not miss this one. (fence.proxy.async.global)
RECURFORMER_DEVICE void fence_async_global() {
#if defined(__CUDACC__)
  asm volatile("fence.proxy.async.global;" ::: "memory");
#endif
}

}  // namespace RECURFORMER_ARCH
}  // namespace rf::arch

#endif  // RECURFORMER_ARCH_PROXY_HPP
