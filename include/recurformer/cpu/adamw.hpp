#ifndef RECURFORMER_CPU_ADAMW_HPP
#define RECURFORMER_CPU_ADAMW_HPP

// AdamW (arXiv 1711.05101), one fused pass over a tensor:
//   m = β₁ m + (1 - β₁) g,  v = β₂ v + (1 - β₂) g²,
//   w -= rate · (m / (1 - β₁ᵗ) / (√(v / (1 - β₂ᵗ)) + ε) + decay · w)
// w is the float master; where parameters are stored narrower, the rounded copy is written in the same pass.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "recurformer/core/parallel.hpp"
#include "recurformer/tile/simd.hpp"

namespace rf::cpu {

/// One step's constants for one tensor.
struct AdamwStep {
  float rate = 0;
  float beta1 = 0.9f;
  float beta2 = 0.95f;
  float epsilon = 1e-8f;
  float decay = 0;
  float gradient_scale = 1;  ///< clipping and averaging, applied to g first
  float correction1 = 1;     ///< 1 / (1 - β₁ᵗ)
  float correction2 = 1;     ///< 1 / (1 - β₂ᵗ)
};

inline namespace RECURFORMER_ISA {

/// Updates w, m, v (n floats each) from g and stores w rounded to T in `stored` (may be w itself where T is
/// float).
template <class T>
void adamw(const AdamwStep& step, std::int64_t n, const float* g, float* w, float* m, float* v, T* stored) {
  constexpr std::int64_t block = 16384;
  parallel_for((n + block - 1) / block, [&](std::int64_t b) {
    const std::int64_t first = b * block;
    simd::for_lanes(std::min(block, n - first), [&](std::int64_t offset, auto lanes) {
      const std::int64_t i = first + offset;
      const simd::Vec gradient = simd::load_n(g + i, lanes) * step.gradient_scale;
      const simd::Vec first_moment = simd::load_n(m + i, lanes) * step.beta1 + gradient * (1.0f - step.beta1);
      const simd::Vec second_moment =
          simd::load_n(v + i, lanes) * step.beta2 + gradient * gradient * (1.0f - step.beta2);
      const simd::Vec weight = simd::load_n(w + i, lanes);
      const simd::Vec direction =
          first_moment * step.correction1 / (simd::sqrt(second_moment * step.correction2) + step.epsilon);
      const simd::Vec updated = weight - (direction + weight * step.decay) * step.rate;
      simd::store_n(m + i, first_moment, lanes);
      simd::store_n(v + i, second_moment, lanes);
      simd::store_n(w + i, updated, lanes);
      if (static_cast<void*>(stored) != static_cast<void*>(w)) simd::store_n(stored + i, updated, lanes);
    });
  });
}

/// Σ g² in a fixed order (partials of fixed blocks, added in double).
inline double sum_of_squares(const float* g, std::int64_t n) {
  constexpr std::int64_t block = 16384;
  std::vector<double> partial(static_cast<std::size_t>((n + block - 1) / block));
  parallel_for(static_cast<std::int64_t>(partial.size()), [&](std::int64_t b) {
    const std::int64_t first = b * block;
    simd::Vec sum = simd::zero();
    simd::for_lanes(std::min(block, n - first), [&](std::int64_t i, auto lanes) {
      const simd::Vec x = simd::load_n(g + first + i, lanes);
      sum += x * x;
    });
    partial[static_cast<std::size_t>(b)] = static_cast<double>(simd::reduce_add(sum));
  });
  double total = 0;
  for (const double one : partial) total += one;
  return total;
}

}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_ADAMW_HPP
