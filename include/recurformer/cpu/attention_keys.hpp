#ifndef RECURFORMER_CPU_ATTENTION_KEYS_HPP
#define RECURFORMER_CPU_ATTENTION_KEYS_HPP

// Keys and values as the tiles of attention read them: floats, one row behind the other. They come from
// activations, whose rows are far apart, or from pages and rings of a cache, whose elements are short. Every
// tile of queries reads all that it sees, so they are copied once per group, not once per tile.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "recurformer/core/parallel.hpp"
#include "recurformer/cpu/aligned_buffer.hpp"
#include "recurformer/cpu/attention_tile.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {

/// Converts the first `count` rows of D elements to floats one behind the other.
template <int D, class T>
void copy_rows(float* target, const KeptRows<T>& rows, std::int64_t count) {
  for (std::int64_t r = 0; r < count; ++r)
#pragma GCC unroll 4
    for (int d = 0; d < D; d += simd::width) {
      simd::Vec numbers = simd::load(rows.row(r) + d);
      if constexpr (has_scales<T>) numbers *= rows.scales[r];
      simd::store(target + r * D + d, numbers);
    }
}

/// Groups whose keys and values have been copied, as many of them as call for most_copied_floats, or one.
template <int D, class T>
class CopiedGroups {
 public:
  /// Copies for groups from `first` on. One object per thread at a time.
  CopiedGroups(std::span<const AttentionGroup<T>> groups, std::size_t first, const AttentionMask& mask)
      : end_(first) {
    std::int64_t floats = 0;
    for (; end_ < groups.size(); ++end_) {
      const std::int64_t more = copied_floats(groups[end_], mask);
      if (end_ > first && floats + more > most_copied_floats) break;
      floats += more;
    }
    // reserved: groups point to their blocks
    blocks_.reserve(2 * (end_ - first));
    float* next = scratch(floats);
    for (std::size_t g = first; g < end_; ++g) {
      const std::size_t first_block = blocks_.size();
      for (const KeyRange& range : seen_ranges(groups[g], mask)) {
        if (range.size() == 0) continue;
        const std::int64_t size = (range.size() + spare_rows) * D;
        plan_copies(groups[g], range, next, next + size);
        blocks_.push_back(
            {.keys = {next, D}, .values = {next + size, D}, .position = range.begin, .rows = range.size()});
        next += 2 * size;
      }
      groups_.push_back({.queries = groups[g].queries,
                         .heads = groups[g].heads,
                         .tokens = groups[g].tokens,
                         .position = groups[g].position,
                         .blocks = std::span(blocks_).subspan(first_block),
                         .out = groups[g].out,
                         .log_sum_exp = groups[g].log_sum_exp,
                         .probe = groups[g].probe});
    }
    parallel_for(static_cast<std::int64_t>(copies_.size()), [&](std::int64_t i) {
      const Copy& copy = copies_[static_cast<std::size_t>(i)];
      copy_rows<D>(copy.to, copy.from, copy.rows);
    });
  }

  std::span<const AttentionGroup<float>> groups() const { return groups_; }
  /// The first group that was not copied.
  std::size_t end() const { return end_; }

 private:
  static constexpr std::int64_t most_copied_floats = std::int64_t{8} << 20;
  static constexpr std::int64_t spare_rows = 16;  // products read keys in strips of up to so many rows

  struct Copy {
    KeptRows<T> from;
    float* to;
    std::int64_t rows;
  };

  static auto seen_ranges(const AttentionGroup<T>& group, const AttentionMask& mask) {
    return mask.seen_by_any(group.position, group.position + group.tokens - 1);
  }
  static std::int64_t copied_floats(const AttentionGroup<T>& group, const AttentionMask& mask) {
    std::int64_t rows = 0;
    for (const KeyRange& range : seen_ranges(group, mask))
      if (range.size() > 0) rows += range.size() + spare_rows;
    return 2 * rows * D;
  }
  static float* scratch(std::int64_t floats) {
    thread_local AlignedBuffer<float> buffer;
    buffer.reserve(static_cast<std::size_t>(floats));
    return buffer.data();
  }

  /// The copies, in pieces of a thread, that put a range of positions to its place.
  void plan_copies(const AttentionGroup<T>& group, const KeyRange& range, float* keys, float* values) {
    constexpr std::int64_t piece = 256;
    for (const KeyBlock<T>& block : group.blocks) {
      const std::int64_t end = std::min(range.end, block.end());
      for (std::int64_t p = std::max(range.begin, block.position); p < end; p += piece) {
        const std::int64_t rows = std::min(piece, end - p), at = (p - range.begin) * D;
        copies_.push_back({block.keys.from(p - block.position), keys + at, rows});
        copies_.push_back({block.values.from(p - block.position), values + at, rows});
      }
    }
  }

  std::size_t end_;
  std::vector<KeyBlock<float>> blocks_;
  std::vector<AttentionGroup<float>> groups_;
  std::vector<Copy> copies_;
};

}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_ATTENTION_KEYS_HPP
