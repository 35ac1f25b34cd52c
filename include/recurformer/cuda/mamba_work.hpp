#ifndef RECURFORMER_CUDA_MAMBA_WORK_HPP
#define RECURFORMER_CUDA_MAMBA_WORK_HPP

// Mamba heads as work of a launch that mixes heads (cuda/work_item.hpp). Of the three passes of
// cuda/mamba_prefill.hpp the first and the replay are items; the carry is done by whoever finishes the last
// first item of a head and sequence, and announced to the replays.

#include "recurformer/cuda/mamba_decode.hpp"
#include "recurformer/cuda/mamba_prefill.hpp"
#include "recurformer/cuda/work_item.hpp"

namespace rf::cuda::mamba {
inline namespace RECURFORMER_ARCH {

/// Chunks: unit is the head, part the chunk among those of the batch. Phase 0 is the first pass, of all
/// chunks but a sequence's last where it has several; phase 1 the replay, of all but its first.
template <class Head, class T, int Threads>
struct PrefillWork {
  using Tile = PrefillTile<Head, T, Threads>;
  struct Parameters {
    PrefillParameters<T> prefill;
    unsigned* arrived = nullptr;  ///< (sequences, heads) counters; only where a sequence has several chunks
    unsigned* carried = nullptr;  ///< (sequences, heads) flags: the states after the chunks are true
  };
  static constexpr int threads = Tile::threads;
  static constexpr int flag_at = Shared<Tile>::bytes;
  static constexpr int shared_bytes = flag_at + static_cast<int>(sizeof(int));

  RECURFORMER_DEVICE static void run(const Parameters& p, const WorkItem& item, unsigned char* shared) {
    const int heads = p.prefill.arguments.heads();
    const int pair = item.sequence * heads + item.unit;
    if (item.phase == 1) {
      wait_for_item<threads>(p.carried + pair);
      return replay_item<Tile>(p.prefill, item.part * heads + item.unit, shared);
    }
    first_item<Tile>(p.prefill, item.part * heads + item.unit, shared);
    const int chunks = chunks_of(p.prefill.arguments.sequences[item.sequence], p.prefill.chunk_rows);
    if (chunks == 1) return;
    if (!arrives_last<threads>(p.arrived + pair, chunks - 1, reinterpret_cast<int*>(shared + flag_at)))
      return;
    carry_item<Head>(p.prefill, item.sequence, item.unit, arch::thread_index(), threads);
    announce_item<threads>(p.carried + pair);
  }
};

/// All new tokens of a sequence: unit is the head.
template <class Head, class T, int Threads>
struct DecodeWork {
  using Tile = DecodeTile<Head, T, Threads>;
  using Parameters = Arguments<T>;
  static constexpr int threads = Tile::threads;
  static constexpr int shared_bytes = Shared<Tile>::bytes;

  RECURFORMER_DEVICE static void run(const Parameters& p, const WorkItem& item, unsigned char* shared) {
    decode_item<Tile>(p, item.sequence, item.unit, shared);
  }
};

}  // namespace RECURFORMER_ARCH
}  // namespace rf::cuda::mamba

#endif  // RECURFORMER_CUDA_MAMBA_WORK_HPP
