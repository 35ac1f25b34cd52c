#ifndef RECURFORMER_SPEC_CACHE_FIELD_HPP
#define RECURFORMER_SPEC_CACHE_FIELD_HPP

// How a mixer declares what decoding remembers. Allocation, byte accounting, snapshot, rollback and files
// iterate over these declarations.

#include <cstdint>
#include <string_view>

#include "recurformer/spec/parameter.hpp"

namespace rf {

enum class FieldKind {
  rows,  ///< one row per token, all kept: grows with the length, in pages
  ring,  ///< one row per token, the first `sink` and the last `window` kept: constant
  state  ///< one slice whatever the length, zero at the start of a sequence (states, convolution tails)
};

struct CacheField {
  std::string_view name;
  FieldKind kind = FieldKind::rows;
  Unit unit = Unit::group;
  SliceShape slice;         ///< rows and ring: (width) of one row; state: the whole slice
  std::int64_t sink = 0;    ///< ring only: rows kept from the start of the sequence
  std::int64_t window = 0;  ///< ring only: latest rows kept, the current token's included
  /// Rows and ring: the field of their scales, one per row, where a precision has the cache in 8-bit
  /// integers. Without a name, the mixer's kernels know no such cache.
  std::string_view scales = {};
};

/// Tokens per page of a `rows` field. A page is allocated at once and never moves, so that growing copies
/// nothing.
inline constexpr std::int64_t cache_page_rows = 256;

}  // namespace rf

#endif  // RECURFORMER_SPEC_CACHE_FIELD_HPP
