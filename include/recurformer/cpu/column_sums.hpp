#ifndef RECURFORMER_CPU_COLUMN_SUMS_HPP
#define RECURFORMER_CPU_COLUMN_SUMS_HPP

#include <cstdint>
#include <type_traits>

#include "recurformer/core/parallel.hpp"
#include "recurformer/tile/simd.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {

/// sums (width) += Σ over the rows of x (rows, width): the gradient of a bias. Every column is summed in the
/// order of its rows, whatever the number of threads.
inline void add_column_sums(const float* x, std::int64_t stride, std::int64_t rows, std::int64_t width,
                            float* sums) {
  const auto add = [&](std::int64_t column, auto n) {
    simd::Vec sum = simd::load_n(sums + column, n);
    for (std::int64_t r = 0; r < rows; ++r) sum += simd::load_n(x + r * stride + column, n);
    simd::store_n(sums + column, sum, n);
  };
  parallel_for((width + simd::width - 1) / simd::width, [&](std::int64_t vector) {
    const std::int64_t column = vector * simd::width;
    if (column + simd::width <= width)
      add(column, std::integral_constant<int, simd::width>{});
    else
      add(column, static_cast<int>(width - column));
  });
}

}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_COLUMN_SUMS_HPP
