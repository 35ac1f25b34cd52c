#ifndef RECURFORMER_CUDA_ATTENTION_TILE_HPP
#define RECURFORMER_CUDA_ATTENTION_TILE_HPP

// What attention's prefill and decode on CUDA share: their parameters, tiles of queries, the mask of a tile
// of scores, and the parts of a Backend of kernel::flash_attention_forward that do not depend on who copies
// what when.
//
// A group's query heads are packed: query q of a group is head q % heads of token q / heads, so that a tile
// of queries shares every tile of keys among the group's heads. Scores are raw dot products of 16-bit queries
// and keys; 1/√d_head and log2(e) enter in exponentiate().

#include <cstdint>
#include <limits>

#include "recurformer/arch/arch.hpp"
#include "recurformer/cuda/key_values.hpp"
#include "recurformer/math/attention_mask.hpp"
#include "recurformer/spec/batch.hpp"
#include "recurformer/tile/cuda_tile.hpp"

namespace rf::cuda {

/// Attention without the recency probe.
struct NoProbe {
  static constexpr bool probing = false;
};

/// What the recency analysis needs, per query and head (plan/analysis.hpp). Rows are those of the batch; each
/// array is (rows, heads of the layer) with rows `stride` apart, or null.
struct RecencyProbe {
  static constexpr bool probing = true;
  std::int64_t stride = 0;            ///< floats from one row of the arrays to the next
  int window = 16;                    ///< "recent": lags 0 <= i - j < window
  int sink = 4;                       ///< first positions counted as sinks
  float* recent_mass = nullptr;       ///< attention on recent positions
  float* sink_mass = nullptr;         ///< attention on sink positions
  float* recent_sink_mass = nullptr;  ///< attention on positions that are both
  float* log_sum_exp = nullptr;       ///< of the scaled scores, natural logarithm
};

/// One run of attention heads over a batch. All pointers are the device's; rows of matrices are the packed
/// tokens of the batch and 16-byte aligned.
template <class KeyValueSource, class ProbeType = NoProbe>
struct AttentionParameters {
  using KeyValues = KeyValueSource;
  using Probe = ProbeType;
  using Element = typename KeyValues::Element;

  RowsView<const Element> queries;          ///< (rows, groups · heads · d_head), rotated, not scaled
  KeyValues key_values;                     ///< past and new tokens
  RowsView<Element> out;                    ///< (rows, heads of the layer · d_head)
  const int* group_index = nullptr;         ///< (groups): group g writes the layer's group group_index[g]
  const SequenceRows* sequences = nullptr;  ///< the new tokens
  float* log_sum_exp = nullptr;             ///< (rows, groups · heads), natural logarithm, or null
  AttentionMask mask;                       ///< sink and window at most AttentionMask::unlimited
  int groups = 1;                           ///< KV groups of the run
  int heads = 1;                            ///< query heads of a group
  Probe probe;
};

/// A tile of packed queries of one group of one sequence, as a work item.
struct AttentionItem {
  int sequence = 0;
  int group = 0;  ///< within the run
  int first_query = 0;
};

/// Consecutive packed queries of one group of one sequence.
struct QueryTile {
  RECURFORMER_HOST_DEVICE constexpr QueryTile(const SequenceRows& sequence, int heads_of_group,
                                              int first_query, int most)
      : first(first_query),
        heads(heads_of_group),
        position(static_cast<int>(sequence.position)),
        count(static_cast<int>(sequence.rows) * heads - first) {
    if (count > most) count = most;
  }

  RECURFORMER_HOST_DEVICE constexpr int token(int r) const { return (first + r) / heads; }
  RECURFORMER_HOST_DEVICE constexpr int head(int r) const { return (first + r) % heads; }
  /// Position of query r; rows behind the last query repeat its position.
  RECURFORMER_HOST_DEVICE constexpr int position_of(int r) const {
    return position + token(r < count ? r : count - 1);
  }
  RECURFORMER_HOST_DEVICE constexpr int first_position() const { return position_of(0); }
  RECURFORMER_HOST_DEVICE constexpr int last_position() const { return position_of(count - 1); }

