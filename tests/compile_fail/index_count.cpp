// expect: (no match for call|no matching function for call)
#include "recurformer/core/tensor.hpp"

float element(rf::TensorView<const float, rf::Dims<2>> view) { return view(1); }
