#ifndef RECURFORMER_ARCH_TYPES_HPP
#define RECURFORMER_ARCH_TYPES_HPP

// Small types that kernels and both realisations of the machine share.

#include <cstdint>

#include "recurformer/core/config.hpp"

namespace rf::arch {

/// Sizes or coordinates of blocks in a grid.
struct Dim3 {
  int x = 1;
  int y = 1;
  int z = 1;
};

inline constexpr int warp_size = 32;
inline constexpr unsigned all_lanes = 0xffffffffu;

/// An address in the shared window of a block, in bytes: what ldmatrix, cp.async and mbarriers take.
using SharedAddress = std::uint32_t;

/// Four 32-bit registers moved by one 16-byte access.
struct alignas(16) Words4 {
  std::uint32_t word[4];
};

/// Where a kernel called the machine. The simulator names it in its errors; on the device it is nothing.
struct Caller {
#if defined(__CUDACC__)
  RECURFORMER_HOST_DEVICE static constexpr Caller here() { return {}; }
#else
  const char* file = "";
  int line = 0;
  static constexpr Caller here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
  friend constexpr bool operator==(const Caller& a, const Caller& b) {
    return a.line == b.line && a.file == b.file;
  }
#endif
};

}  // namespace rf::arch

#endif  // RECURFORMER_ARCH_TYPES_HPP
