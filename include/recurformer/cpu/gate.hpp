#ifndef RECURFORMER_CPU_GATE_HPP
#define RECURFORMER_CPU_GATE_HPP

// The gates and activations of recurrent heads (math/activation.hpp) on vectors, with their derivatives.

#include "recurformer/math/activation.hpp"
#include "recurformer/tile/simd.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {
namespace detail {

/// Derivative of silu.
RECURFORMER_INLINE simd::Vec silu_slope(simd::Vec x) {
  const simd::Vec s = simd::sigmoid(x);
  return s + x * s * (1.0f - s);
}

template <Gate Kind>
RECURFORMER_INLINE simd::Vec gate(simd::Vec z) {
  if constexpr (Kind == Gate::silu)
    return simd::silu(z);
  else
    return 2.0f * simd::sigmoid(z);
}

/// The gate and its derivative.
struct GateValue {
  simd::Vec value, slope;
};
template <Gate Kind>
RECURFORMER_INLINE GateValue gate_value(simd::Vec z) {
  const simd::Vec s = simd::sigmoid(z);
  if constexpr (Kind == Gate::silu)
    return {.value = z * s, .slope = s + z * s * (1.0f - s)};
  else
    return {.value = 2.0f * s, .slope = 2.0f * s * (1.0f - s)};
}

}  // namespace detail
}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_GATE_HPP
