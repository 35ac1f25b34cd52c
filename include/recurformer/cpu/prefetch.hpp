#ifndef RECURFORMER_CPU_PREFETCH_HPP
#define RECURFORMER_CPU_PREFETCH_HPP

// Asking for memory ahead of its use, where the hardware does not foresee it: short rows far apart. What was
// measured on Zen 4:
//
//   into the second level   the first can wait for so few lines at once that loads would queue behind the
//                           request (a row of C from rows of B in memory: 25 GB/s a core, not 14)
//   between calculations    of many requests in a row most are dropped
//   always inline           GCC sees no effect in a function that only asks, and removes calls to it
//
// A loop with a function argument that asks calls it `ask`; AskForNothing is its default.

#include <cstdint>

#include "recurformer/tile/simd.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {
namespace detail {

/// A line of the caches.
inline constexpr int line_bytes = 64;

/// Asks for the line of the element `offset` after p, which may lie outside of p's array.
template <class T>
RECURFORMER_INLINE void prefetch(const T* p, std::int64_t offset = 0) {
  const auto address = reinterpret_cast<std::uintptr_t>(p) + static_cast<std::uintptr_t>(offset) * sizeof(T);
  __builtin_prefetch(reinterpret_cast<const void*>(address), 0, 2);
}
/// The same for a line that is going to be written.
template <class T>
RECURFORMER_INLINE void prefetch_to_write(T* p) {
  __builtin_prefetch(p, 1, 2);
}

struct AskForNothing {
  RECURFORMER_INLINE void operator()(std::int64_t, std::int64_t) const {}
};

}  // namespace detail
}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_PREFETCH_HPP
