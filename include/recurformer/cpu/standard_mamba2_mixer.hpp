#ifndef RECURFORMER_CPU_STANDARD_MAMBA2_MIXER_HPP
#define RECURFORMER_CPU_STANDARD_MAMBA2_MIXER_HPP

// Standard Mamba-2's kernels on the CPU: see standard_mamba2_forward.hpp and standard_mamba2_backward.hpp.

#include <cstdint>
#include <span>

#include "recurformer/cpu/mixer_kernel.hpp"
#include "recurformer/cpu/standard_mamba2_backward.hpp"
#include "recurformer/cpu/standard_mamba2_forward.hpp"
#include "recurformer/spec/standard_mamba2.hpp"

namespace rf::cpu {

template <SsdShape Shape>
struct MixerKernel<StandardMamba2<Shape>> {
  using Mixer = StandardMamba2<Shape>;

  template <class Precision, class Widths>
  static void forward(const Mixer&, const ForwardArguments& arguments) {
    with_d_head(Widths{}, arguments.shape.d_head, [&](auto d_head) {
      detail::StandardMamba2Forward<Shape, typename Precision::State, d_head.value>(arguments).run();
    });
  }

  static std::int64_t saved_size(const Mixer&, const HeadShape& shape, std::int64_t groups,
                                 std::span<const SequenceRows> sequences) {
    const auto saved = detail::standard_mamba2_saved<Shape>(shape, groups, sequences);
    return saved.empty() ? 0 : saved.back().end;
  }

  template <class Precision, class Widths>
  static void backward(const Mixer&, const BackwardArguments& arguments) {
    with_d_head(Widths{}, arguments.shape.d_head,
                [&](auto d_head) { detail::StandardMamba2Backward<Shape, d_head.value>(arguments).run(); });
  }
};

}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_STANDARD_MAMBA2_MIXER_HPP
