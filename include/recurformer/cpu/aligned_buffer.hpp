#ifndef RECURFORMER_CPU_ALIGNED_BUFFER_HPP
#define RECURFORMER_CPU_ALIGNED_BUFFER_HPP

#include <cstddef>
#include <type_traits>
#include <utility>

#include "recurformer/core/config.hpp"
#include "recurformer/core/memory.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {

/// Scratch memory and packed operands: `size` elements of T, uninitialised, from a cache line on, in huge
/// pages where there are many. Move-only.
template <class T>
class AlignedBuffer {
  static_assert(std::is_trivially_copyable_v<T>, "recurformer: AlignedBuffer holds plain numbers");

 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(std::size_t size) { reserve(size); }
  AlignedBuffer(AlignedBuffer&& other) noexcept { swap(other); }
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    AlignedBuffer taken(std::move(other));
    swap(taken);
    return *this;
  }
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;
  ~AlignedBuffer() { release(); }

  T* data() { return data_; }
  const T* data() const { return data_; }
  /// Elements there is room for.
  std::size_t size() const { return size_; }

  /// Makes room for at least `size` elements; growing discards the contents.
  void reserve(std::size_t size) {
    if (size <= size_) return;
    release();
    data_ = static_cast<T*>(huge_pages()->allocate(size * sizeof(T), tensor_alignment));
    size_ = size;
  }

 private:
  void swap(AlignedBuffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }
  void release() {
    if (data_ != nullptr) huge_pages()->deallocate(data_, size_ * sizeof(T), tensor_alignment);
    data_ = nullptr;
    size_ = 0;
  }

  T* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_ALIGNED_BUFFER_HPP
