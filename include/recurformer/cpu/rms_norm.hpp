#ifndef RECURFORMER_CPU_RMS_NORM_HPP
#define RECURFORMER_CPU_RMS_NORM_HPP

// y = x · s ∘ gain, s = 1 / sqrt(mean(x²) + epsilon) (arXiv 1910.07467), and its gradients
//
//   dx     = s · (dy ∘ gain) - x · s³ / width · <dy ∘ gain, x>
//   d_gain = sum over rows of dy ∘ x · s
//
// All float, row-major, dense: x, y, dy, dx (rows, width); gain, d_gain (width); s (rows). Forward also takes
// rows of a wider matrix.
//
// Threads share blocks of rows. d_gain is summed per chunk of rows and then over chunks in order; the chunks
// depend on the number of rows alone, so that the bits do not depend on the number of threads.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "recurformer/core/config.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/core/parallel.hpp"
#include "recurformer/core/rows_view.hpp"
#include "recurformer/cpu/matrix_view.hpp"
#include "recurformer/tile/simd.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {

/// s of one row x (width).
inline float reciprocal_rms(const float* x, double epsilon, std::int64_t width) {
  simd::Vec squares = simd::zero();
  simd::for_lanes(width, [&](std::int64_t i, auto n) {
    const simd::Vec v = simd::load_n(x + i, n);
    squares += v * v;
  });
  const double mean = static_cast<double>(simd::reduce_add(squares)) / static_cast<double>(width);
  return static_cast<float>(1.0 / std::sqrt(mean + epsilon));
}

/// y = x · s ∘ gain for one row; y may be x. Returns s.
inline float rms_norm_row(const float* x, const float* gain, double epsilon, std::int64_t width, float* y) {
  const float scale = reciprocal_rms(x, epsilon, width);
  simd::for_lanes(width, [&](std::int64_t i, auto n) {
    simd::store_n(y + i, simd::load_n(x + i, n) * scale * simd::load_n(gain + i, n), n);
  });
  return scale;
}

/// y = rms_norm(x). rows >= 0, width >= 1; y may be x where x is dense. `scale` (rows), or null, receives s
/// for backward.
inline void rms_norm(RowsView<const float> x, const float* gain, double epsilon, std::int64_t rows,
                     std::int64_t width, float* y, float* scale = nullptr) {
  check(rows >= 0 && width >= 1, "rms_norm got ", rows, " rows of width ", width,
        "; rows must be 0 or more, the width at least 1");
  constexpr std::int64_t block = 8;
  parallel_for((rows + block - 1) / block, [&](std::int64_t b) {
    for (std::int64_t r = b * block; r < std::min(rows, (b + 1) * block); ++r) {
      const float s = rms_norm_row(x.row(r), gain, epsilon, width, y + r * width);
      if (scale != nullptr) scale[r] = s;
    }
  });
}

/// The same for dense rows.
inline void rms_norm(const float* x, const float* gain, double epsilon, std::int64_t rows, std::int64_t width,
                     float* y, float* scale = nullptr) {
  rms_norm(RowsView<const float>{x, width}, gain, epsilon, rows, width, y, scale);
}

namespace detail {

/// One row of backward: dx, and the row's term of d_gain added to `partial`.
inline void rms_norm_backward_row(const float* x, const float* gain, float scale, const float* dy,
                                  std::int64_t width, float* dx, Accumulate accumulate, float* partial) {
  simd::Vec products = simd::zero();
  simd::for_lanes(width, [&](std::int64_t i, auto n) {
    const simd::Vec in = simd::load_n(x + i, n), gradient = simd::load_n(dy + i, n);
    products += gradient * simd::load_n(gain + i, n) * in;
    simd::store_n(partial + i, simd::load_n(partial + i, n) + gradient * (in * scale), n);
  });
  // s² · <dy ∘ gain, x> in double: its factors may leave float's range where the product does not.
  const double square = static_cast<double>(scale) * static_cast<double>(scale);
  const float along = static_cast<float>(square * static_cast<double>(simd::reduce_add(products)) /
                                         static_cast<double>(width));
  simd::for_lanes(width, [&](std::int64_t i, auto n) {
    const simd::Vec in = simd::load_n(x + i, n);
    simd::Vec out = (simd::load_n(dy + i, n) * simd::load_n(gain + i, n) - in * along) * scale;
    if (accumulate == Accumulate::yes) out += simd::load_n(dx + i, n);
    simd::store_n(dx + i, out, n);
  });
}

}  // namespace detail

/// Gradients of rms_norm from its input and the s it stored. dx is overwritten or added to and may be dy if
/// overwritten; d_gain is added to.
inline void rms_norm_backward(const float* x, const float* gain, const float* scale, const float* dy,
                              std::int64_t rows, std::int64_t width, float* dx, Accumulate accumulate,
                              float* d_gain) {
  check(rows >= 0 && width >= 1, "rms_norm_backward got ", rows, " rows of width ", width,
        "; rows must be 0 or more, the width at least 1");
  const std::int64_t chunk = std::max<std::int64_t>(16, (rows + 63) / 64);
  const std::int64_t chunks = (rows + chunk - 1) / chunk;
  std::vector<float> partials(static_cast<std::size_t>(chunks * width), 0.0f);
  parallel_for(chunks, [&](std::int64_t c) {
    for (std::int64_t r = c * chunk; r < std::min(rows, (c + 1) * chunk); ++r)
      detail::rms_norm_backward_row(x + r * width, gain, scale[r], dy + r * width, width, dx + r * width,
                                    accumulate, partials.data() + c * width);
  });
  for (std::int64_t c = 0; c < chunks; ++c)
    simd::for_lanes(width, [&](std::int64_t i, auto n) {
      simd::store_n(d_gain + i,
                    simd::load_n(d_gain + i, n) + simd::load_n(partials.data() + c * width + i, n), n);
    });
}

}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_RMS_NORM_HPP
