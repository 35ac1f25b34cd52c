#ifndef RECURFORMER_CUDA_WORK_ITEM_HPP
#define RECURFORMER_CUDA_WORK_ITEM_HPP

// Work items: the pieces that the heads of a layer are cut into, so that one launch can mix heads of
// different kinds. The blocks of a grid take items in the order of a list (cuda/work_list.hpp) and compute
// them by types
//
//   struct Work {
//     struct Parameters { … };                  // of the run, plain, default-constructible
//     static constexpr int threads;             // the first so many of the block compute an item
//     static constexpr int shared_bytes;        // at most; from the start of the block's shared memory
//     static void run(const Parameters&, const WorkItem&, unsigned char* shared);
//   };
//
// Shared memory holds anything when an item begins, and so it may when it ends; no copy is then in flight.
// A work gives every variable a value on every way through it. What has none on some way is, in a loop over
// items, what the item before has left: its registers are in use all the time, beside every other work's.
//
// An item may wait only for items before it in the list. Blocks take items in its order, and finish one
// before they take the next: of those that are not finished the first has been taken, and waits for nothing.
// So no order of blocks can deadlock, however many are resident at once. Items of a run tell each other by
// counters in global memory, which are zero when a launch begins.

#include <cstdint>

#include "recurformer/arch/arch.hpp"

namespace rf::cuda {

/// A block's piece of one run. What phase, unit and part mean is the work's.
struct alignas(16) WorkItem {
  std::int16_t run = 0;  ///< which of the launch's works
  std::int16_t phase = 0;
  int sequence = 0;
  int unit = 0;  ///< a head or a KV group of the run
  int part = 0;
};

inline namespace RECURFORMER_ARCH {

/// Waits for the threads that compute an item, the first `Threads` of the block.
template <int Threads>
RECURFORMER_DEVICE void sync_item(arch::Caller caller = arch::Caller::here()) {
  arch::sync_named<1, Threads>(caller);
}

/// Counts the item as arrived at `counter`. True in the item that comes last of `expected`, to which all that
/// the others wrote before is then visible. `flag`: an int of shared memory that nothing else uses meanwhile.
template <int Threads>
RECURFORMER_DEVICE bool arrives_last(unsigned* counter, int expected, int* flag) {
  sync_item<Threads>();
  if (arch::thread_index() == 0)
    *flag = arch::atomic_add_acquire_release(counter, 1u) + 1 == static_cast<unsigned>(expected);
  sync_item<Threads>();
  return *flag != 0;
}

/// Lets wait_for_item() return elsewhere, with all that this item has written before.
template <int Threads>
RECURFORMER_DEVICE void announce_item(unsigned* flag) {
  sync_item<Threads>();
  if (arch::thread_index() == 0) arch::store_release(flag, 1u);
}
template <int Threads>
RECURFORMER_DEVICE void wait_for_item(const unsigned* flag) {
  if (arch::thread_index() == 0)
    while (arch::load_acquire(flag) == 0) {
    }
  sync_item<Threads>();
}

}  // namespace RECURFORMER_ARCH
}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_WORK_ITEM_HPP
