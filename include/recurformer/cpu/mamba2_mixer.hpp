#ifndef RECURFORMER_CPU_MAMBA2_MIXER_HPP
#define RECURFORMER_CPU_MAMBA2_MIXER_HPP

// Mamba2's kernels on the CPU: see mamba2_forward.hpp and mamba2_backward.hpp.

#include <cstdint>
#include <span>

#include "recurformer/cpu/mamba2_backward.hpp"
#include "recurformer/cpu/mamba2_forward.hpp"
#include "recurformer/cpu/mixer_kernel.hpp"
#include "recurformer/spec/mamba2.hpp"

namespace rf::cpu {

template <SsdPolicy Policy>
struct MixerKernel<Mamba2<Policy>> {
  template <class Precision, class Widths>
  static void forward(const Mamba2<Policy>&, const ForwardArguments& arguments) {
    with_d_head(Widths{}, arguments.shape.d_head, [&](auto d_head) {
      detail::mamba2_forward<Policy, typename Precision::State, d_head.value>(arguments);
    });
  }

  template <class Precision, class Widths>
  static void backward(const Mamba2<Policy>&, const BackwardArguments& arguments) {
    with_d_head(Widths{}, arguments.shape.d_head,
                [&](auto d_head) { detail::mamba2_backward<Policy, d_head.value>(arguments); });
  }

  static std::int64_t saved_size(const Mamba2<Policy>&, const HeadShape& shape, std::int64_t groups,
                                 std::span<const SequenceRows> sequences) {
    std::int64_t floats = 0;
    for (const SequenceRows& rows : sequences)
      floats += groups * detail::mamba2_saved_floats(shape, rows.rows);
    return floats;
  }
};

}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_MAMBA2_MIXER_HPP
