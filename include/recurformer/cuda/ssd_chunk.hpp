#ifndef RECURFORMER_CUDA_SSD_CHUNK_HPP
#define RECURFORMER_CUDA_SSD_CHUNK_HPP

// One chunk of Q = 64 tokens of the SSD recurrence (Mamba-2, arXiv 2405.21060, §6) on tensor cores, for one
// KV group, by one block. With A_i, Δ_i of ssd_decays.hpp, L_ij = e^{A_i - A_j} for j <= i, else 0, and the
// state (s, r) before the chunk:
//
//   M = (c1 q kᵀ + c0) ∘ L ∘ Δ                       (Q, Q)   per query head, upper 16 x 16 blocks skipped
//   y = e^{A} ∘ (c1 q s + c0 r) + M v + D ∘ v         (Q, P)   then norm and gate
//   s ← e^{A_Q} s + kᵀ (w ∘ v),  r ← e^{A_Q} r + Σ w ∘ v,   w = e^{A_Q - A} ∘ Δ
//
// Work of the warps: for outputs, four 16-row tiles times one or two halves of the columns; for the state,
// every warp owns 8 or 16 value columns of all rows of s, in registers from chunk to chunk (SsdState).
//
// Precision: sums, decays and states are fp32. What the state takes up, w ∘ v, enters the tensor cores in two
// parts of 16 bits, because the state persists and its errors would: with k as stored, the carry is as good
// as fp32. What only reaches the output, M and the state's copy for q s, is rounded once to T: errors
// of the order of the output's own rounding. In fp16 the state's copy is divided by a power of two near its
// largest element, and Δ by one near the chunk's largest, so that products of inputs in range stay in range.

#include <cstdint>

#include "recurformer/arch/arch.hpp"
#include "recurformer/cuda/mamba2_arguments.hpp"
#include "recurformer/cuda/ssd_decays.hpp"
#include "recurformer/cuda/ssd_tile.hpp"

namespace rf::cuda {

/// Sizes of the work on heads of width P.
template <int P>
struct SsdShape {
  static_assert(P == 16 || P == 32 || P == 64 || P == 128,
                "recurformer: SSD on CUDA has d_head 16, 32, 64 or 128");
  static constexpr int rows = SsdDecays::rows;
  static constexpr int row_tiles = rows / 16;
  static constexpr int halves = P == 128 ? 2 : 1;  ///< of the output's columns
  static constexpr int warps = row_tiles * halves;
  static constexpr int threads = warps * arch::warp_size;
  static constexpr int out_fragments = P / halves / 8;
  static constexpr int state_warps = P / 8 < warps ? P / 8 : warps;
  static constexpr int state_fragments = P / 8 / state_warps;  ///< 8-column fragments of a warp's columns
};

/// The state of one group, in the registers of a block: warp w < state_warps owns value columns from
/// w · 8 · state_fragments on. The other warps' is zero, so that it has a value (cuda/work_item.hpp).
template <int P>
struct SsdState {
  using Shape = SsdShape<P>;

  float s[P / 16][Shape::state_fragments][4] = {};  ///< rows 16·i …, fragments of the accumulator layout
  float r[Shape::state_fragments] = {};             ///< of column lane / 4 of each fragment

  RECURFORMER_DEVICE static bool owner() { return arch::warp_index() < Shape::state_warps; }
  RECURFORMER_DEVICE static int column(int fragment) {
    return (arch::warp_index() * Shape::state_fragments + fragment) * 8;
  }

