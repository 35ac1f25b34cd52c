// expect: recurformer: static extents differ
#include "recurformer/core/tensor_ops.hpp"

void negate(rf::TensorView<const float, rf::Extents<2, 3>> in,
            rf::TensorView<float, rf::Extents<rf::dynamic, 4>> out) {
  rf::map(
      in, [](float x) { return -x; }, out);
}
