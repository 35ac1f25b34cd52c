#ifndef RECURFORMER_REFERENCE_RMS_NORM_HPP
#define RECURFORMER_REFERENCE_RMS_NORM_HPP

// y = x / sqrt(mean(x²) + epsilon) ∘ gain (arXiv 1910.07467) in double, with its gradients. Row-major and
// dense.

#include <cmath>
#include <cstddef>
#include <span>

namespace rf::reference {

/// x, y (rows, gain.size()).
inline void rms_norm(std::span<const double> x, std::span<const double> gain, double epsilon,
                     std::span<double> y) {
  const std::size_t width = gain.size();
  for (std::size_t first = 0; first < y.size(); first += width) {
    double squares = 0;
    for (std::size_t i = 0; i < width; ++i) squares += x[first + i] * x[first + i];
    const double scale = 1 / std::sqrt(squares / static_cast<double>(width) + epsilon);
    for (std::size_t i = 0; i < width; ++i) y[first + i] = x[first + i] * scale * gain[i];
  }
}

/// dx overwrites, d_gain (gain.size()) is added to.
inline void rms_norm_backward(std::span<const double> x, std::span<const double> gain, double epsilon,
                              std::span<const double> dy, std::span<double> dx, std::span<double> d_gain) {
  const std::size_t width = gain.size();
  for (std::size_t first = 0; first < dy.size(); first += width) {
    double squares = 0, along = 0;  // along: the part of the gradient in the direction of x
    for (std::size_t i = 0; i < width; ++i) {
      squares += x[first + i] * x[first + i];
      along += dy[first + i] * gain[i] * x[first + i];
    }
    const double scale = 1 / std::sqrt(squares / static_cast<double>(width) + epsilon);
    const double back = along * scale * scale * scale / static_cast<double>(width);
    for (std::size_t i = 0; i < width; ++i) {
      dx[first + i] = dy[first + i] * gain[i] * scale - x[first + i] * back;
      d_gain[i] += dy[first + i] * x[first + i] * scale;
    }
  }
}

}  // namespace rf::reference

#endif  // RECURFORMER_REFERENCE_RMS_NORM_HPP
