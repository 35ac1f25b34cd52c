#ifndef RECURFORMER_CUDA_SM90_ATTENTION_WORK_HPP
#define RECURFORMER_CUDA_SM90_ATTENTION_WORK_HPP

// Hopper's attention over pages as work of a launch that mixes heads (cuda/sm90/heads.hpp): an item of
// cuda/sm90/attention_prefill.hpp, by all warpgroups of the block.

#include "recurformer/arch/proxy.hpp"
#include "recurformer/cuda/sm90/attention_prefill.hpp"
#include "recurformer/cuda/work_item.hpp"

namespace rf::cuda::sm90 {
inline namespace RECURFORMER_ARCH {

/// Tiles of queries: unit is the KV group, part the first packed query.
template <class T, int D>
struct AttentionPrefillWork {
  using Attention = AttentionParameters<PagedKeyValues<T>>;
  using Tuning = PrefillTuningSm90<D>;
  using Memory = PrefillMemory<D, Tuning>;
  using Parameters = MappedAttention<Attention>;
  static constexpr int shared_bytes = Memory::bytes + static_cast<int>(sizeof(AttentionItem));

  RECURFORMER_DEVICE static void consume(const Parameters& p, const WorkItem& item, unsigned char* shared,
                                         int group) {
    const Memory memory(shared);
    if (arch::thread_index() == 0) {
      memory.initialise(p);
      *own_item(shared) = {.sequence = item.sequence, .group = item.unit, .first_query = item.part};
    }
    arch::fence_async_shared();  // of what items before have written where tiles will land
    sync_block();
    PrefillConsumer<Attention, D, Tuning>(p.attention, *own_item(shared), memory, group, 0).run();
    sync_block();
    if (arch::thread_index() == 0) memory.invalidate();
  }
  RECURFORMER_DEVICE static void produce(const Parameters& p, unsigned char* shared) {
    const Memory memory(shared);
    sync_block();
    if (arch::thread_index() == producer_thread) produce_tiles<D, Tuning>(p, *own_item(shared), memory, 0);
    arch::sync_warp();  // the producer's warp goes on together, to barriers of the block
    sync_block();
  }

 private:
  RECURFORMER_DEVICE static AttentionItem* own_item(unsigned char* shared) {
    return reinterpret_cast<AttentionItem*>(shared + Memory::bytes);
  }
  /// The mbarriers and the item are there, or nobody needs them any more. (Barriers 1 to 5 are the
  /// consumers'.)
  RECURFORMER_DEVICE static void sync_block() { arch::sync_named<6, block_threads>(); }
};

}  // namespace RECURFORMER_ARCH
}  // namespace rf::cuda::sm90

#endif  // RECURFORMER_CUDA_SM90_ATTENTION_WORK_HPP
