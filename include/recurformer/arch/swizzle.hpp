#ifndef RECURFORMER_ARCH_SWIZZLE_HPP
#define RECURFORMER_ARCH_SWIZZLE_HPP

// How TMA and wgmma lay out rows in shared memory so that neither rows nor columns of 16-byte chunks fall on
// the same banks: of an address in bytes, the index of the chunk (bits 4 to 6, of which as many as a row has)
// is XORed with bits 7 to 9. The pattern hangs on the address itself, so it starts where the address is a
// multiple of 8 rows: 256, 512 or 1024 bytes. (PTX ISA, "Swizzling Modes")

#include "recurformer/arch/types.hpp"

namespace rf::arch {

/// Its value is the length of a row in bytes: elements of a row lie together, rows follow each other.
enum class Swizzle : int { none = 16, bytes32 = 32, bytes64 = 64, bytes128 = 128 };

/// Bytes of a row of the pattern.
RECURFORMER_HOST_DEVICE constexpr int row_bytes(Swizzle swizzle) { return static_cast<int>(swizzle); }

/// Bytes after which the pattern repeats: what a tile is aligned to.
RECURFORMER_HOST_DEVICE constexpr int pattern_bytes(Swizzle swizzle) {
  return swizzle == Swizzle::none ? 16 : 8 * row_bytes(swizzle);
}

/// Where the byte is that would be at `address` without a swizzle.
RECURFORMER_HOST_DEVICE constexpr SharedAddress swizzled(Swizzle swizzle, SharedAddress address) {
  return address ^ (address >> 3 & static_cast<SharedAddress>(row_bytes(swizzle) - 16));
}

}  // namespace rf::arch

#endif  // RECURFORMER_ARCH_SWIZZLE_HPP
