#ifndef RECURFORMER_REFERENCE_LINEAR_HPP
#define RECURFORMER_REFERENCE_LINEAR_HPP

// y = x Wᵀ + b in double, with its gradients. All matrices row-major and dense: x (rows, in), W (out, in),
// b (out), y (rows, out).

#include <cstddef>
#include <span>

namespace rf::reference {

/// y (rows, out); an empty bias is zero.
inline void linear(std::span<const double> x, std::span<const double> w, std::span<const double> bias,
                   std::size_t in, std::size_t out, std::span<double> y) {
  for (std::size_t r = 0; r * out < y.size(); ++r)
    for (std::size_t o = 0; o < out; ++o) {
      double sum = bias.empty() ? 0.0 : bias[o];
      for (std::size_t i = 0; i < in; ++i) sum += x[r * in + i] * w[o * in + i];
      y[r * out + o] = sum;
    }
}

/// dx = dy W overwrites; dw += dyᵀ x and d_bias += column sums of dy add. An empty span is not computed.
inline void linear_backward(std::span<const double> x, std::span<const double> w, std::span<const double> dy,
                            std::size_t in, std::size_t out, std::span<double> dx, std::span<double> dw,
                            std::span<double> d_bias) {
  for (double& value : dx) value = 0.0;
  for (std::size_t r = 0; r * out < dy.size(); ++r)
    for (std::size_t o = 0; o < out; ++o) {
      const double gradient = dy[r * out + o];
      if (!d_bias.empty()) d_bias[o] += gradient;
      for (std::size_t i = 0; i < in; ++i) {
        if (!dx.empty()) dx[r * in + i] += gradient * w[o * in + i];
        if (!dw.empty()) dw[o * in + i] += gradient * x[r * in + i];
      }
    }
}

}  // namespace rf::reference

#endif  // RECURFORMER_REFERENCE_LINEAR_HPP
