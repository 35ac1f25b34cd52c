#ifndef RECURFORMER_CUDA_SM90_HEADS_HPP
#define RECURFORMER_CUDA_SM90_HEADS_HPP

// cuda/heads.hpp for Hopper: all heads of a layer over many tokens in one launch, whose blocks have the
// warpgroups of cuda/sm90/warpgroups.hpp. A work may be written for these,
//
//   struct Work {
//     struct Parameters { … };
//     static constexpr int shared_bytes;
//     // by the consumers, `group` being the thread's
//     static void consume(const Parameters&, const WorkItem&, unsigned char* shared, int group);
//     // by the last warpgroup, at the same time
//     static void produce(const Parameters&, unsigned char* shared);
//   };
//
// any other runs on the consumers' threads, with whose registers a selective scan keeps the special functions
// busy, while the last warpgroup waits. Warpgroups start an item together: that the last one brings in what
// the next item needs while the others finish would take its ticket ahead (cuda/heads.hpp).
//
// The kernel has been simulated, compiled and held to a budget of registers and instructions; it has not run
// on a GPU yet.

#include <type_traits>

#include "recurformer/arch/arch.hpp"
#include "recurformer/arch/register_pool.hpp"
#include "recurformer/cuda/heads.hpp"
#include "recurformer/cuda/sm90/warpgroups.hpp"

namespace rf::cuda::sm90 {

/// Whether a work is written for warpgroups.
template <class Work>
inline constexpr bool has_warpgroups = requires(const typename Work::Parameters& p, unsigned char* shared) {
  Work::produce(p, shared);
};

inline namespace RECURFORMER_ARCH {

/// A consumer's part of an item, by the work it names.
template <int Index = 0, class First, class... Rest>
RECURFORMER_DEVICE void consume_item(const WorkParameters<First, Rest...>& works, const WorkItem& item,
                                     unsigned char* shared) {
  if constexpr (!std::is_same_v<First, NoWork>) {
    if (item.run == Index) {
      if constexpr (has_warpgroups<First>) {
        First::consume(works.first, item, shared, warpgroup());
      } else {
        static_assert(First::threads <= consumer_threads,
                      "recurformer: the block has fewer threads than a work needs");
        if (First::threads == consumer_threads || arch::thread_index() < First::threads)
          First::run(works.first, item, shared);
      }
      return;
    }
  }
  if constexpr (sizeof...(Rest) > 0) consume_item<Index + 1>(works.rest, item, shared);
}
/// The last warpgroup's.
template <int Index = 0, class First, class... Rest>
RECURFORMER_DEVICE void produce_item(const WorkParameters<First, Rest...>& works, const WorkItem& item,
                                     unsigned char* shared) {
  if constexpr (has_warpgroups<First>)
    if (item.run == Index) First::produce(works.first, shared);
  if constexpr (sizeof...(Rest) > 0) produce_item<Index + 1>(works.rest, item, shared);
}

template <class... Works>
struct HeadsKernel {
  using Parameters = typename cuda::HeadsKernel<block_threads, Works...>::Parameters;
  static constexpr int threads = block_threads;
  static constexpr int blocks_per_multiprocessor = 1;
  static constexpr int least_compute_capability = 90;

  RECURFORMER_DEVICE static void run(const Parameters& p) {
    auto* const shared = arch::shared_memory<unsigned char>();
    auto* const slot = reinterpret_cast<ItemSlot*>(shared + p.list.shared_bytes);
    // Each branch all the way to the end: what is common to both would have the registers of the poorer one.
    if (warpgroup() == consumer_groups) {
      arch::decrease_registers<producer_registers>();
      take_items(p.tickets, p.list, slot, Produce{p.works, shared});
    } else {
      arch::increase_registers<consumer_registers>();
      take_items(p.tickets, p.list, slot, Consume{p.works, shared});
    }
  }

 private:
  struct Produce {
    const WorkParameters<Works...>& works;
    unsigned char* shared;
    RECURFORMER_DEVICE void operator()(const WorkItem& item) const { produce_item(works, item, shared); }
  };
  struct Consume {
    const WorkParameters<Works...>& works;
    unsigned char* shared;
    RECURFORMER_DEVICE void operator()(const WorkItem& item) const { consume_item(works, item, shared); }
  };
};

}  // namespace RECURFORMER_ARCH

}  // namespace rf::cuda::sm90

#endif  // RECURFORMER_CUDA_SM90_HEADS_HPP