  /// Calls f(row, column, x, y) for the 8 x 8 blocks of the warp's columns: x and y are the lane's two
  /// neighbours in the block at (row, column).
  template <class F>
  RECURFORMER_DEVICE void for_pairs(F f) {
    RECURFORMER_UNROLL
    for (int i = 0; i < P / 16; ++i) {
      RECURFORMER_UNROLL
      for (int n = 0; n < Shape::state_fragments; ++n) {
        f(16 * i, column(n), s[i][n][0], s[i][n][1]);
        f(16 * i + 8, column(n), s[i][n][2], s[i][n][3]);
      }
    }
  }
  /// From (P + 1, P) floats; null means zero.
  RECURFORMER_DEVICE void load(const float* from) {
    if (!owner()) return;
    const int own = arch::lane_index() / 4 * P + arch::lane_index() % 4 * 2;
    for_pairs([&](int row, int at, float& x, float& y) {
      const TwoFloats pair = from != nullptr ? *reinterpret_cast<const TwoFloats*>(from + row * P + at + own)
                                             : TwoFloats{0.0f, 0.0f};
      x = pair.first;
      y = pair.second;
    });
    RECURFORMER_UNROLL
    for (int n = 0; n < Shape::state_fragments; ++n)
      r[n] = from != nullptr ? from[P * P + column(n) + arch::lane_index() / 4] : 0.0f;
  }
  RECURFORMER_DEVICE void store(float* to) {
    if (!owner()) return;
    const int own = arch::lane_index() / 4 * P + arch::lane_index() % 4 * 2;
    for_pairs([&](int row, int at, float& x, float& y) {
      *reinterpret_cast<TwoFloats*>(to + row * P + at + own) = {x, y};
    });
    RECURFORMER_UNROLL
    for (int n = 0; n < Shape::state_fragments; ++n)
      if (arch::lane_index() % 4 == 0) to[P * P + column(n) + arch::lane_index() / 4] = r[n];
  }
};

/// The parameters of one query head.
struct SsdHead {
  float c0, c1;
  const float* skip;       ///< (P)
  const float* norm_gain;  ///< (P), or null
};

/// The block's shared memory and what it does with a chunk. Outputs: false leaves out q, z and the state's
/// copy, for the pass that only wants the state behind the chunk.
template <class T, int P, class Traits, bool Outputs>
struct SsdChunk {
  using Shape = SsdShape<P>;
  using Tile = SsdTile<T, P>;
  using State = SsdState<P>;
  static constexpr int rows = Shape::rows;
  static constexpr bool scaled = dtype_of<T> == DType::F16;

  struct alignas(128) Small {
    SsdDecays decays;
    float r[P];                          ///< of the state before the chunk
    float squares[Shape::halves][rows];  ///< of y, per half of the columns
    float state_largest[Shape::warps];
  };
  static constexpr int tile_bytes = Tile::bytes(rows);
  static constexpr int fixed_bytes = (Outputs ? Tile::bytes(P) : 0) + static_cast<int>(sizeof(Small));
  static constexpr int stage_bytes = (Outputs ? 4 : 2) * tile_bytes;

  Tile k, v, q, z;  ///< of the stages chosen last
  Tile s;           ///< the state's copy
  Small* small;

  RECURFORMER_DEVICE SsdChunk() : s(tile_at(0)) {
    small = reinterpret_cast<Small*>(arch::shared_memory<unsigned char>() + fixed_bytes - sizeof(Small));
  }

  /// Makes k and v the tiles of one stage of shared memory, q and z those of another or the same.
  RECURFORMER_DEVICE void choose(int key_stage, int head_stage) {
    k = tile_at(fixed_bytes + key_stage * stage_bytes);
    v = tile_at(fixed_bytes + key_stage * stage_bytes + tile_bytes);
    if constexpr (Outputs) {
      q = tile_at(fixed_bytes + head_stage * stage_bytes + 2 * tile_bytes);
      z = tile_at(fixed_bytes + head_stage * stage_bytes + 3 * tile_bytes);
    }
  }

  /// Copies the state, rounded to T and in fp16 scaled, to where output() reads it. Returns the scale.
  RECURFORMER_DEVICE float share_state(State& state) {
    float scale = 1.0f;
    if constexpr (scaled) {
      float largest = 0.0f;
      if (State::owner())
        state.for_pairs([&](int, int, float& x, float& y) {
          const float first = x < 0.0f ? -x : x, second = y < 0.0f ? -y : y;
          largest = first > largest ? first : largest;
          largest = second > largest ? second : largest;
        });
      largest = detail::ssd_warp_max(largest);
      if (arch::lane_index() == 0) small->state_largest[arch::warp_index()] = largest;
      sync_item<Shape::threads>();
      RECURFORMER_UNROLL
      for (int w = 0; w < Shape::warps; ++w)
        largest = small->state_largest[w] > largest ? small->state_largest[w] : largest;
      scale = detail::ssd_scale_above(largest);
    }
    if (!State::owner()) return scale;
    const float inverse = detail::ssd_inverse_scale(scale);
    state.for_pairs([&](int row, int column, float& x, float& y) {
      s.pair(row, column) = arch::pack<T>(x * inverse, y * inverse);
    });
    RECURFORMER_UNROLL
    for (int n = 0; n < Shape::state_fragments; ++n)
      if (arch::lane_index() % 4 == 0) small->r[State::column(n) + arch::lane_index() / 4] = state.r[n];
    return scale;
  }

