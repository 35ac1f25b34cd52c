#ifndef RECURFORMER_MATH_LEAST_SQUARES_HPP
#define RECURFORMER_MATH_LEAST_SQUARES_HPP

// Non-negative least squares of a few unknowns: min ‖A x - b‖² over x >= 0, by cyclic coordinate descent on
// the normal equations. Each coordinate's minimum is exact, so the objective never grows; a few unknowns
// converge quickly.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include "recurformer/core/error.hpp"

namespace rf {

/// x (columns) for A (rows, columns), row-major, and b (rows). Columns of zeros get 0.
inline std::vector<double> nonnegative_least_squares(std::span<const double> a, std::span<const double> b,
                                                     std::size_t columns) {
  check(columns >= 1 && a.size() == b.size() * columns, "nonnegative_least_squares got ", a.size(),
        " coefficients for ", b.size(), " equations in ", columns, " unknowns");
  std::vector<double> gram(columns * columns), right(columns), x(columns);
  for (std::size_t r = 0; r < b.size(); ++r)
    for (std::size_t i = 0; i < columns; ++i) {
      right[i] += a[r * columns + i] * b[r];
      for (std::size_t k = 0; k < columns; ++k)
        gram[i * columns + k] += a[r * columns + i] * a[r * columns + k];
    }
  for (int sweep = 0; sweep < 20000; ++sweep) {
    double largest_change = 0, largest = 0;
    for (std::size_t i = 0; i < columns; ++i) {
      const double curvature = gram[i * columns + i];
      if (curvature <= 0) continue;
      double slope = right[i];
      for (std::size_t k = 0; k < columns; ++k) slope -= gram[i * columns + k] * x[k];
      const double updated = std::max(0.0, x[i] + slope / curvature);
      largest_change = std::max(largest_change, std::abs(updated - x[i]));
      largest = std::max(largest, updated);
      x[i] = updated;
    }
    if (largest_change <= 1e-10 * largest) break;
  }
  return x;
}

}  // namespace rf

#endif  // RECURFORMER_MATH_LEAST_SQUARES_HPP
