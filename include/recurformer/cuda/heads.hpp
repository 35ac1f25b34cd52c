#ifndef RECURFORMER_CUDA_HEADS_HPP
#define RECURFORMER_CUDA_HEADS_HPP

// All heads of a layer over many tokens in one launch, whatever they compute: the blocks of one grid take the
// items of a list (cuda/work_item.hpp) in its order, so that a multiprocessor works on attention and on
// recurrent heads side by side.
//
//   launch_heads<HeadsKernel<Threads, Works…>>(device, list, works, counters, …)
//
// A block takes one item. (With a loop over items, compilers keep what depends on the thread only in
// registers across all kinds of work, and attention spills.)
//
// Floor: per pipe (tensor cores, special functions, memory), the sum over all heads; the largest of these
// sums.

#include <cstdint>

#include "recurformer/arch/arch.hpp"
#include "recurformer/arch/kernel.hpp"
#include "recurformer/cuda/work_item.hpp"

namespace rf::cuda {

/// The parameters of several works, one each.
template <class... Works>
struct WorkParameters {};
template <class First, class... Rest>
struct WorkParameters<First, Rest...> {
  typename First::Parameters first = {};
  WorkParameters<Rest...> rest = {};
};

/// The items of a launch, on the device.
struct ItemList {
  const WorkItem* items = nullptr;
  int count = 0;
  int shared_bytes = 0;  ///< the most that one of them needs, a multiple of 16
};

/// Blocks of `threads` that a multiprocessor has at once: attention's tiles leave registers for 256 threads.
constexpr int heads_blocks(int threads) { return threads >= 256 ? 1 : 256 / threads; }

inline namespace RECURFORMER_ARCH {

/// Computes one item by the work it names; all threads of a block of `Threads`, who meet before and after.
/// The item is in shared memory: it costs no registers where it is needed again.
template <int Threads, int Index = 0, class First, class... Rest>
RECURFORMER_DEVICE void run_item(const WorkParameters<First, Rest...>& works, const WorkItem& item,
                                 unsigned char* shared) {
  static_assert(First::threads <= Threads, "recurformer: the block has fewer threads than a work needs");
  if (item.run == Index) {
    if (First::threads == Threads || arch::thread_index() < First::threads)
      First::run(works.first, item, shared);
  } else if constexpr (sizeof...(Rest) > 0) {
    run_item<Threads, Index + 1>(works.rest, item, shared);
  }
}

/// Tickets of a launch, one per block, in the order in which blocks start: counters[0] hands them out,
/// counters[1] counts the blocks that are through; the last of these zeroes all counters of the launch.
struct Tickets {
  static constexpr int counters = 2;
  unsigned* data = nullptr;
  int used = counters;  ///< these two and what the works use behind them

  /// The block's ticket, for all its threads, by way of an int of shared memory.
  RECURFORMER_DEVICE int take(int* shared) const {
    if (arch::thread_index() == 0) *shared = static_cast<int>(arch::atomic_add(data, 1u));
    arch::sync_threads();
    return *shared;
  }
  /// Called by all threads at the block's end.
  RECURFORMER_DEVICE void leave(int* shared) const {
    arch::sync_threads();  // nobody needs the counters, or what lay in shared memory, any more
    const auto blocks = static_cast<unsigned>(arch::grid_size().x);
    if (arch::thread_index() == 0) *shared = arch::atomic_add_acquire_release(data + 1, 1u) + 1 == blocks;
    arch::sync_threads();
    if (*shared == 0) return;
    for (int i = arch::thread_index(); i < used; i += arch::block_size()) data[i] = 0;
  }
};

/// What a block keeps behind the shared memory of its item.
struct ItemSlot {
  WorkItem item;
  int ticket;
};

/// The item that is the block's, for all its threads.
RECURFORMER_DEVICE void take_item(const Tickets& tickets, const ItemList& list, ItemSlot* slot) {
  const int ticket = tickets.take(&slot->ticket);
  if (arch::thread_index() == 0) slot->item = list.items[ticket];
  arch::sync_threads();
}

/// Counters that launch_heads needs before those of the works.
inline constexpr int heads_counters = Tickets::counters;

template <int Threads, class... Works>
struct HeadsKernel {
  struct Parameters {
    ItemList list;
    Tickets tickets;
    WorkParameters<Works...> works;
  };
  static constexpr int threads = Threads;
  static constexpr int blocks_per_multiprocessor = heads_blocks(Threads);

  RECURFORMER_DEVICE static void run(const Parameters& p) {
    auto* const shared = arch::shared_memory<unsigned char>();
    auto* const slot = reinterpret_cast<ItemSlot*>(shared + p.list.shared_bytes);
    take_item(p.tickets, p.list, slot);
    run_item<Threads>(p.works, slot->item, shared);
    p.tickets.leave(&slot->ticket);
  }
};

}  // namespace RECURFORMER_ARCH

/// Computes the items of the list by a kernel such as HeadsKernel. `counters`: heads_counters and
/// `work_counters` of the works behind them; all zero, and left zero.
template <class Kernel, class... Works, class Device>
void launch_heads(Device& device, const ItemList& list, const WorkParameters<Works...>& works,
                  unsigned* counters, int work_counters) {
  if (list.count == 0) return;
  device.template launch<Kernel>(
      {.blocks = {.x = list.count}, .shared_bytes = list.shared_bytes + static_cast<int>(sizeof(ItemSlot))},
      {.list = list, .tickets = {.data = counters, .used = heads_counters + work_counters}, .works = works});
}

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_HEADS_HPP
