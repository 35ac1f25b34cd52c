// expect: (could not convert|no viable conversion)
#include "recurformer/core/tensor.hpp"

rf::TensorView<float, rf::Extents<3>> fixed(rf::TensorView<float> view) { return view; }
