#ifndef RECURFORMER_REFERENCE_ROPE_HPP
#define RECURFORMER_REFERENCE_ROPE_HPP

// Rotary positions (arXiv 2104.09864) in double: the pair (x[i], x[i + d/2]) turns by position · frequency_i
// and grows by the scaling's magnitude (see math/rope_scaling.hpp).

#include <cmath>
#include <cstdint>

#include "recurformer/math/rope_scaling.hpp"
#include "recurformer/spec/layer_shape.hpp"

namespace rf::reference {

/// Turns one head's vector x (shape.d_head) to `position`, in place.
inline void rotate(double* x, const HeadShape& shape, std::int64_t position) {
  const int half = shape.d_head / 2;
  for (int i = 0; i < half; ++i) {
    const double angle =
        static_cast<double>(position) * rope_frequency(shape.rope_scaling, i, shape.d_head, shape.rope_base);
    const double cosine = shape.rope_scaling.magnitude * std::cos(angle);
    const double sine = shape.rope_scaling.magnitude * std::sin(angle);
    const double low = x[i], high = x[i + half];
    x[i] = low * cosine - high * sine;
    x[i + half] = high * cosine + low * sine;
  }
}

}  // namespace rf::reference

#endif  // RECURFORMER_REFERENCE_ROPE_HPP
