// Tensors and copies in a device's memory.

#include "recurformer/cuda/device_space.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <limits>

#include "recurformer/core/tensor.hpp"
#include "recurformer/core/tensor_ops.hpp"
#include "support/error_message.hpp"
#include "support/test_device.hpp"

namespace {

using rf::Dims;
using rf::test::TestDevice;
using Space = rf::cuda::DeviceSpace<TestDevice>;
using Memory = rf::cuda::DeviceMemory<TestDevice>;
using HostMatrix = rf::Tensor<float, Dims<2>>;
using DeviceMatrix = rf::Tensor<float, Dims<2>, Space>;

static_assert(rf::MemorySpace<Space>);
static_assert(sizeof(rf::TensorView<float>) == sizeof(float*) + 2 * sizeof(std::int64_t));

HostMatrix counting() {
  HostMatrix out({3, 4});
  float next = 0;
  for (float& x : out.view().span()) x = next++;
  return out;
}

}  // namespace

TEST_CASE("a tensor on a device: zeros, copies there, on it and back") {
  TestDevice device;
  Memory memory(device);
  const HostMatrix host = counting();
  HostMatrix back({3, 4});
  DeviceMatrix a({3, 4}, &memory);
  rf::fill(back, 1.0f);
  rf::copy(a, back);
  CHECK(rf::max_abs(back) == 0);
  rf::copy(host, a);
  const DeviceMatrix b = a.clone();
  CHECK(b.data() != a.data());
  rf::copy(b, back);
  CHECK(rf::all_close(back, host, {.relative = 0, .absolute = 0}));
}

TEST_CASE("views of a tensor on a device know the device") {
  TestDevice device;
  Memory memory(device);
  const HostMatrix host = counting();
  DeviceMatrix a({3, 4}, &memory), b({3, 4}, &memory);
  rf::copy(host, a);
  // one row, by way of every kind of view
  rf::copy(a.view().slice(0, 2, 3).reshaped(Dims<1>(4)), b.view().sub(0));
  rf::TensorView<const float, Dims<2>, Space> read = b;
  HostMatrix back({3, 4});
  rf::copy(read.transposed().transposed(0, 1), back);
  CHECK(back(0, 0) == 8);
  CHECK(back(0, 3) == 11);
  CHECK(back(1, 0) == 0);
}

TEST_CASE("tensors of no elements, on a device, and views of nothing") {
  TestDevice device;
  Memory memory(device);
  DeviceMatrix none({0, 4}, &memory);
  HostMatrix host({0, 4});
  rf::copy(host, none);
  rf::copy(none, host);
  rf::copy(none.clone(), none);
  rf::copy(rf::TensorView<float, Dims<2>, Space>{}, HostMatrix({0, 0}));
}

TEST_CASE("what device memory cannot do is an error") {
  TestDevice device, other;
  Memory memory(device), elsewhere(other);
  DeviceMatrix a({3, 4}, &memory), b({3, 4}, &elsewhere);
  CHECK(rf::test::message_of<rf::ArgumentError>([&] { rf::copy(a, b); }) ==
        "copy: the tensors are on two devices; copy by way of a host tensor");
  CHECK_THROWS_AS((void)memory.allocate(16, 512), rf::ArgumentError);
}
