#ifndef RECURFORMER_CPU_ATTENTION_TILE_HPP
#define RECURFORMER_CPU_ATTENTION_TILE_HPP

// Where attention's tiles come from and go to on the CPU, shared by forward, backward and the profile:
// the description of one KV group of one sequence, tiles of its queries, and the walk over its keys.
//
// A group's query heads are packed: query q of a group is head q % heads of token q / heads. A tile of
// queries then holds few tokens of many heads, which shares keys and values and shortens the masked edge.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numbers>
#include <span>

#include "recurformer/core/dtype.hpp"
#include "recurformer/core/precision.hpp"
#include "recurformer/cpu/mixer_kernel.hpp"
#include "recurformer/math/attention_mask.hpp"
#include "recurformer/tile/cpu_tile.hpp"
#include "recurformer/tile/transpose.hpp"

namespace rf::cpu {

/// Rows of keys or values, `stride` elements apart, and their scales one behind the other, where T has some.
template <class T>
struct KeptRows {
  const T* elements = nullptr;
  std::int64_t stride = 0;
  const float* scales = nullptr;

  const T* row(std::int64_t index) const { return elements + index * stride; }
  /// The rows behind the first `count`.
  KeptRows from(std::int64_t count) const {
    return {row(count), stride, has_scales<T> ? scales + count : nullptr};
  }
};

/// Keys and values of consecutive positions.
template <class T>
struct KeyBlock {
  KeptRows<T> keys, values;
  std::int64_t position = 0;
  std::int64_t rows = 0;

  std::int64_t end() const { return position + rows; }
};

/// One KV group of one sequence: its new queries and every key they may look at.
template <class T>
struct AttentionGroup {
  RowsView<const float> queries;  ///< token t's heads, heads · d_head floats, rotated
  int heads = 1;                  ///< query heads of the group
  std::int64_t tokens = 0;
  std::int64_t position = 0;            ///< of token 0
  std::span<const KeyBlock<T>> blocks;  ///< in the order of positions; gaps only where nothing is visible
  RowsView<float> out;                  ///< as queries
  float* log_sum_exp = nullptr;         ///< (tokens, heads), natural logarithm; null: not wanted
  AttentionProbe probe;                 ///< arrays begin at token 0 and the group's first head

  std::int64_t query_count() const { return tokens * heads; }
};

inline namespace RECURFORMER_ISA {

/// Queries and keys per tile. 48 queries are three AVX-512 vectors, the widest panel of the microkernel.
inline constexpr int tile_queries = 48;
inline constexpr int tile_keys = 64;

/// Scores in units of log 2: log2(e) / √d_head.
inline float score_scale(int d_head) {
  return static_cast<float>(std::numbers::log2e / std::sqrt(static_cast<double>(d_head)));
}

/// Which queries a tile holds: `count` of them from `first` on. Lanes behind them repeat the last position.
struct QueryRows {
  QueryRows(std::int64_t first_query, std::int64_t total, int heads, std::int64_t position)
      : first(first_query), count(static_cast<int>(std::min<std::int64_t>(tile_queries, total - first))) {
    std::int64_t t = first / heads;
    int h = static_cast<int>(first % heads);
    first_position = position + t;
    for (int r = 0; r < tile_queries; ++r) {
      token[r] = t;
      head[r] = h;
      positions[r] = static_cast<std::int32_t>(position + t);
      if (r + 1 < count && ++h == heads) h = 0, ++t;
    }
    last_position = position + t;
  }
  int vectors() const { return tile::vectors_for(count); }
  /// Positions of the queries in vector v.
  simd::IntVec position_vector(int v) const {
    simd::IntVec x;
    std::memcpy(&x, positions + v * simd::width, sizeof x);
    return x;
  }

  std::int64_t first;
  int count;
  std::int64_t first_position, last_position;
  std::int64_t token[tile_queries];
  int head[tile_queries];
  alignas(64) std::int32_t positions[tile_queries];
};

/// columns[d] of a tile = scale · element d of every query's row of `source`; zeros behind the last query.
template <int D>
void load_queries(tile::LaneTile<tile_queries, D>& result, const QueryRows& queries,
                  const RowsView<const float>& source, float scale) {
  using namespace simd;
  for (int v = 0; v < result.vectors; ++v)
    for (int d = 0; d < D; d += width) {
      Vec square[width];
      for (int i = 0; i < width; ++i) {
        const int r = v * width + i;
        square[i] =
            r < queries.count ? load(source.row(queries.token[r]) + queries.head[r] * D + d) * scale : zero();
      }
      transpose(square);
      for (int i = 0; i < width; ++i) store(result.column(d + i) + v * width, square[i]);
    }
}

/// The way back: row r of `target` = row r of the tile times scale[r].
template <int D>
void store_queries(const tile::LaneTile<tile_queries, D>& source, const tile::RowValues<tile_queries>& scale,
                   const QueryRows& queries, const RowsView<float>& target) {
  using namespace simd;
  for (int v = 0; v < source.vectors; ++v)
    for (int d = 0; d < D; d += width) {
      Vec square[width];
      for (int i = 0; i < width; ++i) square[i] = load(source.column(d + i) + v * width) * scale[v];
      transpose(square);
      for (int i = 0; i < width; ++i) {
        const int r = v * width + i;
        if (r < queries.count) store(target.row(queries.token[r]) + queries.head[r] * D + d, square[i]);
      }
    }
}

/// Masks one tile of scores.
struct TileMask {
  AttentionMask mask;
  KeyRange keys;  ///< the tile's positions
  const QueryRows* queries = nullptr;

  bool full() const { return mask.seen_by_all(keys, queries->first_position, queries->last_position); }

  /// -inf where a query must not look.
  template <int Rows, int Columns>
  void hide(tile::LaneTile<Rows, Columns>& scores) const {
    if (full()) return;
    const auto sink = static_cast<std::int32_t>(std::min(mask.sink, AttentionMask::unlimited));
    const auto window = static_cast<std::int32_t>(std::min(mask.window, AttentionMask::unlimited));
    const simd::Vec minus_infinity = simd::broadcast(-std::numeric_limits<float>::infinity());
    for (int c = 0; c < static_cast<int>(keys.size()); ++c) {
      const auto key = static_cast<std::int32_t>(keys.begin) + c;
      for (int v = 0; v < scores.vectors; ++v) {
        const simd::IntVec lag = queries->position_vector(v) - key;
        const simd::IntVec hidden = key < sink ? lag < 0 : (lag < 0) | (lag >= window);
        float* at = scores.column(c) + v * simd::width;
        simd::store(at, simd::select(hidden, minus_infinity, simd::load(at)));
      }
    }
  }
};

/// Calls f(block, first row within the block, TileMask) for every tile of keys that some of the queries see,
/// in the order of positions.
template <class T, class F>
void for_each_key_tile(std::span<const KeyBlock<T>> blocks, const AttentionMask& mask,
                       const QueryRows& queries, F f) {
  for (const KeyRange& range : mask.seen_by_any(queries.first_position, queries.last_position))
    for (const KeyBlock<T>& block : blocks) {
      const std::int64_t begin = std::max(range.begin, block.position),
                         end = std::min(range.end, block.end());
      for (std::int64_t p = begin; p < end; p += tile_keys) {
        const KeyRange keys{p, std::min<std::int64_t>(p + tile_keys, end)};
        f(block, p - block.position, TileMask{.mask = mask, .keys = keys, .queries = &queries});
      }
    }
}

}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_ATTENTION_TILE_HPP
