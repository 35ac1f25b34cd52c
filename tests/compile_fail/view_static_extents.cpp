// expect: recurformer: static extents differ
#include "recurformer/core/tensor.hpp"

rf::TensorView<float, rf::Extents<2, 4>> widened(rf::TensorView<float, rf::Extents<2, 3>> view) {
  return view;
}