  /// The state behind the chunk's `valid` tokens from the state before it.
  RECURFORMER_DEVICE void update_state(State& state, int valid) const {
    if (!State::owner()) return;
    const SsdDecays& decays = small->decays;
    const int t = 2 * (arch::lane_index() % 4);
    const float scale = decays.scale, keep = decays.decay * detail::ssd_inverse_scale(scale);
    state.for_pairs([&](int, int, float& x, float& y) { x *= keep, y *= keep; });
    float sum[Shape::state_fragments] = {};
    for (int token = 0; token < valid; token += 16) {
      const auto weights = [&](int i) {
        return *reinterpret_cast<const TwoFloats*>(decays.to_end + token + i);
      };
      const TwoFloats first = weights(t), second = weights(t + 8);
      std::uint32_t b[2 * Shape::state_fragments], low[2 * Shape::state_fragments];
      v.b_fragments_transposed(b, token, State::column(0));
      RECURFORMER_UNROLL
      for (int n = 0; n < Shape::state_fragments; ++n) {
        sum[n] += weigh(first, b[2 * n], low[2 * n]);
        sum[n] += weigh(second, b[2 * n + 1], low[2 * n + 1]);
      }
      RECURFORMER_UNROLL
      for (int i = 0; i < P / 16; ++i) {
        std::uint32_t a[4];
        k.a_fragment_transposed(a, token, 16 * i);
        RECURFORMER_UNROLL
        for (int n = 0; n < Shape::state_fragments; ++n) {
          arch::multiply_add_16x8x16<T>(state.s[i][n], a, b[2 * n], b[2 * n + 1]);
          arch::multiply_add_16x8x16<T>(state.s[i][n], a, low[2 * n], low[2 * n + 1]);
        }
      }
    }
    if constexpr (scaled) state.for_pairs([&](int, int, float& x, float& y) { x *= scale, y *= scale; });
    RECURFORMER_UNROLL
    for (int n = 0; n < Shape::state_fragments; ++n) {
      sum[n] += arch::shuffle_xor(sum[n], 1);
      sum[n] += arch::shuffle_xor(sum[n], 2);
      state.r[n] = decays.decay * state.r[n] + scale * sum[n];
    }
  }

  /// Turns z, in place, into the head's output norm(y) ∘ gate(z). `state_scale` is share_state's.
  RECURFORMER_DEVICE void output(const SsdHead& head, float state_scale) const {
    const int row = arch::warp_index() % Shape::row_tiles * 16;
    const int column = arch::warp_index() / Shape::row_tiles * (P / Shape::halves);
    std::uint32_t m[rows / 16][4];
    masked_scores(head, row, m);
    float y[Shape::out_fragments][4] = {};
    RECURFORMER_UNROLL
    for (int channel = 0; channel < P; channel += 16) {
      std::uint32_t a[4];
      q.a_fragment(a, row, channel);
      add_product(a, s, channel, column, y);
    }
    add_past(head, row, column, state_scale, y);
    RECURFORMER_UNROLL
    for (int key = 0; key < rows; key += 16)
      if (key <= row) add_product(m[key / 16], v, key, column, y);
    finish(head, row, column, y);
  }

 private:
  RECURFORMER_DEVICE static Tile tile_at(int offset) {
    unsigned char* const begin = arch::shared_memory<unsigned char>();
    return {begin + offset, arch::shared_address(begin) + static_cast<arch::SharedAddress>(offset)};
  }

