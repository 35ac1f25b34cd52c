#ifndef RECURFORMER_CPU_SWIGLU_HPP
#define RECURFORMER_CPU_SWIGLU_HPP

// act = silu(gate) ∘ up, silu(g) = g · sigmoid(g) (arXiv 2002.05202), and its gradients
//
//   d_up   = d_act ∘ silu(gate)
//   d_gate = d_act ∘ up ∘ sigmoid(gate) ∘ (1 + gate ∘ (1 - sigmoid(gate)))
//
// All float, row-major. gate and up share one row stride, so that both can be columns of one projection's
// output; act is dense (rows, width). Threads share blocks of rows.

#include <algorithm>
#include <cstdint>

#include "recurformer/core/config.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/core/parallel.hpp"
#include "recurformer/tile/simd.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {

namespace detail {

/// Calls row(r) for every row, a few thousand elements per turn of a thread.
template <class Row>
void for_rows(std::int64_t rows, std::int64_t width, Row&& row) {
  const std::int64_t block = std::max<std::int64_t>(1, 8192 / width);
  parallel_for((rows + block - 1) / block, [&](std::int64_t b) {
    for (std::int64_t r = b * block; r < std::min(rows, (b + 1) * block); ++r) row(r);
  });
}

}  // namespace detail

/// gate, up: rows `stride` >= width apart; act (rows, width), dense. rows >= 0, width >= 1. act may be gate
/// or up where stride == width.
inline void swiglu(const float* gate, const float* up, std::int64_t stride, std::int64_t rows,
                   std::int64_t width, float* act) {
  check(rows >= 0 && width >= 1 && stride >= width, "swiglu got ", rows, " rows of width ", width, ", ",
        stride, " apart; rows must be 0 or more, the width at least 1, the stride at least the width");
  detail::for_rows(rows, width, [&](std::int64_t r) {
    const float* g = gate + r * stride;
    const float* u = up + r * stride;
    simd::for_lanes(width, [&](std::int64_t i, auto n) {
      simd::store_n(act + r * width + i, simd::silu(simd::load_n(g + i, n)) * simd::load_n(u + i, n), n);
    });
  });
}

/// d_act (rows, width), dense; d_gate and d_up, rows `stride` apart like gate and up, are overwritten and may
/// be gate and up themselves.
inline void swiglu_backward(const float* gate, const float* up, std::int64_t stride, const float* d_act,
                            std::int64_t rows, std::int64_t width, float* d_gate, float* d_up) {
  check(rows >= 0 && width >= 1 && stride >= width, "swiglu_backward got ", rows, " rows of width ", width,
        ", ", stride, " apart; rows must be 0 or more, the width at least 1, the stride at least the width");
  detail::for_rows(rows, width, [&](std::int64_t r) {
    simd::for_lanes(width, [&](std::int64_t i, auto n) {
      const simd::Vec g = simd::load_n(gate + r * stride + i, n), u = simd::load_n(up + r * stride + i, n);
      const simd::Vec d = simd::load_n(d_act + r * width + i, n);
      const simd::Vec sigmoid = simd::sigmoid(g);
      simd::store_n(d_gate + r * stride + i, d * u * (sigmoid * (1.0f + g * (1.0f - sigmoid))), n);
      simd::store_n(d_up + r * stride + i, d * (g * sigmoid), n);
    });
  });
}

}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_SWIGLU_HPP
