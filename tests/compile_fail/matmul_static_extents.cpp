// expect: recurformer: static extents differ; matmul is \(m, k\) times \(k, n\) into \(m, n\)
#include "recurformer/core/tensor_ops.hpp"

void product(rf::TensorView<const float, rf::Extents<2, 3>> a,
             rf::TensorView<const float, rf::Extents<4, 5>> b, rf::TensorView<float, rf::Dims<2>> out) {
  rf::matmul(a, b, out);
}