  using OutFragments = float[Shape::out_fragments][4];

  /// y += a · the 16 rows of `right` from `row` on, in the warp's columns.
  RECURFORMER_DEVICE static void add_product(const std::uint32_t (&a)[4], const Tile& right, int row,
                                             int column, OutFragments& y) {
    RECURFORMER_UNROLL
    for (int n = 0; n < Shape::out_fragments; n += 2) {
      std::uint32_t b[4];
      right.b_fragments_transposed(b, row, column + 8 * n);
      arch::multiply_add_16x8x16<T>(y[n], a, b[0], b[1]);
      arch::multiply_add_16x8x16<T>(y[n + 1], a, b[2], b[3]);
    }
  }

  /// M / scale of 16 rows as operands A, one per 16 keys; those behind the diagonal are left out.
  RECURFORMER_DEVICE void masked_scores(const SsdHead& head, int row,
                                        std::uint32_t (&m)[rows / 16][4]) const {
    float scores[rows / 8][4] = {};
    RECURFORMER_UNROLL
    for (int channel = 0; channel < P; channel += 16) {
      std::uint32_t a[4];
      q.a_fragment(a, row, channel);
      RECURFORMER_UNROLL
      for (int key = 0; key < rows; key += 16)
        if (key <= row) {
          std::uint32_t b[4];
          k.b_fragments(b, key, channel);
          arch::multiply_add_16x8x16<T>(scores[key / 8], a, b[0], b[1]);
          arch::multiply_add_16x8x16<T>(scores[key / 8 + 1], a, b[2], b[3]);
        }
    }
    RECURFORMER_UNROLL
    for (int key = 0; key < rows; key += 16)
      if (key <= row) {
        weigh_scores(head, row, key, scores[key / 8], m[key / 16][0], m[key / 16][1]);
        weigh_scores(head, row, key + 8, scores[key / 8 + 1], m[key / 16][2], m[key / 16][3]);
      } else {
        for (std::uint32_t& pair : m[key / 16]) pair = 0;  // unused, but a value (cuda/work_item.hpp)
      }
  }

  /// Weighs two tokens of v: `pair` becomes the products rounded to T, `low` what the rounding took. Returns
  /// their sum.
  RECURFORMER_DEVICE static float weigh(TwoFloats weight, std::uint32_t& pair, std::uint32_t& low) {
    const float x = weight.first * arch::unpack_low<T>(pair), y = weight.second * arch::unpack_high<T>(pair);
    pair = arch::pack<T>(x, y);
    low = arch::pack<T>(x - arch::unpack_low<T>(pair), y - arch::unpack_high<T>(pair));
    return x + y;
  }

  /// y = e^{A} ∘ (c1 y + c0 r) / scale, y being q s.
  RECURFORMER_DEVICE void add_past(const SsdHead& head, int row, int column, float state_scale,
                                   OutFragments& y) const {
    const SsdDecays& decays = small->decays;
    const int lane = arch::lane_index();
    const float inverse = detail::ssd_inverse_scale(decays.scale);
    const float upper = decays.from_start[row + lane / 4] * inverse;
    const float lower = decays.from_start[row + lane / 4 + 8] * inverse;
    const float c1 = head.c1 * state_scale;
    RECURFORMER_UNROLL
    for (int n = 0; n < Shape::out_fragments; ++n) {
      const float* r = small->r + column + 8 * n + 2 * (lane % 4);
      RECURFORMER_UNROLL
      for (int e = 0; e < 2; ++e) {
        const float constant = head.c0 * r[e];
        y[n][e] = upper * (c1 * y[n][e] + constant);
        y[n][e + 2] = lower * (c1 * y[n][e + 2] + constant);
      }
    }
  }

