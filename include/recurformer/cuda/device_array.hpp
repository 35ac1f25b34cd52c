#ifndef RECURFORMER_CUDA_DEVICE_ARRAY_HPP
#define RECURFORMER_CUDA_DEVICE_ARRAY_HPP

#include <cstddef>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

namespace rf::cuda {

/// Memory of a device (rf::Cuda, rf::Simulated), owned. Elements start out undefined.
template <class T, class Device>
class DeviceArray {
  static_assert(std::is_trivially_copyable_v<T>, "recurformer: only plain values are copied to a device");

 public:
  DeviceArray(Device& device, std::size_t count)
      : device_(&device), count_(count), data_(static_cast<T*>(device.allocate(bytes()))) {}
  DeviceArray(Device& device, std::span<const T> values) : DeviceArray(device, values.size()) {
    device.copy_to_device(data_, values.data(), bytes());
  }
  DeviceArray(DeviceArray&& other) noexcept
      : device_(other.device_),
        count_(std::exchange(other.count_, 0)),
        data_(std::exchange(other.data_, nullptr)) {}
  DeviceArray& operator=(DeviceArray other) noexcept {
    std::swap(device_, other.device_);
    std::swap(count_, other.count_);
    std::swap(data_, other.data_);
    return *this;
  }
  ~DeviceArray() {
    if (data_) device_->deallocate(data_, bytes());
  }

  T* data() const { return data_; }
  std::size_t size() const { return count_; }
  std::size_t bytes() const { return count_ * sizeof(T); }

  /// A copy on the host, of what all launches so far have written.
  std::vector<T> to_host() const {
    std::vector<T> out(count_);
    device_->synchronize();
    device_->copy_to_host(out.data(), data_, bytes());
    return out;
  }

 private:
  Device* device_;
  std::size_t count_;
  T* data_;
};

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_DEVICE_ARRAY_HPP
