#ifndef RECURFORMER_CUDA_KEY_VALUES_HPP
#define RECURFORMER_CUDA_KEY_VALUES_HPP

// Which keys a tile of queries walks over, and where their rows lie in global memory: in pages that keep all
// rows (Attention), or in a ring of the first and the last rows beside the new ones (StreamingAttention).
//
// A source of keys and values is a type with
//
//   using Element = …;                        bf16 or fp16
//   static constexpr bool affine = …;         whether addresses within a tile are affine in the row
//   group<D>(sequence, index, group, recent)  the rows of one group of one sequence; `recent` is the first
//                                             position behind the sinks that will be asked for
//     .tile(begin)                            rows of positions begin, begin + 1, … within one tile
//       .key(r), .value(r)                    of position begin + r: d_head elements, 16-byte aligned
//
// Tiles are aligned: `begin` is a multiple of the tile's size, which divides cache_page_rows, so that a tile
// never leaves its page.

#include <cstdint>

#include "recurformer/core/config.hpp"
#include "recurformer/core/rows_view.hpp"
#include "recurformer/math/attention_mask.hpp"
#include "recurformer/spec/batch.hpp"
#include "recurformer/spec/cache_field.hpp"
#include "recurformer/tile/cuda_tile.hpp"

namespace rf::cuda {

/// One tile of keys. Rows outside [first, end) are not visible to any query and are not read.
struct KeyTile {
  int begin = 0;  ///< position of row 0
  int first = 0;
  int end = 0;
  int sink = 0;  ///< keys below this position stay visible behind the window
};

/// The tiles of `Keys` keys that queries at positions [first, last] see, in the order of positions: tiles of
/// sinks, then tiles of recent keys; where the two ranges meet, all are recent. Everything is worked out from
/// four numbers, which is cheaper than the registers it would take to keep.
template <int Keys>
class KeyTiles {
 public:
  static_assert(cache_page_rows % Keys == 0, "recurformer: a tile of keys may not straddle pages");

  /// The mask's sink and window are at most AttentionMask::unlimited.
  RECURFORMER_HOST_DEVICE constexpr KeyTiles(const AttentionMask& mask, int first, int last)
      : first_(first),
        last_(last),
        sink_(static_cast<int>(mask.sink)),
        window_(static_cast<int>(mask.window)) {}

  RECURFORMER_HOST_DEVICE constexpr int count() const {
    return sink_tiles() + (last_ + Keys) / Keys - recent() / Keys;
  }
  /// First position of the recent range.
  RECURFORMER_HOST_DEVICE constexpr int recent() const { return ranges_meet() ? 0 : first_ - window_ + 1; }

  RECURFORMER_HOST_DEVICE constexpr KeyTile operator[](int i) const {
    if (i < sink_tiles()) return {.begin = i * Keys, .first = 0, .end = sink_, .sink = sink_};
    return {.begin = (recent() / Keys + i - sink_tiles()) * Keys,
            .first = recent(),
            .end = last_ + 1,
            .sink = ranges_meet() ? sink_ : 0};
  }

  /// True if all queries see all keys of the tile.
  RECURFORMER_HOST_DEVICE constexpr bool seen_by_all(const KeyTile& tile) const {
    const int end = tile.begin + Keys;
    return end <= tile.end && end - 1 <= first_ && (end <= tile.sink || last_ - tile.begin < window_);
  }
  RECURFORMER_HOST_DEVICE constexpr int first_position() const { return first_; }
  RECURFORMER_HOST_DEVICE constexpr int window() const { return window_; }

 private:
  RECURFORMER_HOST_DEVICE constexpr bool ranges_meet() const { return first_ - window_ + 1 <= sink_; }
  RECURFORMER_HOST_DEVICE constexpr int sink_tiles() const {
    return ranges_meet() ? 0 : (sink_ + Keys - 1) / Keys;
  }

  int first_, last_, sink_, window_;
};

/// Keys and values in pools of pages, each (groups, cache_page_rows, d_head). The new tokens' rows are there.
template <class T>
struct PagedKeyValues {
  using Element = T;
  static constexpr bool affine = true;

  const T* keys = nullptr;     ///< (pages, groups, cache_page_rows, d_head)
  const T* values = nullptr;   ///< likewise
  const int* pages = nullptr;  ///< (sequences, pages_per_sequence): page p of a sequence holds the positions
                               ///< [p · cache_page_rows, …)
  int pages_per_sequence = 0;
  int groups = 1;

  template <int D>
  class Tile {
   public:
    RECURFORMER_DEVICE Tile(const PagedKeyValues& source, std::int64_t offset)
        : source_(&source), offset_(offset) {}
    RECURFORMER_DEVICE const T* key(int r) const { return source_->keys + offset_ + r * D; }
    RECURFORMER_DEVICE const T* value(int r) const { return source_->values + offset_ + r * D; }

   private:
    const PagedKeyValues* source_;
    std::int64_t offset_;
  };

  template <int D>
  class Group {
   public:
    RECURFORMER_DEVICE Group(const PagedKeyValues& source, int sequence, int group)
        : source_(&source),
          pages_(source.pages + std::int64_t{sequence} * source.pages_per_sequence),
          group_(group) {}
    RECURFORMER_DEVICE Tile<D> tile(int begin) const {
      constexpr int page_rows = static_cast<int>(cache_page_rows);
      const std::int64_t page = pages_[begin / page_rows];
      return {*source_, ((page * source_->groups + group_) * page_rows + begin % page_rows) * D};
    }

