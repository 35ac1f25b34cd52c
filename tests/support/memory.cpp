#include "memory.hpp"

#include <malloc.h>

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

#if defined(__SANITIZE_ADDRESS__)  // GCC's way to say it
#define RECURFORMER_TESTS_ASAN
#elif defined(__has_feature)  // Clang's
#if __has_feature(address_sanitizer)
#define RECURFORMER_TESTS_ASAN
#endif
#endif

namespace {

std::atomic<std::size_t> in_use{0}, peak{0};

void count(std::size_t size) {
  const std::size_t now = in_use.fetch_add(size) + size;
  std::size_t most = peak.load();
  while (most < now && !peak.compare_exchange_weak(most, now)) {
  }
}

}  // namespace

namespace rf::test {

std::size_t memory_in_use() { return in_use.load(); }
std::size_t peak_memory() { return peak.load(); }
void reset_peak_memory() { peak.store(in_use.load()); }

}  // namespace rf::test

#ifdef RECURFORMER_TESTS_ASAN

// Its own allocator is asked, so that it still sees which form of new or malloc memory comes from. GCC's
// packages lack the header of these two.
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*allocated)(const volatile void*, std::size_t),
                                                         void (*freed)(const volatile void*));
extern "C" std::size_t __sanitizer_get_allocated_size(const volatile void*);

namespace {

[[maybe_unused]] const int hooks =
    __sanitizer_install_malloc_and_free_hooks([](const volatile void*, std::size_t size) { count(size); },
                                              [](const volatile void* memory) {
                                                if (memory != nullptr)
                                                  in_use.fetch_sub(__sanitizer_get_allocated_size(memory));
                                              });

}  // namespace

#else

// The forms that the standard library's others call.
namespace {

void* counted(void* memory) {
  if (memory == nullptr) throw std::bad_alloc();
  count(::malloc_usable_size(memory));
  return memory;
}

void release(void* memory) {
  in_use.fetch_sub(::malloc_usable_size(memory));
  std::free(memory);
}

}  // namespace

void* operator new(std::size_t size) { return counted(std::malloc(size > 0 ? size : 1)); }
void* operator new(std::size_t size, std::align_val_t alignment) {
  const auto unit = static_cast<std::size_t>(alignment);
  return counted(std::aligned_alloc(unit, (size / unit + 1) * unit));
}
void operator delete(void* memory) noexcept { release(memory); }
void operator delete(void* memory, std::size_t) noexcept { release(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { release(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { release(memory); }

#endif
