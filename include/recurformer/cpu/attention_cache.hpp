#ifndef RECURFORMER_CPU_ATTENTION_CACHE_HPP
#define RECURFORMER_CPU_ATTENTION_CACHE_HPP

// Where one group's keys and values lie: as columns of the projection (training), in pages that keep all rows
// (Attention), or in a ring of the first and the last rows (StreamingAttention).
//
// A page is (groups, cache_page_rows, d_head); a ring (groups, sink + capacity, d_head), position p < sink at
// index p, any other at sink + (p - sink) % capacity. New rows go into pages before attention reads them. A
// ring is read together with the new rows, which wait in scratch in the cache's type, and written afterwards:
// a long chunk would overwrite rows that its first queries still see.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "recurformer/cpu/attention_tile.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {

/// The key and value fields of one group of one sequence.
struct AttentionFields {
  FieldView key, value;
  std::size_t group = 0;  ///< within the run

  /// The row of `position` in a paged field.
  template <int D, class T>
  T* page_row(const FieldView& field, std::int64_t position) const {
    auto* page = static_cast<T*>(field.pages[position / cache_page_rows]);
    return page + (static_cast<std::int64_t>(group) * cache_page_rows + position % cache_page_rows) * D;
  }
  /// The row of `position` in a ring.
  template <int D, class T>
  T* ring_row(const FieldView& field, std::int64_t sink, std::int64_t position) const {
    const std::int64_t slot = position < sink ? position : sink + (position - sink) % field.capacity;
    return static_cast<T*>(field.data) +
           (static_cast<std::int64_t>(group) * (sink + field.capacity) + slot) * D;
  }
};

/// Converts one row of D floats.
template <int D, class T>
void store_row(T* target, const float* source) {
  for (int d = 0; d < D; d += simd::width) simd::store(target + d, simd::load(source + d));
}

/// Blocks of the positions [0, end) of a paged cache.
template <int D, class T>
void add_page_blocks(std::vector<KeyBlock<T>>& blocks, const AttentionFields& fields, std::int64_t end) {
  for (std::int64_t p = 0; p < end; p += cache_page_rows)
    blocks.push_back({.keys = fields.page_row<D, T>(fields.key, p),
                      .values = fields.page_row<D, T>(fields.value, p),
                      .stride = D,
                      .position = p,
                      .rows = std::min(cache_page_rows, end - p)});
}

/// Blocks of the positions before `end` that a ring keeps and that position `end` or a later one may see.
template <int D, class T>
void add_ring_blocks(std::vector<KeyBlock<T>>& blocks, const AttentionFields& fields,
                     const AttentionMask& mask, std::int64_t end) {
  const auto add = [&](std::int64_t begin, std::int64_t rows) {
    if (rows > 0)
      blocks.push_back({.keys = fields.ring_row<D, T>(fields.key, mask.sink, begin),
                        .values = fields.ring_row<D, T>(fields.value, mask.sink, begin),
                        .stride = D,
                        .position = begin,
                        .rows = rows});
  };
  add(0, std::min(mask.sink, end));
  const std::int64_t first = std::max(mask.sink, end - mask.window + 1);
  if (first >= end) return;
  const std::int64_t before_wrap = fields.key.capacity - (first - mask.sink) % fields.key.capacity;
  const std::int64_t head = std::min(before_wrap, end - first);
  add(first, head);
  add(first + head, end - first - head);
}

/// Writes the rows of positions [position, position + rows), which lie one behind the other, into a ring.
template <int D, class T>
void append_to_ring(const AttentionFields& fields, const AttentionMask& mask, const T* keys, const T* values,
                    std::int64_t position, std::int64_t rows) {
  for (std::int64_t t = 0; t < rows; ++t) {
    const std::int64_t p = position + t;
    if (p >= mask.sink && p + fields.key.capacity < position + rows) continue;  // overwritten by a later one
    std::copy_n(keys + t * D, D, fields.ring_row<D, T>(fields.key, mask.sink, p));
    std::copy_n(values + t * D, D, fields.ring_row<D, T>(fields.value, mask.sink, p));
  }
}

}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_ATTENTION_CACHE_HPP
