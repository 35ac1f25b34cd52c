#ifndef RECURFORMER_CUDA_CALL_MEMORY_HPP
#define RECURFORMER_CUDA_CALL_MEMORY_HPP

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "recurformer/cuda/device_array.hpp"

namespace rf::cuda {

/// Device memory for the length of one forward call: handed out piece by piece, all taken back at once. After
/// the first calls of a size it allocates nothing.
template <class Device>
class CallMemory {
 public:
  explicit CallMemory(Device& device) : device_(&device) {}

  /// Takes everything back. Launches in flight may still use it: the device works in order.
  void reset() {
    if (blocks_.size() > 1) {
      std::size_t total = 0;
      for (const auto& block : blocks_) total += block.size();
      blocks_.clear();
      blocks_.emplace_back(*device_, total);
    }
    used_ = 0;
  }

  /// `count` elements, undefined, 256-byte aligned.
  template <class T>
  T* take(std::size_t count) {
    const std::size_t bytes = (count * sizeof(T) + alignment - 1) / alignment * alignment;
    if (blocks_.empty() || used_ + bytes > blocks_.back().size()) {
      const std::size_t last = blocks_.empty() ? 0 : blocks_.back().size();
      blocks_.emplace_back(*device_, std::max(bytes, 2 * last));
      used_ = 0;
    }
    std::byte* out = blocks_.back().data() + used_;
    used_ += bytes;
    return reinterpret_cast<T*>(out);
  }
  /// A copy of host values.
  template <class T>
  T* upload(std::span<const T> values) {
    T* out = take<T>(values.size());
    device_->copy_to_device(out, values.data(), values.size_bytes());
    return out;
  }
  template <class T>
  T* upload(const std::vector<T>& values) {
    return upload(std::span<const T>(values));
  }

 private:
  static constexpr std::size_t alignment = 256;
  Device* device_;
  std::vector<DeviceArray<std::byte, Device>> blocks_;
  std::size_t used_ = 0;  // of the last block
};

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_CALL_MEMORY_HPP
