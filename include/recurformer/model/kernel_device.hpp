#ifndef RECURFORMER_MODEL_KERNEL_DEVICE_HPP
#define RECURFORMER_MODEL_KERNEL_DEVICE_HPP

// What a model needs to run on a device: the device itself, and its table of rotary positions.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

#include "recurformer/cuda/device_array.hpp"
#include "recurformer/cuda/rotary_table.hpp"
#include "recurformer/math/rope_table.hpp"
#include "recurformer/spec/layer_shape.hpp"

namespace rf {

/// What kernels are launched on.
template <class D>
concept KernelDevice = requires(D& device, void* memory, const void* source, std::size_t bytes) {
  { device.multiprocessors() } -> std::convertible_to<int>;
  { device.compute_capability() } -> std::convertible_to<int>;  // 90 for 9.0
  { device.allocate(bytes) } -> std::same_as<void*>;
  device.copy_to_device(memory, source, bytes);
  device.copy_to_host(memory, source, bytes);
  device.copy_on_device(memory, source, bytes);
  device.synchronize();
};

/// The cosines and sines of RopeTable on a device.
template <class Device>
class DeviceRopeTable {
 public:
  DeviceRopeTable(Device& device, const LayerShape& shape)
      : device_(&device), host_(shape.d_head, shape.rope_base, shape.rope_scaling), table_(device, 0) {}

  /// Makes positions [0, positions) available.
  void reserve(std::int64_t positions) {
    if (positions <= host_.positions()) return;
    host_.reserve(positions);
    const auto size = static_cast<std::size_t>(host_.positions() * host_.d_head());
    table_ = cuda::DeviceArray<float, Device>(*device_, std::span<const float>(host_.cosines(0), size));
  }
  cuda::RotaryTable view() const {
    return {.cosines = table_.data(), .sines = table_.data() + host_.d_head() / 2, .stride = host_.d_head()};
  }

 private:
  Device* device_;
  RopeTable host_;
  cuda::DeviceArray<float, Device> table_;  // a position's cosines, then its sines
};

}  // namespace rf

#endif  // RECURFORMER_MODEL_KERNEL_DEVICE_HPP
