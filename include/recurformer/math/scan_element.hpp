#ifndef RECURFORMER_MATH_SCAN_ELEMENT_HPP
#define RECURFORMER_MATH_SCAN_ELEMENT_HPP

// The algebra of linear recurrences: one step s ← a·s + b is a pair (a, b), and two steps in a row are again
// one step,
//
//   (a₀, b₀) then (a₁, b₁)  =  (a₁·a₀, a₁·b₀ + b₁),
//
// an associative product with the unit (1, 0). Whatever cuts a recurrence along time (chunks, threads, warps)
// combines such pairs in order of time (Mamba, arXiv 2312.00752, §3.3; Blelloch 1990).

#include "recurformer/core/config.hpp"

namespace rf {

/// Steps of s ← decay·s + input, summed up. The default is no step at all.
template <class T>
struct ScanElement {
  T decay = T(1);
  T input = T(0);

  /// The state after these steps.
  RECURFORMER_HOST_DEVICE constexpr T apply(T state) const { return decay * state + input; }

  friend constexpr bool operator==(const ScanElement&, const ScanElement&) = default;
};

/// `earlier` followed by `later`. Associative, not commutative.
template <class T>
RECURFORMER_HOST_DEVICE constexpr ScanElement<T> combine(ScanElement<T> earlier, ScanElement<T> later) {
  return {.decay = later.decay * earlier.decay, .input = later.apply(earlier.input)};
}

}  // namespace rf

#endif  // RECURFORMER_MATH_SCAN_ELEMENT_HPP