   private:
    const PagedKeyValues* source_;
    const int* pages_;
    int group_;
  };

  template <int D>
  RECURFORMER_DEVICE Group<D> group(const SequenceRows&, int index, int group, int) const {
    return {*this, index, group};
  }
};

/// The past in rings, one per sequence, (groups, sink + capacity, d_head): position p < sink in slot p, any
/// other in slot sink + (p - sink) % capacity. The new rows are read where they were projected to: the ring
/// is written afterwards, as a long chunk would overwrite rows that its first queries still see.
template <class T>
struct RingKeyValues {
  using Element = T;
  static constexpr bool affine = false;

  const T* const* past_keys = nullptr;    ///< (sequences); not read for a sequence at position 0
  const T* const* past_values = nullptr;  ///< (sequences)
  RowsView<const T> keys;                 ///< (rows, groups · d_head), of the new tokens; keys rotated
  RowsView<const T> values;               ///< likewise
  int sink = 0;
  int capacity = 1;  ///< >= window - 1 of the mask
  int groups = 1;

  /// One of keys and values of one group of one sequence.
  template <int D>
  struct Rows {
    const T* past;        ///< slot 0
    const T* fresh;       ///< of the batch's row 0
    int fresh_row;        ///< from a new position to its row
    std::int64_t stride;  ///< of fresh rows
    int past_end;
    int sink, capacity;
    int shift;  ///< from a position behind the sinks to its slot, less the ring's capacity once wrapped

    RECURFORMER_DEVICE const T* at(int position) const {
      if (position >= past_end) return fresh + (position + fresh_row) * stride;
      const int slot = position < sink ? position : position + shift;
      return past + std::int64_t{slot < sink + capacity ? slot : slot - capacity} * D;
    }
  };

  template <int D>
  class Tile {
   public:
    RECURFORMER_DEVICE Tile(const Rows<D>& keys, const Rows<D>& values, int begin)
        : keys_(keys), values_(values), begin_(begin) {}
    RECURFORMER_DEVICE const T* key(int r) const { return keys_.at(begin_ + r); }
    RECURFORMER_DEVICE const T* value(int r) const { return values_.at(begin_ + r); }

   private:
    Rows<D> keys_, values_;
    int begin_;
  };

  template <int D>
  class Group {
   public:
    /// Past rows from `recent` on number less than the capacity: they wrap once at most.
    RECURFORMER_DEVICE Group(const RingKeyValues& source, const SequenceRows& sequence, int index, int group,
                             int recent) {
      const int first = recent > source.sink ? recent : source.sink;
      const int shift = source.sink + (first - source.sink) % source.capacity - first;
      const std::int64_t past = std::int64_t{group} * (source.sink + source.capacity) * D;
      const auto rows = [&](const T* const* rings, const RowsView<const T>& fresh) {
        return Rows<D>{.past = sequence.position == 0 ? nullptr : rings[index] + past,
                       .fresh = fresh.data + group * D,
                       .fresh_row = static_cast<int>(sequence.first_row - sequence.position),
                       .stride = fresh.stride,
                       .past_end = static_cast<int>(sequence.position),
                       .sink = source.sink,
                       .capacity = source.capacity,
                       .shift = shift};
      };
      keys_ = rows(source.past_keys, source.keys);
      values_ = rows(source.past_values, source.values);
    }
    RECURFORMER_DEVICE Tile<D> tile(int begin) const { return {keys_, values_, begin}; }

   private:
    Rows<D> keys_, values_;
  };

  template <int D>
  RECURFORMER_DEVICE Group<D> group(const SequenceRows& sequence, int index, int group, int recent) const {
    return {*this, sequence, index, group, recent};
  }
};

/// Starts copying rows of `Columns` elements into a tile, by threads 0 … Threads - 1: row r from row(r) for r
/// in [first, end), zeros elsewhere; row() is asked for no other r. Where row(r) is `affine` in r and all
/// rows are wanted, which is what inner loops do, one address and constants serve for the whole tile;
/// otherwise a rolled loop saves registers.
template <int Threads, bool Affine, class T, int Rows, int Columns, class Row>
RECURFORMER_DEVICE void copy_rows(const tile::SharedTile<T, Rows, Columns>& to, int thread, int first,
                                  int end, Row row) {
  constexpr int chunks = tile::SwizzledLayout<Columns>::chunks, total = Rows * chunks;
  if constexpr (Affine && Threads % chunks == 0 && total % Threads == 0) {
    if (first <= 0 && end >= Rows) {
      const int chunk = thread % chunks;
      RECURFORMER_UNROLL
      for (int i = 0; i < total / Threads; ++i) {
        const int r = thread / chunks + i * (Threads / chunks);
        arch::copy_async<16>(to.chunk(r, chunk), row(r) + 8 * chunk);
      }
      return;
    }
  }
  RECURFORMER_ROLLED
  for (int index = thread; index < total; index += Threads) {
    const int r = index / chunks, chunk = index % chunks;
    const bool valid = r >= first && r < end;
    const int inside = r < first ? first : r < end ? r : end - 1;
    arch::copy_async<16>(to.chunk(r, chunk), row(inside) + 8 * chunk, valid ? 16 : 0);
  }
}

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_KEY_VALUES_HPP
