#ifndef RECURFORMER_CPU_ALIGNED_BUFFER_HPP
#define RECURFORMER_CPU_ALIGNED_BUFFER_HPP

// Memory for packed operands: starts on a cache line, and from 2 MiB on lies in huge pages where the system
// offers them, because streaming weights through 4 KiB pages stops the hardware prefetcher at every page.

#include <cstddef>
#include <new>
#include <type_traits>
#include <utility>

#include "recurformer/core/config.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace rf::cpu {
inline namespace RECURFORMER_ISA {

/// `size` elements of T, uninitialised. Move-only.
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
    const std::size_t bytes = size * sizeof(T);
    alignment_ = bytes >= huge_page ? huge_page : cache_line;
    data_ = static_cast<T*>(::operator new(bytes, std::align_val_t(alignment_)));
    size_ = size;
#if defined(__linux__)
    // Only advice: where it is refused, ordinary pages serve.
    if (alignment_ == huge_page) (void)madvise(data_, bytes, MADV_HUGEPAGE);
#endif
  }

 private:
  static constexpr std::size_t cache_line = 64;
  static constexpr std::size_t huge_page = std::size_t{2} << 20;

  void swap(AlignedBuffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(alignment_, other.alignment_);
  }
  void release() {
    if (data_ != nullptr) ::operator delete(data_, std::align_val_t(alignment_));
    data_ = nullptr;
    size_ = 0;
  }

  T* data_ = nullptr;
  std::size_t size_ = 0;
  std::size_t alignment_ = cache_line;
};

}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_ALIGNED_BUFFER_HPP
