// expect: (could not convert|no viable conversion)
#include "recurformer/core/tensor.hpp"

rf::TensorView<float> writable(rf::TensorView<const float> view) { return view; }
