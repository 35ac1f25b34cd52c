#ifndef RECURFORMER_CPU_ATTENTION_CACHE_HPP
#define RECURFORMER_CPU_ATTENTION_CACHE_HPP

// Where one group's keys and values lie: as columns of the projection (training), in pages that keep all rows
// (Attention), or in a ring of the first and the last rows (StreamingAttention).
//
// A page is (groups, cache_page_rows, d_head); a ring (groups, sink + capacity, d_head), position p < sink at
// index p, any other at sink + (p - sink) % capacity. The scales of rows of 8-bit integers, one for each, lie
// in pages or a ring of their own as rows of one float. New rows go into pages before attention reads them. A
// ring is read together with the new rows, which wait in scratch in the cache's type, and written afterwards:
// a long chunk would overwrite rows that its first queries still see.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "recurformer/core/precision.hpp"
#include "recurformer/cpu/attention_tile.hpp"
#include "recurformer/cpu/int8.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {

/// Where a row of keys or values is written, and its scale, if it has one.
template <class T>
struct RowTarget {
  T* elements = nullptr;
  float* scale = nullptr;

  /// The rows from here on, as they are read.
  KeptRows<T> rows(std::int64_t stride) const { return {elements, stride, scale}; }
};

/// The keys or the values of one group of one sequence.
struct RowField {
  FieldView rows, scales;  ///< no scales where rows have none
  std::int64_t group = 0;  ///< within the run

  /// The row of `position` in pages.
  template <int D, class T>
  RowTarget<T> page_row(std::int64_t position) const {
    RowTarget<T> row{in_page<D, T>(rows, position)};
    if constexpr (has_scales<T>) row.scale = in_page<1, float>(scales, position);
    return row;
  }
  /// The row of `position` in a ring.
  template <int D, class T>
  RowTarget<T> ring_row(std::int64_t sink, std::int64_t position) const {
    const std::int64_t slot = position < sink ? position : sink + (position - sink) % rows.capacity;
    const std::int64_t at = group * (sink + rows.capacity) + slot;
    RowTarget<T> row{static_cast<T*>(rows.data) + at * D};
    if constexpr (has_scales<T>) row.scale = static_cast<float*>(scales.data) + at;
    return row;
  }

 private:
  template <int D, class T>
  T* in_page(const FieldView& field, std::int64_t position) const {
    auto* page = static_cast<T*>(field.pages[position / cache_page_rows]);
    return page + (group * cache_page_rows + position % cache_page_rows) * D;
  }
};

/// The key and value fields of one group of one sequence.
struct AttentionFields {
  RowField key, value;
};

/// Converts one row of D floats.
template <int D, class T>
void store_row(const RowTarget<T>& target, const float* source) {
  if constexpr (has_scales<T>)
    *target.scale = quantise<D>(source, target.elements);
  else
    for (int d = 0; d < D; d += simd::width) simd::store(target.elements + d, simd::load(source + d));
}

/// Blocks of the positions [0, end) of a paged cache.
template <int D, class T>
void add_page_blocks(std::vector<KeyBlock<T>>& blocks, const AttentionFields& fields, std::int64_t end) {
  for (std::int64_t p = 0; p < end; p += cache_page_rows)
    blocks.push_back({.keys = fields.key.page_row<D, T>(p).rows(D),
                      .values = fields.value.page_row<D, T>(p).rows(D),
                      .position = p,
                      .rows = std::min(cache_page_rows, end - p)});
}

/// Blocks of the positions before `end` that a ring keeps and that position `end` or a later one may see.
template <int D, class T>
void add_ring_blocks(std::vector<KeyBlock<T>>& blocks, const AttentionFields& fields,
                     const AttentionMask& mask, std::int64_t end) {
  const auto add = [&](std::int64_t begin, std::int64_t rows) {
    if (rows > 0)
      blocks.push_back({.keys = fields.key.ring_row<D, T>(mask.sink, begin).rows(D),
                        .values = fields.value.ring_row<D, T>(mask.sink, begin).rows(D),
                        .position = begin,
                        .rows = rows});
  };
  add(0, std::min(mask.sink, end));
  const std::int64_t first = std::max(mask.sink, end - mask.window + 1);
  if (first >= end) return;
  const std::int64_t capacity = fields.key.rows.capacity;
  const std::int64_t before_wrap = capacity - (first - mask.sink) % capacity;
  const std::int64_t head = std::min(before_wrap, end - first);
  add(first, head);
  add(first + head, end - first - head);
}

/// Writes the rows of positions [position, position + rows), which lie one behind the other, into a ring.
template <int D, class T>
void append_to_ring(const RowField& field, const AttentionMask& mask, const KeptRows<T>& from,
                    std::int64_t position, std::int64_t rows) {
  for (std::int64_t t = 0; t < rows; ++t) {
    const std::int64_t p = position + t;
    if (p >= mask.sink && p + field.rows.capacity < position + rows) continue;  // overwritten by a later one
    const RowTarget<T> to = field.ring_row<D, T>(mask.sink, p);
    std::copy_n(from.row(t), D, to.elements);
    if constexpr (has_scales<T>) *to.scale = from.scales[t];
  }
}

}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_ATTENTION_CACHE_HPP
