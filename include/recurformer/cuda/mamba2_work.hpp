#ifndef RECURFORMER_CUDA_MAMBA2_WORK_HPP
#define RECURFORMER_CUDA_MAMBA2_WORK_HPP

// Mamba2 heads as work of a launch that mixes heads (cuda/work_item.hpp). Of the three passes of
// cuda/mamba2_prefill.hpp the ends and the outputs of segments are items; the carry is done by whoever
// finishes the last end of a group and sequence, and announced to the outputs.

#include "recurformer/cuda/mamba2_decode.hpp"
#include "recurformer/cuda/mamba2_prefill.hpp"
#include "recurformer/cuda/work_item.hpp"

namespace rf::cuda {

/// Segments: unit is the KV group, part the segment of its sequence. Phase 0 finds the ends of all but the
/// last segment, phase 1 the outputs.
template <class T, int P, class Traits>
struct Mamba2PrefillWork {
  using Ends = SsdWalk<T, P, Traits, false>;
  using Outputs = SsdWalk<T, P, Traits, true>;
  using Carry = SsdCarry<T, P>;
  struct Parameters {
    SsdParameters<T> ssd;
    unsigned* arrived = nullptr;  ///< (sequences, groups) counters; only where there are several segments
    unsigned* carried = nullptr;  ///< (sequences, groups) flags: the states before the segments are there
    int flag_at = 0;              ///< flag_at_of(stages)
  };
  static constexpr int threads = Outputs::threads;
  static constexpr int flag_at_of(int stages) { return Outputs::shared_bytes(stages); }
  static constexpr int shared_bytes(int stages) { return flag_at_of(stages) + static_cast<int>(sizeof(int)); }

  RECURFORMER_DEVICE static void run(const Parameters& p, const WorkItem& item, unsigned char* shared) {
    const Mamba2Arguments<T>& call = p.ssd.call;
    const Mamba2Plan& plan = p.ssd.segments.plan;
    const int pair = item.sequence * call.groups + item.unit;
    const SsdItem segment{.segment = item.part, .group = item.unit, .sequence = item.sequence};
    const int segments = plan.segments_of(call.sequences[item.sequence]);
    if (item.phase == 1) {
      if (segments > 1) wait_for_item<threads>(p.carried + pair);
      return Outputs::walk(p.ssd, segment);
    }
    Ends::walk(p.ssd, segment);
    if (!arrives_last<threads>(p.arrived + pair, segments - 1, reinterpret_cast<int*>(shared + p.flag_at)))
      return;
    for (int element = arch::thread_index(); element < Carry::size; element += threads)
      Carry::carry(p.ssd, item.unit, item.sequence, element);
    announce_item<threads>(p.carried + pair);
  }
};

/// All new tokens of a sequence: unit is the KV group.
template <class T, int P, class Traits>
struct Mamba2DecodeWork {
  using Steps = SsdSteps<T, P, Traits>;
  using Parameters = typename Steps::Parameters;
  static constexpr int threads = Steps::threads;

  RECURFORMER_DEVICE static void run(const Parameters& p, const WorkItem& item, unsigned char*) {
    Steps::walk(p, item.unit, item.sequence);
  }
};

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_MAMBA2_WORK_HPP
