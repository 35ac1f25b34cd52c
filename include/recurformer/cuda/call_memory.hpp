#ifndef RECURFORMER_CUDA_CALL_MEMORY_HPP
#define RECURFORMER_CUDA_CALL_MEMORY_HPP

// Device memory for the length of one forward call, handed out piece by piece and all taken back at once.
// After the first calls of a size nothing is allocated any more.

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

#include "recurformer/cuda/device_array.hpp"

namespace rf::cuda {

/// Memory that kernels write first.
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
    rewind();
  }

  /// The same, but memory handed out before stays what it is: for what launches one after the other may
  /// share.
  void rewind() { at_ = used_ = 0; }

  /// `count` elements, undefined, 256-byte aligned.
  template <class T>
  T* take(std::size_t count) {
    const std::size_t bytes = (count * sizeof(T) + alignment - 1) / alignment * alignment;
    while (at_ < blocks_.size() && used_ + bytes > blocks_[at_].size()) ++at_, used_ = 0;
    if (at_ == blocks_.size()) {
      const std::size_t last = blocks_.empty() ? 0 : blocks_.back().size();
      blocks_.emplace_back(*device_, std::max(bytes, 2 * last));
    }
    std::byte* out = blocks_[at_].data() + used_;
    used_ += bytes;
    return reinterpret_cast<T*>(out);
  }

 private:
  static constexpr std::size_t alignment = 256;
  Device* device_;
  std::vector<DeviceArray<std::byte, Device>> blocks_;
  std::size_t at_ = 0, used_ = 0;  // the block that is handed out now, and how much of it
};

/// Memory that the host fills: small arrays are collected and copied together, as every copy costs the host
/// microseconds.
template <class Device>
class UploadMemory {
 public:
  explicit UploadMemory(Device& device) : device_(&device) {}

  /// Takes everything back. What was sent must have been used.
  void reset() {
    if (blocks_.size() > 1) {
      std::size_t total = 0;
      for (const Block& block : blocks_) total += block.host.size();
      blocks_.clear();
      blocks_.emplace_back(*device_, total);
    }
    for (Block& block : blocks_) block.used = block.sent = 0;
    at_ = 0;
  }

  /// Where the values will be on the device once send() has been called, 256-byte aligned.
  template <class T>
  T* add(std::span<const T> values) {
    const std::size_t bytes = (values.size_bytes() + alignment - 1) / alignment * alignment;
    while (at_ < blocks_.size() && blocks_[at_].used + bytes > blocks_[at_].host.size()) ++at_;
    if (at_ == blocks_.size())
      blocks_.emplace_back(*device_,
                           std::max({bytes, smallest_block, at_ == 0 ? 0 : 2 * blocks_.back().host.size()}));
    Block& block = blocks_[at_];
    if (!values.empty()) std::memcpy(block.host.data() + block.used, values.data(), values.size_bytes());
    std::byte* out = block.device.data() + block.used;
    block.used += bytes;
    return reinterpret_cast<T*>(out);
  }
  template <class T>
  T* add(const std::vector<T>& values) {
    return add(std::span<const T>(values));
  }

  /// Starts copying what was added since the last time.
  void send() {
    for (Block& block : blocks_) {
      device_->copy_to_device(block.device.data() + block.sent, block.host.data() + block.sent,
                              block.used - block.sent);
      block.sent = block.used;
    }
  }

 private:
  static constexpr std::size_t alignment = 256, smallest_block = 64 * 1024;
  struct Block {
    Block(Device& on, std::size_t bytes) : device(on, bytes), host(bytes) {}
    DeviceArray<std::byte, Device> device;
    std::vector<std::byte> host;
    std::size_t used = 0, sent = 0;
  };

  Device* device_;
  std::vector<Block> blocks_;
  std::size_t at_ = 0;
};

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_CALL_MEMORY_HPP
