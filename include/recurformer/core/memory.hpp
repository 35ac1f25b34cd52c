#ifndef RECURFORMER_CORE_MEMORY_HPP
#define RECURFORMER_CORE_MEMORY_HPP

// Where tensors live. A memory space is a small value type that names its kind of memory resource; a backend
// adds one by defining such a type and, beside it, copy_bytes overloads between it and the host:
//   struct HostSpace {
//     using Resource = …;                           // allocate / deallocate, see MemoryResource
//     static constexpr bool host_accessible = …;    // may the host dereference its pointers?
//     static Resource* default_memory();            // only where there is one
//     void zero(void* to, std::size_t bytes) const;
//   };
//   void copy_bytes(HostSpace, void* to, HostSpace, const void* from, std::size_t bytes);
// Most are empty. One that has to know more than its type says, which device it is on, is made from a
// resource (cuda/device_space.hpp); tensors and views carry it.

#include <algorithm>
#include <atomic>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory_resource>
#include <new>
#include <type_traits>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace rf {

/// Something that hands out memory: std::pmr::memory_resource, or a backend's own with the same two calls.
/// allocate throws when there is none left.
template <class R>
concept MemoryResource = requires(R& resource, void* pointer, std::size_t bytes, std::size_t alignment) {
  { resource.allocate(bytes, alignment) } -> std::same_as<void*>;
  resource.deallocate(pointer, bytes, alignment);
};

/// A kind of memory, as described at the top of this file.
template <class S>
concept MemorySpace = MemoryResource<typename S::Resource> &&
    (std::is_empty_v<S> || std::is_constructible_v<S, typename S::Resource&>)&&  //
    requires(const S space, void* to, const void* from, std::size_t bytes) {
  { S::host_accessible } -> std::convertible_to<bool>;
  space.zero(to, bytes);
  copy_bytes(space, to, space, from, bytes);
};

/// The space that a resource's memory is in.
template <class S>
constexpr S space_of(typename S::Resource& memory) {
  if constexpr (std::is_empty_v<S>)
    return {};
  else
    return S(memory);
}

/// Alignment of every tensor's first element in bytes: a cache line, and the widest CPU vector.
inline constexpr std::size_t tensor_alignment = 64;

/// Memory of new and delete; from 2 MiB on in huge pages, where the system offers them: it prepares those
/// with a 512th of the interruptions (18 ms for 49 MB of pages of 4 KiB), and the hardware's prefetcher stops
/// at the end of every page.
class HugePages final : public std::pmr::memory_resource {
 public:
  static constexpr std::size_t page_bytes = std::size_t{2} << 20;

 private:
  /// What an allocation takes: whole huge pages where that is no more than an eighth more.
  struct Block {
    std::size_t bytes, alignment;
  };
  static Block block_of(std::size_t bytes, std::size_t alignment) {
    const std::size_t missing = (page_bytes - bytes % page_bytes) % page_bytes;
    if (missing <= bytes / 8 && bytes + missing > bytes) bytes += missing;
    return {bytes, bytes < page_bytes ? alignment : std::max(alignment, page_bytes)};
  }
  void* do_allocate(std::size_t bytes, std::size_t alignment) override {
    const Block block = block_of(bytes, alignment);
    void* out = ::operator new(block.bytes, std::align_val_t(block.alignment));
#if defined(__linux__)
    // Only advice: where it is refused, ordinary pages serve.
    if (block.bytes >= page_bytes) (void)madvise(out, block.bytes, MADV_HUGEPAGE);
#endif
    return out;
  }
  void do_deallocate(void* pointer, std::size_t bytes, std::size_t alignment) override {
    ::operator delete(pointer, std::align_val_t(block_of(bytes, alignment).alignment));
  }
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override { return this == &other; }
};

/// One for everybody. It is never destroyed, because tensors may be static, too.
inline HugePages* huge_pages() {
  static HugePages* const memory = new HugePages;
  return memory;
}

/// The resource that host tensors use unless they are given one: std::pmr's default resource, or huge_pages()
/// where that is still new and delete.
inline std::pmr::memory_resource* default_memory() {
  std::pmr::memory_resource* const set = std::pmr::get_default_resource();
  return set == std::pmr::new_delete_resource() ? huge_pages() : set;
}

/// Ordinary memory of this process.
struct HostSpace {
  using Resource = std::pmr::memory_resource;
  static constexpr bool host_accessible = true;
  static Resource* default_memory() { return rf::default_memory(); }
  static void zero(void* to, std::size_t bytes) {
    if (bytes != 0) std::memset(to, 0, bytes);
  }
};

/// Copies bytes within the host; the ranges may overlap, and may be null when there are no bytes.
inline void copy_bytes(HostSpace, void* to, HostSpace, const void* from, std::size_t bytes) {
  if (bytes != 0) std::memmove(to, from, bytes);
}

static_assert(MemorySpace<HostSpace>);

namespace detail {
template <class Space>
constexpr void require_host_access() {
  static_assert(
      Space::host_accessible,
      "recurformer: the host cannot read or write elements of a tensor in device memory; copy it to "
      "a host tensor first (rf::copy)");
}
}  // namespace detail

/// Passes requests on to `upstream` and counts them. May be used by several threads at once; must outlive
/// what was allocated from it.
class CountingMemory final : public std::pmr::memory_resource {
 public:
  explicit CountingMemory(std::pmr::memory_resource* upstream = default_memory()) : upstream_(upstream) {}
  CountingMemory(const CountingMemory&) = delete;
  CountingMemory& operator=(const CountingMemory&) = delete;

  /// Bytes allocated and not yet given back.
  std::int64_t live_bytes() const { return live_; }
  /// The most that live_bytes() has been.
  std::int64_t peak_bytes() const { return peak_; }
  /// How many allocations have been made so far, given back or not.
  std::int64_t allocations() const { return allocations_; }

 private:
  void* do_allocate(std::size_t bytes, std::size_t alignment) override {
    void* out = upstream_->allocate(bytes, alignment);
    allocations_ += 1;
    const std::int64_t live = live_ += static_cast<std::int64_t>(bytes);
    for (std::int64_t peak = peak_; peak < live && !peak_.compare_exchange_weak(peak, live);) {
    }
    return out;
  }
  void do_deallocate(void* pointer, std::size_t bytes, std::size_t alignment) override {
    live_ -= static_cast<std::int64_t>(bytes);
    upstream_->deallocate(pointer, bytes, alignment);
  }
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override { return this == &other; }

  std::pmr::memory_resource* upstream_;
  std::atomic<std::int64_t> live_{0};
  std::atomic<std::int64_t> peak_{0};
  std::atomic<std::int64_t> allocations_{0};
};

}  // namespace rf

#endif  // RECURFORMER_CORE_MEMORY_HPP