  int first;  ///< packed query
  int heads;
  int position;  ///< of the sequence's first new token
  int count;
};

/// log2(e) / √d_head: what a dot product is worth in units of log 2.
constexpr float score_unit(int d_head) {
  double root = d_head;
  for (int i = 0; i < 16; ++i) root = (root + d_head / root) / 2;  // Newton
  return static_cast<float>(1.4426950408889634 / root);
}

inline namespace RECURFORMER_ARCH {

/// 1/l; 0 for an empty row.
RECURFORMER_DEVICE float inverse_sum(float sum) { return sum == 0.0f ? 0.0f : arch::reciprocal(sum); }

/// log Σ e^score as a natural logarithm, from the maximum in units of log 2 and the sum relative to it.
RECURFORMER_DEVICE float natural_log_sum_exp(float maximum, float sum) {
  return (maximum + arch::log2(sum)) * 0.693147180559945309f;
}

/// The recency probe's sums, partial as the row sum beside them; nothing without a probe.
template <int Slabs, bool Probing>
struct ProbeSums {
  tile::FragmentRows<Slabs> recent = {}, sink = {}, both = {};
};
template <int Slabs>
struct ProbeSums<Slabs, false> {};

/// What a Backend of kernel::flash_attention_forward for one tile of queries needs, whoever copies what when.
/// `Tuning` gives `slabs` of 16 queries per warp, `queries` per block and `keys` per tile. Numbers that the
/// loop over keys does not need are read again where they are used, rather than kept in registers.
template <class ParametersType, int D, class Tuning>
class AttentionTile {
 public:
  using Parameters = ParametersType;
  using T = typename Parameters::Element;
  using Rows = tile::FragmentRows<Tuning::slabs>;
  using Output = tile::Fragment<Tuning::slabs, D>;
  using Scores = tile::ScoreFragment<Tuning::slabs, Tuning::keys>;
  static constexpr float unit = score_unit(D);
  static constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

  /// `first_row`: where the warp's slabs start in the tile of queries.
  RECURFORMER_DEVICE AttentionTile(const Parameters& parameters, const AttentionItem& item, int first_row)
      : parameters_(parameters),
        item_(item),
        first_row_(first_row),
        key_tiles_(parameters.mask, query_tile().first_position(), query_tile().last_position()) {}

  RECURFORMER_DEVICE static Rows rows(float x) {
    Rows result;
    result.each([x](float& value, int, int) { value = x; });
    return result;
  }
  RECURFORMER_DEVICE static Output output() {
    Output zeros;
    zeros.fill(0.0f);
    return zeros;
  }
  RECURFORMER_DEVICE static Scores scores() {
    Scores result;
    result.unit = unit;
    return result;
  }
  RECURFORMER_DEVICE static float finite_or_zero(float m) { return m == arch::minus_infinity() ? 0.0f : m; }
  RECURFORMER_DEVICE static float exp2(float x) { return arch::exp2(x); }

  /// Masks the scores of one tile of keys.
  struct Mask {
    const AttentionTile& owner;
    KeyTile tile;

    /// -inf where a query must not look. Columns are compared with bounds relative to the lane's first.
    RECURFORMER_DEVICE void hide(Scores& scores) const {
      if (owner.key_tiles_.seen_by_all(tile)) return;
      const QueryTile queries = owner.query_tile();
      const int origin = tile.begin + tile::fragment_column(), sink = tile.sink - origin;
      int last[Tuning::slabs][2], window_begin[Tuning::slabs][2];
      RECURFORMER_UNROLL
      for (int i = 0; i < Tuning::slabs; ++i) {
        RECURFORMER_UNROLL
        for (int half = 0; half < 2; ++half) {
          const int p = queries.position_of(owner.row(i, half));
          last[i][half] = (p < tile.end ? p : tile.end - 1) - origin;
          window_begin[i][half] = p - owner.key_tiles_.window() + 1 - origin;
        }
      }
      scores.each([&](float& x, int i, int half, int column) {
        if (column > last[i][half] || (column < window_begin[i][half] && column >= sink))
          x = arch::minus_infinity();
      });
    }
  };

  /// Adds the weights of a tile to the probe's sums, after what these were relative to has changed by
  /// `correction`.
  RECURFORMER_DEVICE void observe(const Scores& weights, const Mask& mask, const Rows& correction) {
    if constexpr (probing) add_to_probe(weights, mask.tile, correction);
  }

 protected:
  static constexpr bool probing = Parameters::Probe::probing;

  RECURFORMER_DEVICE const SequenceRows& sequence() const { return parameters_.sequences[item_.sequence]; }
  RECURFORMER_DEVICE QueryTile query_tile() const {
    return {sequence(), parameters_.heads, item_.first_query, Tuning::queries};
  }
  /// Row of the tile of queries that a lane's half of a slab is.
  RECURFORMER_DEVICE int row(int slab, int half) const {
    return first_row_ + 16 * slab + tile::fragment_row(half);
  }
  RECURFORMER_DEVICE Mask mask(int i) const { return {.owner = *this, .tile = key_tiles_[i]}; }

  /// Starts copying the tile of queries, by threads 0 … Threads - 1; zeros behind the last.
  template <int Threads>
  RECURFORMER_DEVICE void copy_queries(const tile::SharedTile<T, Tuning::queries, D>& to, int thread) const {
    const QueryTile queries = query_tile();
    copy_rows<Threads, false>(to, thread, 0, queries.count, [&](int r) {
      const T* token = parameters_.queries.row(sequence().first_row + queries.token(r));
      return token + (item_.group * queries.heads + queries.head(r)) * D;
    });
  }
  RECURFORMER_DEVICE auto source() const {
    return parameters_.key_values.template group<D>(sequence(), item_.sequence, item_.group,
                                                    key_tiles_.recent());
  }
  /// Starts copying tile i of keys.
  template <int Threads>
  RECURFORMER_DEVICE void copy_keys(const tile::SharedTile<T, Tuning::keys, D>& to, int thread, int i) const {
    const KeyTile tile = key_tiles_[i];
    const auto group = source();
    const auto rows = group.tile(tile.begin);
    copy_rows<Threads, Parameters::KeyValues::affine>(
        to, thread, tile.first - tile.begin, tile.end - tile.begin, [&](int r) { return rows.key(r); });
  }
  /// Starts copying tile i of values.
  template <int Threads>
  RECURFORMER_DEVICE void copy_values(const tile::SharedTile<T, Tuning::keys, D>& to, int thread,
                                      int i) const {
    const KeyTile tile = key_tiles_[i];
    const auto group = source();
    const auto rows = group.tile(tile.begin);
    copy_rows<Threads, Parameters::KeyValues::affine>(
        to, thread, tile.first - tile.begin, tile.end - tile.begin, [&](int r) { return rows.value(r); });
  }

  /// Where query r's first element goes.
  RECURFORMER_DEVICE T* out_row(const QueryTile& queries, int r) const {
    const int group = parameters_.group_index[item_.group];
    return parameters_.out.row(sequence().first_row + queries.token(r)) +
           (group * queries.heads + queries.head(r)) * D;
  }
  /// Where query r's log-sum-exp goes; only if one is asked for.
  RECURFORMER_DEVICE float* log_sum_exp_at(const QueryTile& queries, int r) const {
    const std::int64_t row = sequence().first_row + queries.token(r);
    return parameters_.log_sum_exp + (row * parameters_.groups + item_.group) * queries.heads +
           queries.head(r);
  }
  /// Stores log-sum-exp and what the probe has summed up, where asked for; `inverse`: 1 / sum.
  RECURFORMER_DEVICE void store_sums(const QueryTile& queries, const Rows& maximum, const Rows& sum,
                                     const Rows& inverse) const {
    const Rows log_sum_exp = zip(maximum, sum, [](float m, float l) { return natural_log_sum_exp(m, l); });
    if (parameters_.log_sum_exp)
      each_query(queries, log_sum_exp, [&](int r, float value) { *log_sum_exp_at(queries, r) = value; });
    if constexpr (probing) store_probe(queries, inverse, log_sum_exp);
  }

  const Parameters& parameters_;
  const AttentionItem& item_;
  int first_row_;
  KeyTiles<Tuning::keys> key_tiles_;

 private:
  RECURFORMER_DEVICE void add_to_probe(Scores weights, const KeyTile& tile, const Rows& correction) {
    const auto scale = [](float a, float c) { return a * c; };
    probe_.recent = zip(probe_.recent, correction, scale);
    probe_.sink = zip(probe_.sink, correction, scale);
    probe_.both = zip(probe_.both, correction, scale);
    const int window = parameters_.probe.window, sink = parameters_.probe.sink;
    if (tile.begin >= sink && key_tiles_.first_position() - (tile.begin + Tuning::keys - 1) >= window) return;
    const QueryTile queries = query_tile();
    weights.each([&](float& weight, int i, int half, int column) {
      const int key = tile.begin + tile::fragment_column() + column;
      const bool recent = queries.position_of(row(i, half)) - key < window;
      if (recent) probe_.recent.value[i][half] += weight;
      if (key < sink) probe_.sink.value[i][half] += weight;
      if (recent && key < sink) probe_.both.value[i][half] += weight;
    });
  }
  RECURFORMER_DEVICE void store_probe(const QueryTile& queries, const Rows& inverse,
                                      const Rows& log_sum_exp) const {
    const auto& probe = parameters_.probe;
    const int column = parameters_.group_index[item_.group] * queries.heads;
    const auto store = [&](float* target, const Rows& values) {
      if (!target) return;
      each_query(queries, values, [&](int r, float value) {
        const std::int64_t row = sequence().first_row + queries.token(r);
        target[row * probe.stride + column + queries.head(r)] = value;
      });
    };
    const auto mass = [&](const Rows& sums) {
      return zip(row_total(sums), inverse, [](float a, float b) { return a * b; });
    };
    store(probe.recent_mass, mass(probe_.recent));
    store(probe.sink_mass, mass(probe_.sink));
    store(probe.recent_sink_mass, mass(probe_.both));
    store(probe.log_sum_exp, log_sum_exp);
  }
  /// Calls f(row of the tile, value) once per query of the warp.
  template <class F>
  RECURFORMER_DEVICE void each_query(const QueryTile& queries, Rows values, F f) const {
    if (arch::lane_index() % 4 != 0) return;
    values.each([&](float& value, int i, int half) {
      const int r = row(i, half);
      if (r < queries.count) f(r, value);
    });
  }

  ProbeSums<Tuning::slabs, probing> probe_;
};

}  // namespace RECURFORMER_ARCH
}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_ATTENTION_TILE_HPP
