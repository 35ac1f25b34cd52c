#ifndef RECURFORMER_TESTS_SUPPORT_FAKE_DEVICE_HPP
#define RECURFORMER_TESTS_SUPPORT_FAKE_DEVICE_HPP

// A memory space as a backend would define one: a resource of its own, memory that the host may not touch (it
// is the host's all the same), and copies to and from the host, which are counted.

#include <cstddef>
#include <new>

#include "recurformer/core/memory.hpp"

namespace rf::test {

class FakeDeviceMemory {
 public:
  void* allocate(std::size_t bytes, std::size_t alignment) {
    return ::operator new (bytes, std::align_val_t{alignment});
  }
  void deallocate(void* pointer, std::size_t, std::size_t alignment) {
    ::operator delete (pointer, std::align_val_t{alignment});
  }
};

struct FakeDevice {
  using Resource = FakeDeviceMemory;
  static constexpr bool host_accessible = false;
  static Resource* default_memory() {
    static Resource resource;
    return &resource;
  }
  static void zero(void* to, std::size_t bytes) { HostSpace::zero(to, bytes); }
  static inline int copies_to = 0;
  static inline int copies_from = 0;
};

inline void copy_bytes(FakeDevice, void* to, FakeDevice, const void* from, std::size_t bytes) {
  copy_bytes(HostSpace{}, to, HostSpace{}, from, bytes);
}
inline void copy_bytes(FakeDevice, void* to, HostSpace, const void* from, std::size_t bytes) {
  ++FakeDevice::copies_to;
  copy_bytes(HostSpace{}, to, HostSpace{}, from, bytes);
}
inline void copy_bytes(HostSpace, void* to, FakeDevice, const void* from, std::size_t bytes) {
  ++FakeDevice::copies_from;
  copy_bytes(HostSpace{}, to, HostSpace{}, from, bytes);
}

static_assert(MemorySpace<FakeDevice>);

}  // namespace rf::test

#endif  // RECURFORMER_TESTS_SUPPORT_FAKE_DEVICE_HPP
