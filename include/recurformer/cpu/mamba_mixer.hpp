#ifndef RECURFORMER_CPU_MAMBA_MIXER_HPP
#define RECURFORMER_CPU_MAMBA_MIXER_HPP

// The kernels of Mamba heads on the CPU (reference/mamba.hpp has the equations). Saved for backward: the
// states before every scan_chunk tokens, (sequence, head, chunk, d_state, d_head); all else is recomputed.

#include <cstdint>
#include <span>

#include "recurformer/cpu/mamba_backward.hpp"
#include "recurformer/cpu/mamba_forward.hpp"
#include "recurformer/cpu/mixer_kernel.hpp"

namespace rf::cpu {

template <ScanShape Shape, MambaPolicy Policy>
struct MixerKernel<Mamba<Shape, Policy>> {
  using Mixer = Mamba<Shape, Policy>;

  /// One instantiation serves every width.
  template <class Precision, class Widths>
  static void forward(const Mixer&, const ForwardArguments& arguments) {
    detail::MambaForward<Mixer, typename Precision::State>(arguments).run();
  }

  static std::int64_t saved_size(const Mixer&, const HeadShape& shape, std::int64_t groups,
                                 std::span<const SequenceRows> sequences) {
    return groups * shape.queries_per_group * Shape.d_state * shape.d_head *
           detail::saved_chunks_before(sequences, sequences.size());
  }

  template <class Precision, class Widths>
  static void backward(const Mixer&, const BackwardArguments& arguments) {
    detail::MambaBackward<Mixer>(arguments).run();
  }
};

}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_MAMBA_MIXER_HPP
