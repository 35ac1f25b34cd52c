#ifndef RECURFORMER_REFERENCE_SWIGLU_HPP
#define RECURFORMER_REFERENCE_SWIGLU_HPP

// act = silu(gate) ∘ up, silu(g) = g / (1 + e^-g) (arXiv 2002.05202), in double, with its gradients.

#include <cmath>
#include <cstddef>
#include <span>

namespace rf::reference {

/// All of one size.
inline void swiglu(std::span<const double> gate, std::span<const double> up, std::span<double> act) {
  for (std::size_t i = 0; i < act.size(); ++i) act[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
}

/// d_gate and d_up overwrite.
inline void swiglu_backward(std::span<const double> gate, std::span<const double> up,
                            std::span<const double> d_act, std::span<double> d_gate, std::span<double> d_up) {
  for (std::size_t i = 0; i < d_act.size(); ++i) {
    const double sigmoid = 1 / (1 + std::exp(-gate[i]));
    d_gate[i] = d_act[i] * up[i] * sigmoid * (1 + gate[i] * (1 - sigmoid));
    d_up[i] = d_act[i] * gate[i] * sigmoid;
  }
}

}  // namespace rf::reference

#endif  // RECURFORMER_REFERENCE_SWIGLU_HPP
