#ifndef RECURFORMER_CUDA_HEADS_HPP
#define RECURFORMER_CUDA_HEADS_HPP

// All heads of a layer over many tokens in one launch, whatever they compute: the blocks of one persistent
// grid take the items of a list (cuda/work_item.hpp) in its order, so that a multiprocessor works on
// attention and on recurrent heads side by side.
//
//   launch_heads<HeadsKernel<Threads, Works…>>(device, list, works, counters, …)
//
// There are as many blocks as run at once, and each takes a ticket, computes that item, and takes the next. A
// ticket taken ahead would hide half a microsecond, but its item would wait behind what may be a whole scan.
//
// Attention has no register to spare for what lives from item to item. So nothing does: works leave no
// variable that might (cuda/work_item.hpp), and the optimiser is kept from moving anything out of the loop
// (take_items).
//
// Floor: per pipe (tensor cores, special functions, memory), the sum over all heads; the largest of these
// sums.

#include <cstdint>
#include <type_traits>

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

/// In the place of a work that another place has as well.
struct NoWork {
  struct Parameters {};
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
  if constexpr (!std::is_same_v<First, NoWork>) {
    static_assert(First::threads <= Threads, "recurformer: the block has fewer threads than a work needs");
    if (item.run == Index) {
      if (First::threads == Threads || arch::thread_index() < First::threads)
        First::run(works.first, item, shared);
      return;
    }
  }
  if constexpr (sizeof...(Rest) > 0) run_item<Threads, Index + 1>(works.rest, item, shared);
}

/// Tickets of a launch, in the order in which blocks ask for them: counters[0] hands them out, counters[1]
/// counts the blocks that are through; the last of these zeroes all counters of the launch.
struct Tickets {
  static constexpr int counters = 2;
  unsigned* data = nullptr;
  int used = counters;  ///< these two and what the works use behind them

  /// The next ticket; by one thread.
  RECURFORMER_DEVICE int next() const { return static_cast<int>(arch::atomic_add(data, 1u)); }
  /// The same for all threads of a block, by way of an int of shared memory.
  RECURFORMER_DEVICE int take(int* shared) const {
    if (arch::thread_index() == 0) *shared = next();
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

/// Puts the next item into the slot; false if there is none. By all threads of the block, which need not have
/// met since the item before.
RECURFORMER_DEVICE bool take_item(const Tickets& tickets, const ItemList& list, ItemSlot* slot) {
  arch::sync_threads();  // the item before has left shared memory
  if (arch::thread_index() == 0) {
    slot->ticket = tickets.next();
    if (slot->ticket < list.count) slot->item = list.items[slot->ticket];
  }
  arch::sync_threads();
  return slot->ticket < list.count;
}

/// Takes items until there are none, calls compute(item) for each, and leaves; by all threads of the block.
/// (compute is no lambda, which nvcc may find too large to inline.)
///
/// In a loop that the optimiser sees, it works out what depends on the thread only, of all kinds of work,
/// before the loop and keeps it in registers. This one has a second way in, and is none to it; ptxas knows
/// that nobody comes that way, and sees a loop as good as any other.
template <class Compute>
RECURFORMER_DEVICE void take_items(const Tickets& tickets, const ItemList& list, ItemSlot* slot,
                                   Compute compute) {
  if (arch::hidden_false()) goto taken;
next:
  if (!take_item(tickets, list, slot)) goto done;
taken:
  compute(slot->item);
  goto next;
done:
  tickets.leave(&slot->ticket);
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
    take_items(p.tickets, p.list, slot, Compute{p.works, shared});
  }

 private:
  struct Compute {
    const WorkParameters<Works...>& works;
    unsigned char* shared;
    RECURFORMER_DEVICE void operator()(const WorkItem& item) const { run_item<Threads>(works, item, shared); }
  };
};

}  // namespace RECURFORMER_ARCH

/// Computes the items of the list by a kernel such as HeadsKernel. `counters`: heads_counters and
/// `work_counters` of the works behind them; all zero, and left zero.
template <class Kernel, class... Works, class Device>
void launch_heads(Device& device, const ItemList& list, const WorkParameters<Works...>& works,
                  unsigned* counters, int work_counters) {
  if (list.count == 0) return;
  const int resident = device.multiprocessors() * Kernel::blocks_per_multiprocessor;
  device.template launch<Kernel>(
      {.blocks = {.x = list.count < resident ? list.count : resident},
       .shared_bytes = list.shared_bytes + static_cast<int>(sizeof(ItemSlot))},
      {.list = list, .tickets = {.data = counters, .used = heads_counters + work_counters}, .works = works});
}

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_HEADS_HPP
