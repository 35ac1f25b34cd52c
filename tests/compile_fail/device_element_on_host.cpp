// expect: recurformer: the host cannot read or write elements of a tensor in device memory; copy it to
#include "../support/fake_device.hpp"
#include "recurformer/core/tensor.hpp"

float first(rf::TensorView<const float, rf::Dims<2>, rf::test::FakeDevice> view) { return view(0, 0); }
