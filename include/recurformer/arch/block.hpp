#ifndef RECURFORMER_ARCH_BLOCK_HPP
#define RECURFORMER_ARCH_BLOCK_HPP

// What the threads of a block find out together; all of them call it from the same place in the code. nvcc
// makes CUB's collectives of it. For the simulator it is written out in shuffles, barriers and shared memory,
// which are checked as if they were the kernel's. CUB costs nvcc 4 s per file of two architectures, so
// arch/arch.hpp does without this header; kernels that need it include it.

#include <type_traits>

#include "recurformer/arch/barrier.hpp"
#include "recurformer/arch/thread.hpp"
#include "recurformer/arch/types.hpp"
#if defined(__CUDACC__)
#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>
#else
#include "recurformer/arch/warp.hpp"
#endif

namespace rf::arch {
inline namespace RECURFORMER_ARCH {

/// Shared memory in which a block combines values of type T, of 4 or 8 bytes; as large for the simulator and
/// for the host, which have no use for CUB's types, as in a kernel.
template <class T, int Threads>
struct alignas(32) BlockScratch {
  static_assert(Threads % warp_size == 0, "recurformer: a block that combines values has whole warps");
  static constexpr int warps = Threads / warp_size;

  T of_warps[2 * warps + 8];  // CUB adds a byte per warp, a value and padding
  T of_block;
};

#if defined(__CUDACC__)
namespace detail {
/// A collective of CUB's that works in the scratch.
template <class Collective, class T, int Threads>
RECURFORMER_DEVICE Collective collective_in(BlockScratch<T, Threads>& scratch) {
  using Storage = typename Collective::TempStorage;
  static_assert(
      sizeof(Storage) <= sizeof(scratch.of_warps) && alignof(Storage) <= alignof(BlockScratch<T, Threads>),
      "recurformer: this version of CUB needs a larger BlockScratch");
  return Collective(*reinterpret_cast<Storage*>(scratch.of_warps));
}
}  // namespace detail
#endif

/// Sums over the threads of a block.
template <class T>
struct BlockSums {
  T before = 0;  ///< of the threads before this one
  T total = 0;   ///< of all threads
};

/// The sums of every thread's integer. The scratch may be used again at once. (cub::BlockScan)
template <class T, int Threads>
RECURFORMER_DEVICE BlockSums<T> block_sums(T own, BlockScratch<T, Threads>& scratch,
                                           Caller caller = Caller::here()) {
  static_assert(std::is_integral_v<T>, "recurformer: sums of floats would depend on their order");
  BlockSums<T> sums;
#if defined(__CUDACC__)
  using Scan = cub::BlockScan<T, Threads, cub::BLOCK_SCAN_WARP_SCANS>;  // the one of least latency
  detail::collective_in<Scan>(scratch).ExclusiveSum(own, sums.before, sums.total);
#else
  T through = own;  // the sum of the warp's lanes up to this one
  for (int distance = 1; distance < warp_size; distance *= 2) {
    const T below = shuffle_up(through, distance, all_lanes, caller);
    if (lane_index() >= distance) through += below;
  }
  if (lane_index() == warp_size - 1) scratch.of_warps[warp_index()] = through;
  sync_threads(caller);
  sums.before = through - own;
  for (int warp = 0; warp < scratch.warps; ++warp) {
    if (warp < warp_index()) sums.before += scratch.of_warps[warp];
    sums.total += scratch.of_warps[warp];
  }
#endif
  sync_threads(caller);
  return sums;
}

/// combine() over every thread's value, which every thread gets. T combine(T, T) must not depend on order or
/// grouping. The scratch may be used again at once. (cub::BlockReduce)
template <class T, int Threads, class Combine>
RECURFORMER_DEVICE T block_reduce(T own, Combine combine, BlockScratch<T, Threads>& scratch,
                                  Caller caller = Caller::here()) {
#if defined(__CUDACC__)
  own = detail::collective_in<cub::BlockReduce<T, Threads>>(scratch).Reduce(own, combine);
#else
  for (int bits = 1; bits < warp_size; bits *= 2)
    own = combine(own, shuffle_xor(own, bits, all_lanes, caller));
  if (lane_index() == 0) scratch.of_warps[warp_index()] = own;
  sync_threads(caller);
  if (thread_index() == 0)
    for (int warp = 1; warp < scratch.warps; ++warp) own = combine(own, scratch.of_warps[warp]);
#endif
  if (thread_index() == 0) scratch.of_block = own;
  sync_threads(caller);
  return scratch.of_block;  // written again behind the next barrier at the earliest
}

}  // namespace RECURFORMER_ARCH
}  // namespace rf::arch

#endif  // RECURFORMER_ARCH_BLOCK_HPP
