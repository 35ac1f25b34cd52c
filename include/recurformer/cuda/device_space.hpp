#ifndef RECURFORMER_CUDA_DEVICE_SPACE_HPP
#define RECURFORMER_CUDA_DEVICE_SPACE_HPP

// Tensors in the memory of a device (rf::Cuda, rf::Simulated):
//   rf::cuda::DeviceMemory memory(device);
//   rf::Tensor<float, rf::Dims<2>, rf::cuda::DeviceSpace<rf::Cuda>> x({3, 4}, &memory);   // zeros
//   rf::copy(host, x);                                                                    // and back
// Copies take their place among the device's launches; one to the host waits for all of these.

#include <cstddef>

#include "recurformer/core/error.hpp"
#include "recurformer/core/memory.hpp"

namespace rf::cuda {

/// Hands out memory of a device, which must outlive it.
template <class Device>
class DeviceMemory {
 public:
  explicit DeviceMemory(Device& device) : device_(&device) {}

  Device& device() const { return *device_; }
  /// Elements start out undefined. Alignments up to 256 bytes.
  void* allocate(std::size_t bytes, std::size_t alignment) {
    check(alignment <= 256, "device memory aligned to ", alignment, " bytes; devices align to 256");
    return device_->allocate(bytes);
  }
  void deallocate(void* pointer, std::size_t bytes, std::size_t) { device_->deallocate(pointer, bytes); }

 private:
  Device* device_;
};

/// The memory of one device. Only what points at nothing may have none.
template <class Device>
struct DeviceSpace {
  using Resource = DeviceMemory<Device>;
  static constexpr bool host_accessible = false;

  constexpr DeviceSpace() = default;
  explicit DeviceSpace(const Resource& memory) : device(&memory.device()) {}
  void zero(void* to, std::size_t bytes) const { device->zero(to, bytes); }

  Device* device = nullptr;
};

template <class Device>
void copy_bytes(DeviceSpace<Device> to_space, void* to, HostSpace, const void* from, std::size_t bytes) {
  if (bytes != 0) to_space.device->copy_to_device(to, from, bytes);
}

template <class Device>
void copy_bytes(HostSpace, void* to, DeviceSpace<Device> from_space, const void* from, std::size_t bytes) {
  if (bytes == 0) return;
  from_space.device->copy_to_host(to, from, bytes);
  from_space.device->synchronize();
}

/// Throws ArgumentError for two different devices, which do not wait for each other.
template <class Device>
void copy_bytes(DeviceSpace<Device> to_space, void* to, DeviceSpace<Device> from_space, const void* from,
                std::size_t bytes) {
  if (bytes == 0 || to == from) return;
  check(to_space.device == from_space.device,
        "copy: the tensors are on two devices; copy by way of a host tensor");
  to_space.device->copy_on_device(to, from, bytes);
}

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_DEVICE_SPACE_HPP
