// expect: recurformer: copying to or from device memory does not convert; cast on the host
#include "../support/fake_device.hpp"
#include "recurformer/core/tensor_ops.hpp"

void upload(rf::TensorView<const float> from,
            rf::TensorView<rf::bf16, rf::Dims<1>, rf::test::FakeDevice> to) {
  rf::copy(from, to);
}
