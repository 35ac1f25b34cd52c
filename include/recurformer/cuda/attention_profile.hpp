#ifndef RECURFORMER_CUDA_ATTENTION_PROFILE_HPP
#define RECURFORMER_CUDA_ATTENTION_PROFILE_HPP

// The attention-distance profile of heads over whole sequences (plan/analysis.hpp), in a pass over queries
// and keys alone: with the log-sum-exp that attention's recency probe has left, p_ij = exp(q_i·k_j / √d_head
// - lse_i) needs no second softmax and no N×N matrix.
//
//   mass[i - j] += p_ij   for all keys j that query i sees
//
// A block has one head of one sequence and one band of lags: all pairs of a tile of 64 queries and the tile
// of 64 keys `band` tiles before it. In every pair the same place of the tile has the same lag, so that each
// thread adds up its places in registers, and lags are put together once, at the end: no atomics, and the
// same bits every time. A lag gets mass from two bands; the host adds them.
//
// Floor: 2·d_head operations and one exponential per visible pair; queries and keys are read once per band
// from the L2 cache, 4·d_head bytes per 64 pairs.

#include <cstdint>
#include <span>
#include <vector>

#include "recurformer/arch/arch.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/cuda/attention_prefill.hpp"
#include "recurformer/cuda/attention_tile.hpp"
#include "recurformer/tile/cuda_tile.hpp"