  /// A 16 x 8 fragment of q kᵀ becomes the same part of M / scale, as registers of A.
  RECURFORMER_DEVICE void weigh_scores(const SsdHead& head, int row, int key, const float (&scores)[4],
                                       std::uint32_t& upper, std::uint32_t& lower) const {
    const SsdDecays& decays = small->decays;
    const int i = row + arch::lane_index() / 4, j = key + 2 * (arch::lane_index() % 4);
    const detail::SsdSum rows_sum[2] = {decays.at(i), decays.at(i + 8)};
    const detail::SsdSum keys_sum[2] = {decays.at(j), decays.at(j + 1)};
    float m[4];
    RECURFORMER_UNROLL
    for (int e = 0; e < 4; ++e) {
      const float weight =
          detail::ssd_decay_between(rows_sum[e / 2], keys_sum[e % 2]) * decays.step[j + e % 2];
      m[e] = j + e % 2 <= i + e / 2 * 8 ? weight * (head.c1 * scores[e] + head.c0) : 0.0f;
    }
    upper = arch::pack<T>(m[0], m[1]);
    lower = arch::pack<T>(m[2], m[3]);
  }

  /// The skip, the norm and the gate.
  RECURFORMER_DEVICE void finish(const SsdHead& head, int row, int column, OutFragments& y) const {
    const int pair_column = column + 2 * (arch::lane_index() % 4);
    const float* const skip = head.skip + pair_column;
    const float scale = small->decays.scale;
    float squares[2] = {};
    RECURFORMER_UNROLL
    for (int n = 0; n < Shape::out_fragments; ++n) {
      const TwoFloats weight = {skip[8 * n], skip[8 * n + 1]};
      RECURFORMER_UNROLL
      for (int half = 0; half < 2; ++half) {
        const std::uint32_t values = v.pair(row + 8 * half, column + 8 * n);
        float& y0 = y[n][2 * half];
        float& y1 = y[n][2 * half + 1];
        y0 = scale * y0 + weight.first * arch::unpack_low<T>(values);
        y1 = scale * y1 + weight.second * arch::unpack_high<T>(values);
        squares[half] += y0 * y0 + y1 * y1;
      }
    }
    float inverse_rms[2] = {1.0f, 1.0f};
    if constexpr (Traits::norm) reduce_norm(row + arch::lane_index() / 4, squares, inverse_rms);
    RECURFORMER_UNROLL
    for (int n = 0; n < Shape::out_fragments; ++n) {
      TwoFloats gain = {1.0f, 1.0f};
      if constexpr (Traits::norm)
        gain = {head.norm_gain[pair_column + 8 * n], head.norm_gain[pair_column + 8 * n + 1]};
      RECURFORMER_UNROLL
      for (int half = 0; half < 2; ++half) {
        std::uint32_t& pair = z.pair(row + 8 * half, column + 8 * n);
        const float y0 = y[n][2 * half] * (inverse_rms[half] * gain.first);
        const float y1 = y[n][2 * half + 1] * (inverse_rms[half] * gain.second);
        pair = arch::pack<T>(y0 * detail::ssd_gate<Traits::gate>(arch::unpack_low<T>(pair)),
                             y1 * detail::ssd_gate<Traits::gate>(arch::unpack_high<T>(pair)));
      }
    }
  }

  /// 1 / √(mean(y²) + ε) of rows `upper` and `upper` + 8 from a thread's share of the squares.
  RECURFORMER_DEVICE void reduce_norm(int upper, float (&squares)[2], float (&inverse_rms)[2]) const {
    RECURFORMER_UNROLL
    for (int half = 0; half < 2; ++half) {
      squares[half] += arch::shuffle_xor(squares[half], 1);
      squares[half] += arch::shuffle_xor(squares[half], 2);
    }
    if constexpr (Shape::halves == 2) {
      const int column_half = arch::warp_index() / Shape::row_tiles;
      if (arch::lane_index() % 4 == 0) {
        small->squares[column_half][upper] = squares[0];
        small->squares[column_half][upper + 8] = squares[1];
      }
      sync_item<Shape::threads>();
      RECURFORMER_UNROLL
      for (int half = 0; half < 2; ++half)
        squares[half] = small->squares[0][upper + 8 * half] + small->squares[1][upper + 8 * half];
    }
    RECURFORMER_UNROLL
    for (int half = 0; half < 2; ++half)
      inverse_rms[half] =
          arch::reciprocal_sqrt(squares[half] / static_cast<float>(P) + static_cast<float>(ssd_norm_epsilon));
  }
};

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_SSD_CHUNK_HPP
