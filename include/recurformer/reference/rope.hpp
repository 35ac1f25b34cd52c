#ifndef RECURFORMER_REFERENCE_ROPE_HPP
#define RECURFORMER_REFERENCE_ROPE_HPP

// Rotary positions (arXiv 2104.09864) in double: the pair (x[i], x[i + d/2]) turns by position ·
// base^(-2i/d).

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

namespace rf::reference {

/// Turns one head's vector in place; x.size() is even. The inverse is the turn to -position.
inline void rope_rotate(std::span<double> x, std::int64_t position, double base) {
  const std::size_t half = x.size() / 2;
  for (std::size_t i = 0; i < half; ++i) {
    const double angle = static_cast<double>(position) *
                         std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(x.size()));
    const double low = x[i], high = x[i + half];
    x[i] = low * std::cos(angle) - high * std::sin(angle);
    x[i + half] = high * std::cos(angle) + low * std::sin(angle);
  }
}

}  // namespace rf::reference

#endif  // RECURFORMER_REFERENCE_ROPE_HPP