namespace rf::cuda {

/// One block's work.
struct ProfileItem {
  int sequence = 0;
  int head = 0;  ///< of the run
  int band = 0;  ///< lags around 64 · band
};

/// Queries, and keys, of a tile.
inline constexpr int profile_tile = 64;
/// Lags that a band has: 64 · band - 63 and the following.
inline constexpr int profile_lags = 2 * profile_tile - 1;

/// The bands of all sequences and heads, the long ones first.
inline std::vector<ProfileItem> plan_profile(std::span<const SequenceRows> sequences, int heads) {
  std::int64_t longest = 0;
  for (const SequenceRows& sequence : sequences) {
    check(sequence.position == 0, "profiles are those of whole sequences; one begins at position ",
          sequence.position);
    longest = sequence.rows > longest ? sequence.rows : longest;
  }
  std::vector<ProfileItem> items;
  for (int band = 0; std::int64_t{band} * profile_tile < longest; ++band)
    for (std::size_t s = 0; s < sequences.size(); ++s)
      for (int head = 0; head < heads && std::int64_t{band} * profile_tile < sequences[s].rows; ++head)
        items.push_back({static_cast<int>(s), head, band});
  return items;
}

/// Calls f(lag, mass) for what the sums of one item, profile_lags of them, add to a sequence of `rows`
/// tokens.
template <class F>
void each_profile_lag(const ProfileItem& item, std::span<const float> sums, std::int64_t rows, F&& f) {
  for (int k = 0; k < profile_lags; ++k) {
    const std::int64_t lag = std::int64_t{item.band} * profile_tile + k - (profile_tile - 1);
    if (lag >= 0 && lag < rows) f(lag, static_cast<double>(sums[static_cast<std::size_t>(k)]));
  }
}

inline namespace RECURFORMER_ARCH {

template <class KeyValues, int D>
struct AttentionProfileKernel {
  using T = typename KeyValues::Element;
  /// `attention` as prefill with the probe got it; of its results only log_sum_exp is read.
  struct Parameters {
    AttentionParameters<KeyValues, RecencyProbe> attention;
    const ProfileItem* items = nullptr;
    float* sums = nullptr;  ///< (items, profile_lags)
  };
  using Tile = tile::SharedTile<T, profile_tile, D>;
  static constexpr float unit = score_unit(D);
  static constexpr int threads = 128;
  static constexpr int blocks_per_multiprocessor = 3;
  static constexpr int stage_bytes = 2 * Tile::bytes;
  static constexpr int row_floats =
      profile_tile + 1;  // of the sums in shared memory, where diagonals are columns
  static constexpr int sums_bytes = profile_tile * row_floats * static_cast<int>(sizeof(float));
  static constexpr int shared_bytes = 2 * stage_bytes > sums_bytes ? 2 * stage_bytes : sums_bytes;

  RECURFORMER_DEVICE static void run(const Parameters& p) {
    const ProfileItem item = p.items[arch::block_index().x];
    const int tiles = (rows_of(p, item) + profile_tile - 1) / profile_tile;
    tile::Fragment<1, profile_tile> sums;
    sums.fill(0.0f);
    copy(p, item, item.band, 0);
    for (int t = item.band; t < tiles; ++t) {
      const int stage = (t - item.band) % 2;
      arch::wait_for_copies<0>();
      arch::sync_threads();
      if (t + 1 < tiles) copy(p, item, t + 1, 1 - stage);
      add(p, item, t, stage, sums);
    }
    arch::sync_threads();
    store(p, sums);
  }

 private:
  RECURFORMER_DEVICE static int rows_of(const Parameters& p, const ProfileItem& item) {
    return static_cast<int>(p.attention.sequences[item.sequence].rows);
  }
  RECURFORMER_DEVICE static Tile place(int stage, int which) {
    return {arch::shared_address(arch::shared_memory<unsigned char>()) +
            static_cast<arch::SharedAddress>(stage * stage_bytes + which * Tile::bytes)};
  }
  /// Rows of tile t that are tokens of the sequence.
  RECURFORMER_DEVICE static int valid_rows(int rows, int t) {
    const int left = rows - t * profile_tile;
    return left < profile_tile ? left : profile_tile;
  }

  /// Starts copying tile t of queries, and the keys of its band.
  RECURFORMER_DEVICE static void copy(const Parameters& p, const ProfileItem& item, int t, int stage) {
    const auto& attention = p.attention;
    const SequenceRows& sequence = attention.sequences[item.sequence];
    const int rows = static_cast<int>(sequence.rows), group = item.head / attention.heads;
    copy_rows<threads, true>(place(stage, 0), arch::thread_index(), 0, valid_rows(rows, t), [&](int r) {
      return attention.queries.row(sequence.first_row + t * profile_tile + r) + item.head * D;
    });
    const int first_key = (t - item.band) * profile_tile;
    const auto keys =
        attention.key_values.template group<D>(sequence, item.sequence, group, 0).tile(first_key);
    copy_rows<threads, KeyValues::affine>(place(stage, 1), arch::thread_index(), 0,
                                          valid_rows(rows, t - item.band),
                                          [&](int r) { return keys.key(r); });
    arch::commit_copies();
  }

  /// Adds the probabilities of a pair of tiles to the sums of their places.
  RECURFORMER_DEVICE static void add(const Parameters& p, const ProfileItem& item, int t, int stage,
                                     tile::Fragment<1, profile_tile>& sums) {
    tile::RegisterOperand<T, 1, D> queries(nullptr);
    queries.fill_from(place(stage, 0), 16 * arch::warp_index());
    tile::ScoreFragment<1, profile_tile> scores;
    scores.unit = unit;
    multiply_abt(scores, queries, place(stage, 1));
    const int valid = valid_rows(rows_of(p, item), t), window = static_cast<int>(p.attention.mask.window),
              sinks = static_cast<int>(p.attention.mask.sink) - (t - item.band) * profile_tile;
    float offset[2];
    int row[2];
    RECURFORMER_UNROLL
    for (int half = 0; half < 2; ++half) {
      row[half] = 16 * arch::warp_index() + tile::fragment_row(half);
      offset[half] = row[half] < valid ? log2_sum_exp(p, item, t * profile_tile + row[half]) : 0.0f;
    }
    RECURFORMER_UNROLL
    for (int strip = 0; strip < profile_tile / 8; ++strip) {
      RECURFORMER_UNROLL
      for (int e = 0; e < 4; ++e) {
        const int half = e / 2, column = 8 * strip + tile::fragment_column() + e % 2;
        const int lag = item.band * profile_tile + row[half] - column;
        const bool seen = row[half] < valid && lag >= 0 && (lag < window || column < sinks);
        const float probability = arch::exp2(scores.value[0][strip][e] * scores.unit - offset[half]);
        sums.value[0][strip][e] += seen ? probability : 0.0f;
      }
    }
  }

  /// Of a token's scores, in units of log 2.
  RECURFORMER_DEVICE static float log2_sum_exp(const Parameters& p, const ProfileItem& item, int token) {
    constexpr float log2_e = 1.44269504088896341f;
    const auto& attention = p.attention;
    const std::int64_t row = attention.sequences[item.sequence].first_row + token;
    const int head =
        attention.group_index[item.head / attention.heads] * attention.heads + item.head % attention.heads;
    return log2_e * attention.probe.log_sum_exp[row * attention.probe.stride + head];
  }

  /// Adds up the diagonals, each from its first row on.
  RECURFORMER_DEVICE static void store(const Parameters& p, tile::Fragment<1, profile_tile>& sums) {
    float* const shared = arch::shared_memory<float>();
    sums.each([&](float& x, int, int half, int column) {
      const int row = 16 * arch::warp_index() + tile::fragment_row(half);
      shared[row * row_floats + tile::fragment_column() + column] = x;
    });
    arch::sync_threads();
    const int k = arch::thread_index(), lag = k - (profile_tile - 1);
    if (k >= profile_lags) return;
    float sum = 0;
    for (int row = lag > 0 ? lag : 0; row < profile_tile && row - lag < profile_tile; ++row)
      sum += shared[row * row_floats + row - lag];
    p.sums[std::int64_t{arch::block_index().x} * profile_lags + k] = sum;
  }
};

}  // namespace RECURFORMER_ARCH

/// Computes the sums of every item, those of plan_profile() on the device: (items, profile_lags).
template <int D, class KeyValues, class Device>
void attention_profile(Device& device, const AttentionParameters<KeyValues, RecencyProbe>& attention,
                       std::span<const ProfileItem> items, float* sums) {
  using Kernel = AttentionProfileKernel<KeyValues, D>;
  if (items.empty()) return;
  device.template launch<Kernel>(
      {.blocks = {.x = static_cast<int>(items.size())}, .shared_bytes = Kernel::shared_bytes},
      {.attention = attention, .items = items.data(), .sums = sums});
}

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_ATTENTION_PROFILE_HPP
