#ifndef RECURFORMER_MATH_ATTENTION_MASK_HPP
#define RECURFORMER_MATH_ATTENTION_MASK_HPP

// Which keys a query sees: key j is visible to query i iff j <= i and (j < sink or i - j < window).

#include <cstdint>

#include "recurformer/core/config.hpp"

namespace rf {

/// Positions [begin, end).
struct KeyRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  RECURFORMER_HOST_DEVICE constexpr std::int64_t size() const { return end - begin; }
};

/// Two ascending ranges, the first of which may be empty.
struct KeyRanges {
  KeyRange range[2];
  RECURFORMER_HOST_DEVICE constexpr const KeyRange& operator[](int i) const { return range[i]; }
  RECURFORMER_HOST_DEVICE constexpr const KeyRange* begin() const { return range; }
  RECURFORMER_HOST_DEVICE constexpr const KeyRange* end() const { return range + 2; }
};

struct AttentionMask {
  /// Larger than any position, and still addable to one in 32 bits.
  static constexpr std::int64_t unlimited = std::int64_t{1} << 30;

  std::int64_t sink = 0;            ///< >= 0
  std::int64_t window = unlimited;  ///< >= 1; the query's own position counts

  RECURFORMER_HOST_DEVICE constexpr bool visible(std::int64_t query, std::int64_t key) const {
    return key <= query && (key < sink || query - key < window);
  }

  /// The keys that at least one query at positions [first, last] sees.
  RECURFORMER_HOST_DEVICE constexpr KeyRanges seen_by_any(std::int64_t first, std::int64_t last) const {
    const std::int64_t recent = first - window + 1;
    if (recent <= sink) return {{{0, 0}, {0, last + 1}}};
    return {{{0, sink}, {recent, last + 1}}};
  }

  /// True if all queries at positions [first, last] see all these keys.
  RECURFORMER_HOST_DEVICE constexpr bool seen_by_all(const KeyRange& keys, std::int64_t first,
                                                     std::int64_t last) const {
    return keys.end - 1 <= first && (keys.end <= sink || last - keys.begin < window);
  }
};

}  // namespace rf

#endif  // RECURFORMER_MATH_ATTENTION_MASK_HPP
