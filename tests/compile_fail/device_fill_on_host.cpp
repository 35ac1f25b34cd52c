// expect: recurformer: the host cannot read or write elements of a tensor in device memory; copy it to
#include "../support/fake_device.hpp"
#include "recurformer/core/tensor_ops.hpp"

void ones(rf::Tensor<float, rf::Dims<2>, rf::test::FakeDevice>& tensor) { rf::fill(tensor, 1.0f); }
