// expect: recurformer: the output is read-only
#include "recurformer/core/tensor_ops.hpp"

void zeros(const rf::Tensor<float>& tensor) { rf::fill(tensor, 0); }
