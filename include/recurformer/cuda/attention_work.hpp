#ifndef RECURFORMER_CUDA_ATTENTION_WORK_HPP
#define RECURFORMER_CUDA_ATTENTION_WORK_HPP

// Attention as work of a launch that mixes heads (cuda/work_item.hpp), with the tiles of
// cuda/attention_prefill.hpp and cuda/attention_decode.hpp. Where the past is in rings, the last item of a
// group of a sequence appends the new rows: nobody reads that ring any more.

#include <type_traits>

#include "recurformer/cuda/attention_decode.hpp"
#include "recurformer/cuda/attention_prefill.hpp"
#include "recurformer/cuda/ring_append.hpp"
#include "recurformer/cuda/work_item.hpp"

namespace rf::cuda {

/// What follows attention where the past is in pages: nothing.
template <class KeyValues>
struct AfterAttention {};
/// Where it is in rings.
template <class T>
struct AfterAttention<RingKeyValues<T>> {
  RingAppend<T> append;
  unsigned* arrived = nullptr;           ///< (sequences, groups) counters
  const int* items_per_group = nullptr;  ///< (sequences)
};

inline namespace RECURFORMER_ARCH {

template <int Threads, class T>
RECURFORMER_DEVICE void after_attention(const AfterAttention<PagedKeyValues<T>>&, int, int, int, int*) {}
template <int Threads, class T>
RECURFORMER_DEVICE void after_attention(const AfterAttention<RingKeyValues<T>>& after, int groups,
                                        int sequence, int group, int* flag) {
  if (arrives_last<Threads>(after.arrived + sequence * groups + group, after.items_per_group[sequence], flag))
    append_to_ring<Threads>(after.append, sequence, group);
}

/// Tiles of queries: unit is the KV group, part the first packed query. (Beside other works 64 keys of 128
/// elements would be a few registers too many.)
template <class KeyValues, int D, int Threads, int Keys = D <= 64 ? 64 : 32>
struct AttentionPrefillWork {
  using Attention = AttentionParameters<KeyValues>;
  using Tuning = PrefillTuning<D, Keys, Threads / arch::warp_size>;
  struct Parameters {
    Attention attention;
    AfterAttention<KeyValues> after;
  };
  struct Own {
    AttentionItem item;
    int flag;
  };
  static constexpr int threads = Threads;
  static constexpr int own_at = PrefillTiles<typename KeyValues::Element, D, Tuning>::bytes;
  static constexpr int shared_bytes = own_at + static_cast<int>(sizeof(Own));

  RECURFORMER_DEVICE static void run(const Parameters& p, const WorkItem& item, unsigned char* shared) {
    auto* const own = reinterpret_cast<Own*>(shared + own_at);
    if (arch::thread_index() == 0)
      own->item = {.sequence = item.sequence, .group = item.unit, .first_query = item.part};
    sync_item<threads>();
    attention_item<D, Tuning>(p.attention, own->item, shared);
    after_attention<Threads>(p.after, p.attention.groups, item.sequence, item.unit, &own->flag);
  }
};

/// Splits of the keys of a tile of queries: part is the index of a DecodeItem.
template <class KeyValues, int D>
struct AttentionDecodeWork {
  using Attention = AttentionParameters<KeyValues>;
  /// Small tiles, whose registers leave room for two blocks of 256 threads.
  using Tuning = DecodeTuning<D, 1, 16>;
  using Memory = DecodeMemory<typename KeyValues::Element, D, Tuning>;
  struct Parameters {
    Attention attention;
    const DecodeItem* items = nullptr;
    DecodeWorkspace workspace;
    AfterAttention<KeyValues> after;
  };
  static constexpr int threads = arch::warp_size * Tuning::warps;
  static constexpr int shared_bytes = Memory::bytes + static_cast<int>(sizeof(int));

  RECURFORMER_DEVICE static void run(const Parameters& p, const WorkItem& item, unsigned char* shared) {
    attention_decode_item<D, Tuning>(p.attention, p.items[item.part], p.workspace, shared);
    after_attention<threads>(p.after, p.attention.groups, item.sequence, item.unit,
                             reinterpret_cast<int*>(shared + Memory::bytes));
  }
};

}  // namespace RECURFORMER_ARCH
}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_ATTENTION_WORK_HPP
