#ifndef RECURFORMER_MATH_SOFTMAX_STATE_HPP
#define RECURFORMER_MATH_SOFTMAX_STATE_HPP

// The state of an online softmax (Milakov and Gimelshein, arXiv 1805.02867): of the scores s seen so far, in
// units of log 2, the maximum m and the sum l of 2^(s - m). Outputs o = Σ 2^(s - m) v belong to it. Two
// states of disjoint keys merge into that of their union, in any order up to rounding:
//
//   m = max(m_a, m_b)    l = l_a 2^(m_a - m) + l_b 2^(m_b - m)    o likewise

#include <cmath>
#include <limits>

#include "recurformer/core/config.hpp"

namespace rf {

struct SoftmaxState {
  float maximum = -std::numeric_limits<float>::infinity();
  float sum = 0.0f;
};

/// What an output relative to the maximum `from` is multiplied by to be relative to `to` >= from. 0 for an
/// empty state: its maximum is -infinity.
RECURFORMER_HOST_DEVICE inline float softmax_rescale(float from, float to) {
  return from == -std::numeric_limits<float>::infinity() ? 0.0f : std::exp2(from - to);
}

/// The union of two states, and the factors of their outputs.
struct SoftmaxMerge {
  SoftmaxState state;
  float left = 0.0f;
  float right = 0.0f;
};
RECURFORMER_HOST_DEVICE inline SoftmaxMerge merge(const SoftmaxState& left, const SoftmaxState& right) {
  SoftmaxMerge result;
  const float maximum = left.maximum > right.maximum ? left.maximum : right.maximum;
  result.left = softmax_rescale(left.maximum, maximum);
  result.right = softmax_rescale(right.maximum, maximum);
  result.state = {.maximum = maximum, .sum = left.sum * result.left + right.sum * result.right};
  return result;
}

/// log Σ e^score as a natural logarithm; -infinity for an empty state.
RECURFORMER_HOST_DEVICE inline float log_sum_exp(const SoftmaxState& state) {
  return state.maximum * 0.693147180559945309f + std::log(state.sum);
}

}  // namespace rf

#endif  // RECURFORMER_MATH_SOFTMAX_STATE_HPP
