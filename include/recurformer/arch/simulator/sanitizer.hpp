#ifndef RECURFORMER_ARCH_SIMULATOR_SANITIZER_HPP
#define RECURFORMER_ARCH_SIMULATOR_SANITIZER_HPP

// What the simulator tells AddressSanitizer and ThreadSanitizer, and nothing where neither is on.
//
// ThreadSanitizer takes every simulated CUDA thread for a thread of its own, so it finds races *between CUDA
// threads*. Two things make that work: a switch between fibers is no synchronisation, only the kernel's
// barriers are (release, acquire); and the simulator's own bookkeeping, which all threads share, is hidden
// (Bookkeeping), except for the bytes that an instruction reads or writes on the kernel's behalf
// (KernelAccess).

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define RECURFORMER_SIMULATOR_ASAN
#endif
#if __has_feature(thread_sanitizer)
#define RECURFORMER_SIMULATOR_TSAN
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) && !defined(RECURFORMER_SIMULATOR_ASAN)
#define RECURFORMER_SIMULATOR_ASAN
#endif
#if defined(__SANITIZE_THREAD__) && !defined(RECURFORMER_SIMULATOR_TSAN)
#define RECURFORMER_SIMULATOR_TSAN
#endif

#include <cstddef>

#ifdef RECURFORMER_SIMULATOR_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef RECURFORMER_SIMULATOR_TSAN
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

namespace rf::arch::simulator {

#if defined(RECURFORMER_SIMULATOR_ASAN) || defined(RECURFORMER_SIMULATOR_TSAN)
inline constexpr bool sanitized = true;
#else
inline constexpr bool sanitized = false;
#endif

namespace detail {
inline void hide_accesses() {
#ifdef RECURFORMER_SIMULATOR_TSAN
  AnnotateIgnoreReadsBegin("", 0);
  AnnotateIgnoreWritesBegin("", 0);
#endif
}
inline void show_accesses() {
#ifdef RECURFORMER_SIMULATOR_TSAN
  AnnotateIgnoreWritesEnd("", 0);
  AnnotateIgnoreReadsEnd("", 0);
#endif
}
}  // namespace detail

/// While one lives, memory accesses of this CUDA thread are the simulator's own. They nest.
class Bookkeeping {
 public:
  Bookkeeping() { detail::hide_accesses(); }
  ~Bookkeeping() { detail::show_accesses(); }
  Bookkeeping(const Bookkeeping&) = delete;
  Bookkeeping& operator=(const Bookkeeping&) = delete;
};

/// Inside exactly one Bookkeeping: accesses are the kernel's again.
class KernelAccess {
 public:
  KernelAccess() { detail::show_accesses(); }
  ~KernelAccess() { detail::hide_accesses(); }
  KernelAccess(const KernelAccess&) = delete;
  KernelAccess& operator=(const KernelAccess&) = delete;
};

/// What happened before a release at `place` has happened for whoever acquires there.
inline void release([[maybe_unused]] const void* place) {
#ifdef RECURFORMER_SIMULATOR_TSAN
  __tsan_release(const_cast<void*>(place));
#endif
}
inline void acquire([[maybe_unused]] const void* place) {
#ifdef RECURFORMER_SIMULATOR_TSAN
  __tsan_acquire(const_cast<void*>(place));
#endif
}

/// Forbids, or allows again, accesses to [begin, begin + bytes).
inline void poison([[maybe_unused]] const void* begin, [[maybe_unused]] std::size_t bytes) {
#ifdef RECURFORMER_SIMULATOR_ASAN
  __asan_poison_memory_region(begin, bytes);
#endif
}
inline void unpoison([[maybe_unused]] const void* begin, [[maybe_unused]] std::size_t bytes) {
#ifdef RECURFORMER_SIMULATOR_ASAN
  __asan_unpoison_memory_region(begin, bytes);
#endif
}

}  // namespace rf::arch::simulator

#endif  // RECURFORMER_ARCH_SIMULATOR_SANITIZER_HPP
