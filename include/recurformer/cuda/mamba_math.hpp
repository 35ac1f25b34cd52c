#ifndef RECURFORMER_CUDA_MAMBA_MATH_HPP
#define RECURFORMER_CUDA_MAMBA_MATH_HPP

// The nonlinear functions of Mamba heads on the device, in float, made of the special-function unit's 2^x and
// 1/x; and sums over neighbouring lanes.

#include "recurformer/arch/arch.hpp"
#include "recurformer/math/activation.hpp"

namespace rf::cuda::mamba {

inline constexpr float log2_e = 1.44269504088896341f;

/// Four floats moved by one 16-byte access.
struct alignas(16) Float4 {
  float value[4];
};

inline namespace RECURFORMER_ARCH {

/// 1 / (1 + e^-x). 2^x may overflow to infinity, whose reciprocal is 0.
RECURFORMER_DEVICE float sigmoid(float x) { return arch::reciprocal(1.0f + arch::exp2(-log2_e * x)); }

/// log(1 + e^x), relative error about 3e-7: max(x, 0) + 2 atanh(e / (2 + e)) with e = e^-|x| in [0, 1], where
/// nothing cancels. 2 atanh(z) / z is a polynomial in z² <= 1/9 (minimax, relative error 4e-9).
RECURFORMER_DEVICE float softplus(float x) {
  const float e = arch::exp2(-log2_e * (x < 0.0f ? -x : x));
  const float z = e * arch::reciprocal(2.0f + e);
  const float w = z * z;
  float p = 0.28157778f;
  p = p * w + 0.27965158f;
  p = p * w + 0.40024595f;
  p = p * w + 0.66666322f;
  p = p * w + 2.0f;
  return (x > 0.0f ? x : 0.0f) + z * p;
}

template <Activation Kind>
RECURFORMER_DEVICE float activate(float x) {
  if constexpr (Kind == Activation::silu)
    return x * sigmoid(x);
  else
    return x;
}

/// What an output is multiplied by.
template <Gate Kind>
RECURFORMER_DEVICE float gate_value(float z) {
  return (Kind == Gate::silu ? z : 2.0f) * sigmoid(z);
}

/// Sums Count values (a power of two) over each aligned set of Lanes lanes (another) in a fixed order. Lane l
/// of a set is left with the sums of the values l·Count/Lanes … in value[0] …: one at least, Count/Lanes
/// where there are more values than lanes. Halves are exchanged, so that Lanes values take Lanes - 1
/// shuffles.
template <int Lanes, int Count>
RECURFORMER_DEVICE void sum_over_lanes(float (&value)[Count], int lane) {
  int left = Count;
  RECURFORMER_UNROLL
  for (int bit = Lanes / 2; bit >= 1; bit /= 2) {
    if (left == 1) {
      value[0] += arch::shuffle_xor(value[0], bit);
      continue;
    }
    left /= 2;
    const bool upper = (lane & bit) != 0;
    RECURFORMER_UNROLL
    for (int i = 0; i < Count / 2; ++i) {
      if (i >= left) break;
      const float other = arch::shuffle_xor(upper ? value[i] : value[i + left], bit);
      value[i] = (upper ? value[i + left] : value[i]) + other;
    }
  }
}

}  // namespace RECURFORMER_ARCH
}  // namespace rf::cuda::mamba

#endif  // RECURFORMER_CUDA_MAMBA_MATH_HPP
