#ifndef RECURFORMER_ARCH_TMA_HPP
#define RECURFORMER_ARCH_TMA_HPP

// Copies between global and shared memory that one thread starts and a machine beside the threads carries out
// (sm_90 and newer): boxes of a tensor, described by a TensorMap (cuda/tensor_map.hpp makes it on the host),
// and contiguous bytes. A load tells an mbarrier of its bytes as they land:
//
//   arrive_mbarrier_expecting(barrier, bytes); load_tensor(…, barrier);   all: wait_mbarrier(barrier, parity)
//
// A store belongs to its thread, which groups its stores and waits for its groups:
//
//   all: stores to shared memory; fence_async_shared(); a barrier
//   one: store_tensor(…); commit_stores(); wait_for_store_reads<0>();     then the tile may be overwritten
//
// What threads have written must be fenced before a store reads it (arch/proxy.hpp), and before a load
// overwrites it.
//
// A box lies in shared memory with its innermost dimension contiguous, the next dimension's rows following
// each other, chunks of 16 bytes swizzled by the address (arch/swizzle.hpp). Coordinates are in elements,
// innermost first as the instruction has them. They may be negative or beyond the tensor: loads give zeros
// there, and expect the bytes of the whole box all the same; stores write nothing there.

#include "recurformer/arch/mbarrier.hpp"
#include "recurformer/arch/proxy.hpp"
#include "recurformer/arch/swizzle.hpp"
#include "recurformer/arch/thread.hpp"
#include "recurformer/arch/types.hpp"
#if !defined(__CUDACC__)
#include "recurformer/arch/simulator/tma.hpp"
#endif

namespace rf::arch {
inline namespace RECURFORMER_ARCH {

/// A tensor in global memory and the box that one copy moves. Kernels take it as a member of their
/// Parameters, by reference and never as a copy on the stack: the hardware reads it where the launch has put
/// it.
struct alignas(64) TensorMap {
#if defined(__CUDACC__)
  unsigned long long opaque[16];  ///< a CUtensorMap
#else
  simulator::TensorBox tensor;
#endif
};
static_assert(sizeof(TensorMap) == 128);

#if !defined(__CUDACC__)
namespace detail {
/// Coordinates with zeros for the dimensions that are absent.
template <int Rank>
struct Coordinates {
  int at[3] = {0, 0, 0};
  explicit Coordinates(const int (&given)[Rank]) {
    for (int i = 0; i < Rank; ++i) at[i] = given[i];
  }
};
}  // namespace detail
#endif

/// Brings a tensor map near before its first use, by one thread. (prefetch.tensormap)
RECURFORMER_DEVICE void prefetch_tensor_map([[maybe_unused]] const TensorMap& map) {
#if defined(__CUDACC__)
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
#endif
}

/// Starts loading the box at the 2 or 3 coordinates `at` to shared memory, 128-byte aligned and aligned to
/// its pattern_bytes. Its bytes must have been expected of the mbarrier. (cp.async.bulk.tensor)
template <int Rank>
RECURFORMER_DEVICE void load_tensor(SharedAddress to, const TensorMap& map, const int (&at)[Rank],
                                    SharedAddress barrier, [[maybe_unused]] Caller caller = Caller::here()) {
  static_assert(Rank == 2 || Rank == 3, "recurformer: tensor maps have 2 or 3 dimensions");
#if defined(__CUDACC__)
  if constexpr (Rank == 2)
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
        "[%1, {%2, %3}], [%4];" ::"r"(to),
        "l"(&map), "r"(at[0]), "r"(at[1]), "r"(barrier)
        : "memory");
  else
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
        "[%1, {%2, %3, %4}], [%5];" ::"r"(to),
        "l"(&map), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(barrier)
        : "memory");
#else
  simulator::load_tensor(to, map.tensor, detail::Coordinates<Rank>(at).at, Rank, barrier, caller);
#endif
}

/// Starts storing the box at the coordinates `at` from shared memory aligned as for load_tensor.
/// (cp.async.bulk.tensor, bulk_group)
template <int Rank>
RECURFORMER_DEVICE void store_tensor(const TensorMap& map, const int (&at)[Rank], SharedAddress from,
                                     [[maybe_unused]] Caller caller = Caller::here()) {
  static_assert(Rank == 2 || Rank == 3, "recurformer: tensor maps have 2 or 3 dimensions");
#if defined(__CUDACC__)
  if constexpr (Rank == 2)
    asm volatile(
        "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map),
        "r"(at[0]), "r"(at[1]), "r"(from)
        : "memory");
  else
    asm volatile(
        "cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3}], [%4];" ::"l"(&map),
        "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(from)
        : "memory");
#else
  simulator::store_tensor(map.tensor, detail::Coordinates<Rank>(at).at, Rank, from, caller);
#endif
}

/// Starts loading `bytes` contiguous bytes, a multiple of 16, both addresses 16-byte aligned. They must have
/// been expected of the mbarrier. (cp.async.bulk)
RECURFORMER_DEVICE void load_bulk(SharedAddress to, const void* from, int bytes, SharedAddress barrier,
                                  [[maybe_unused]] Caller caller = Caller::here()) {
#if defined(__CUDACC__)
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
      "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(barrier)
      : "memory");
#else
  simulator::load_bulk(to, from, bytes, barrier, caller);
#endif
}

/// Starts storing `bytes` contiguous bytes, a multiple of 16, both addresses 16-byte aligned. (cp.async.bulk,
/// bulk_group)
RECURFORMER_DEVICE void store_bulk(void* to, SharedAddress from, int bytes,
                                   [[maybe_unused]] Caller caller = Caller::here()) {
#if defined(__CUDACC__)
  asm volatile(
      "cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(__cvta_generic_to_global(to)),
      "r"(from), "r"(bytes)
      : "memory");
#else
  simulator::store_bulk(to, from, bytes, caller);
#endif
}

/// Makes one group, perhaps empty, of the thread's stores since the last. (cp.async.bulk.commit_group)
RECURFORMER_DEVICE void commit_stores() {
#if defined(__CUDACC__)
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#else
  simulator::Bookkeeping hidden;
  simulator::Thread& thread = simulator::this_thread();
  simulator::unit<simulator::BulkStores>(*thread.block).commit(thread);
#endif
}

/// Waits until all but the Newest last groups of this thread have read shared memory. A thread must have
/// waited so for all of them before it ends. (cp.async.bulk.wait_group.read)
template <int Newest>
RECURFORMER_DEVICE void wait_for_store_reads() {
#if defined(__CUDACC__)
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(Newest) : "memory");
#else
  simulator::Bookkeeping hidden;
  simulator::Thread& thread = simulator::this_thread();
  simulator::unit<simulator::BulkStores>(*thread.block).wait_for_reads(thread, Newest);
#endif
}

/// Waits until all but the Newest last groups of this thread have written global memory, visible to it.
/// (cp.async.bulk.wait_group)
template <int Newest>
RECURFORMER_DEVICE void wait_for_stores() {
#if defined(__CUDACC__)
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(Newest) : "memory");
#else
  simulator::Bookkeeping hidden;
  simulator::Thread& thread = simulator::this_thread();
  simulator::unit<simulator::BulkStores>(*thread.block).wait(thread, Newest);
#endif
}

}  // namespace RECURFORMER_ARCH
}  // namespace rf::arch

#endif  // RECURFORMER_ARCH_TMA_HPP
