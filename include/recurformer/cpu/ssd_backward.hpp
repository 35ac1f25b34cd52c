#ifndef RECURFORMER_CPU_SSD_BACKWARD_HPP
#define RECURFORMER_CPU_SSD_BACKWARD_HPP

// Gradients of the SSD recurrence (cpu/ssd.hpp), chunk by chunk from the last to the first. With the scores
// M, the relative decays L and the state s before the chunk as in forward, G the gradient of the state behind
// it (G_r its last row), u_j = k_j G + G_r and W = dy vᵀ:
//
//   dv = Δ ∘ (Σ_heads Mᵀ dy + e^{A_Q - A} ∘ u) + Σ_heads D ∘ dy
//   dq = c1 (e^{A} ∘ (dy sᵀ) + (W ∘ L)(Δ k))
//   dk = Δ ∘ (Σ_heads c1 (W ∘ L)ᵀ q + e^{A_Q - A} ∘ (v Gᵀ))
//   G ← e^{A_Q} G + Σ_heads q'ᵀ (e^{A} ∘ dy)
//
// The decay of token t multiplies every path from a token j < t to one i >= t, so the gradient of Δ_t a is
//
//   α_t = Σ_{j < t <= i} Δ_j (M ∘ W)_ij + Σ_{i >= t} e^{A_i} q'_iᵀ s dy_i + Σ_{j < t} Δ_j e^{A_Q - A_j} u_j
//   v_j
//         + e^{A_Q} ⟨G, s⟩,
//
// summed as it stands: as a difference of row and column sums of M ∘ W, which is shorter, rounding would
// drown it wherever the decay is strong. Then dΔ_t = v_t · (dv_t's bracket) + a α_t and da = Σ Δ_t α_t.
//
// Flow: parallel over states. Sequences start from a zero state and the state behind them has no gradient.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "recurformer/core/parallel.hpp"
#include "recurformer/cpu/chunk_product.hpp"
#include "recurformer/cpu/ssd_chunk.hpp"

namespace rf::cpu {

/// Gradients of one SsdSequence, of which backward reads the inputs only. Rows of dq, dk, dv and d_step are
/// overwritten; the rest is added to.
struct SsdGradient {
  const float* chunk_states = nullptr;  ///< (ssd_chunks, state), as forward wrote it
  /// (rows, heads · values); with the same stride it may be dq if keys are as wide as values, and dv if there
  /// is one head
  const float* dy = nullptr;
  std::int64_t dy_stride = 0;
  float* dq = nullptr;            ///< (rows, heads · keys)
  float* dk = nullptr;            ///< (rows, keys)
  std::int64_t d_key_stride = 0;  ///< from one row of dq and dk to the next
  float* dv = nullptr;            ///< (rows, values)
  float* d_step = nullptr;        ///< (rows)
  std::int64_t d_stride = 0;      ///< from one row of dv and d_step to the next
  double* d_rate = nullptr;       ///< one number
  double* d_c0 = nullptr;         ///< (heads); not touched without a constant key
  double* d_c1 = nullptr;         ///< (heads); the same
  float* d_skip = nullptr;        ///< (heads, values)
};

inline namespace RECURFORMER_ISA {
namespace detail {

/// What backward keeps of one chunk. Rows of every buffer from `rows` up to `padded` are zero.
template <SsdForm Form>
struct SsdBackwardChunk : SsdDecays<ssd_chunk_rows(Form.values)> {
  static constexpr int Q = ssd_chunk_rows(Form.values), N = Form.keys, P = Form.values;

  alignas(64) float kt[N][Q], vt[P][Q];          // kᵀ, vᵀ
  alignas(64) float k[Q][N], ks[Q][N];           // k, Δ k
  alignas(64) float v[Q][P];                     // v
  alignas(64) float state_t[P][N];               // sᵀ, without r
  alignas(64) float carry[Form.rows() * P];      // G
  alignas(64) float carry_t[P][N];               // Gᵀ, without G_r
  alignas(64) float dk[Q][N], dv[Q][P];          // the brackets above
  alignas(64) float skipped[Q][P];               // Σ_heads D ∘ dy
  alignas(64) float paths[Q][Q];                 // Σ_heads M ∘ W
  alignas(64) float read[Q];                     // e^{A} q'ᵀ s dy, summed over heads
  alignas(64) float head[Q][N], dy[Q][P];        // of the head being worked on
  alignas(64) float start_dy[Q][P];              // its e^{A} ∘ dy
  alignas(64) float from_state[Q][N], dq[Q][N];  // its e^{A} ∘ (dy sᵀ); dq / c1
  alignas(64) float scores[Q][Q];                // its M
  alignas(64) float weights[Q][Q];               // its W ∘ L
};

/// Σ a[c] b[c] over so many floats; its lanes are still to be added up.
template <int Size>
RECURFORMER_INLINE simd::Vec ssd_dot(const float* a, const float* b) {
  simd::Vec sum = simd::zero();
  for (int c = 0; c < Size; c += simd::width) sum += simd::load(a + c) * simd::load(b + c);
  return sum;
}

/// Fills the inputs and what G alone contributes; `state` is null for zero.
template <SsdForm Form>
void ssd_backward_load(const SsdSequence& s, std::int64_t index, const float* state, bool has_carry,
                       SsdBackwardChunk<Form>& b) {
  constexpr int Q = SsdBackwardChunk<Form>::Q, N = Form.keys, P = Form.values;
  const std::int64_t first = index * Q * s.stride;
  ssd_load_decays(s, index, b);
  ssd_relative_decays(b);
  chunk_transpose(s.k + first, s.stride, b.rows, N, b.kt[0], Q);
  chunk_transpose(s.v + first, s.stride, b.rows, P, b.vt[0], Q);
  ssd_copy_rows(s.k + first, s.stride, b.rows, b.padded, b.k);
  ssd_copy_rows(s.v + first, s.stride, b.rows, b.padded, b.v);
  for (int i = 0; i < b.padded; ++i) {
    b.read[i] = 0;
    for (int c = 0; c < N; c += simd::width) simd::store(b.ks[i] + c, b.step[i] * simd::load(b.k[i] + c));
    for (int c = 0; c < P; c += simd::width) simd::store(b.skipped[i] + c, simd::zero());
  }
  if (state != nullptr) chunk_transpose(state, P, N, P, b.state_t[0], N);
  if (has_carry) chunk_transpose(b.carry, P, N, P, b.carry_t[0], N);
  for_tiles<P>(b.padded, [&]<int R, int V>(int row, int column) {
    simd::Vec dv[R][V] = {};
    if (has_carry) {
      add_product<N, P>(dv, b.k[row], b.carry + column, N);
      for_vectors(dv, [&](int i, int j, simd::Vec& x) {
        if constexpr (Form.constant_key) x += simd::load(b.carry + N * P + column + j);
        x *= b.to_end[row + i];
      });
    }
    for_vectors(dv, [&](int i, int j, simd::Vec x) { simd::store(b.dv[row + i] + column + j, x); });
  });
  for_tiles<N>(b.padded, [&]<int R, int V>(int row, int column) {
    simd::Vec dk[R][V] = {};
    if (has_carry) add_product<P, N>(dk, b.v[row], b.carry_t[0] + column, P);
    for_vectors(dk, [&](int i, int j, simd::Vec x) {
      simd::store(b.dk[row + i] + column + j, b.to_end[row + i] * x);
    });
  });
}

/// W ∘ L, and M ∘ W added to the paths.
template <SsdForm Form>
void ssd_backward_weights(bool first_head, SsdBackwardChunk<Form>& b) {
  constexpr int Q = SsdBackwardChunk<Form>::Q, P = Form.values;
  for_lower_tiles(b.padded, [&]<int R, int V>(int row, int column) {
    simd::Vec tile[R][V] = {};
    add_product<P, Q>(tile, b.dy[row], b.vt[0] + column, P);
    for_vectors(tile, [&](int i, int j, simd::Vec x) {
      const int r = row + i, c = column + j;
      const simd::Vec path = x * simd::load(b.scores[r] + c);
      simd::store(b.weights[r] + c, x * simd::load(b.relative[r] + c));
      simd::store(b.paths[r] + c, first_head ? path : simd::load(b.paths[r] + c) + path);
    });
  });
}

/// from_state and dq / c1.
template <SsdForm Form>
void ssd_backward_query(bool has_state, SsdBackwardChunk<Form>& b) {
  constexpr int Q = SsdBackwardChunk<Form>::Q, N = Form.keys, P = Form.values;
  for_tiles<N>(b.padded, [&]<int R, int V>(int row, int column) {
    simd::Vec tile[R][V] = {};
    if (has_state) {
      add_product<P, N>(tile, b.start_dy[row], b.state_t[0] + column, P);
      for_vectors(tile,
                  [&](int i, int j, simd::Vec x) { simd::store(b.from_state[row + i] + column + j, x); });
    }
    add_product<Q, N>(tile, b.weights[row], b.ks[0] + column, row + R);
    for_vectors(tile, [&](int i, int j, simd::Vec x) { simd::store(b.dq[row + i] + column + j, x); });
  });
}

/// Adds Mᵀ dy and c1 (W ∘ L)ᵀ q.
template <SsdForm Form>
void ssd_backward_key_value(float c1, SsdBackwardChunk<Form>& b) {
  constexpr int Q = SsdBackwardChunk<Form>::Q, N = Form.keys, P = Form.values;
  for_tiles<P>(b.padded, [&]<int R, int V>(int row, int column) {
    simd::Vec dv[R][V] = {};
    add_transposed_product<Q, P>(dv, b.scores[row] + row, b.dy[row] + column, b.padded - row);
    for_vectors(dv, [&](int i, int j, simd::Vec x) {
      float* at = b.dv[row + i] + column + j;
      simd::store(at, simd::load(at) + x);
    });
  });
  for_tiles<N>(b.padded, [&]<int R, int V>(int row, int column) {
    simd::Vec dk[R][V] = {};
    add_transposed_product<Q, N>(dk, b.weights[row] + row, b.head[row] + column, b.padded - row);
    for_vectors(dk, [&](int i, int j, simd::Vec x) {
      float* at = b.dk[row + i] + column + j;
      simd::store(at, simd::load(at) + c1 * x);
    });
  });
}

/// G ← factor · G + q'ᵀ (e^{A} ∘ dy); factor 0 does not read G.
template <SsdForm Form>
void ssd_backward_carry(float factor, SsdWeights weights, SsdBackwardChunk<Form>& b) {
  constexpr int N = Form.keys, P = Form.values;
  const auto add = [&](float* at, simd::Vec x) {
    simd::store(at, factor != 0.0f ? factor * simd::load(at) + x : x);
  };
  for_tiles<P>(N, [&]<int R, int V>(int row, int column) {
    simd::Vec tile[R][V] = {};
    add_transposed_product<N, P>(tile, b.head[0] + row, b.start_dy[0] + column, b.padded);
    for_vectors(
        tile, [&](int i, int j, simd::Vec x) { add(b.carry + (row + i) * P + column + j, weights.c1 * x); });
  });
  if constexpr (!Form.constant_key) return;
  for (int c = 0; c < P; c += simd::width) {
    simd::Vec sum = simd::zero();
    for (int i = 0; i < b.rows; ++i) sum += simd::load(b.start_dy[i] + c);
    add(b.carry + N * P + c, weights.c0 * sum);
  }
}

/// Loads q and dy of head h, with what D does to them.
template <SsdForm Form>
void ssd_backward_load_head(const SsdSequence& s, const SsdGradient& g, std::int64_t first, int h,
                            SsdBackwardChunk<Form>& b) {
  constexpr int N = Form.keys, P = Form.values;
  ssd_copy_rows(s.q + first * s.stride + h * N, s.stride, b.rows, b.padded, b.head);
  ssd_copy_rows(g.dy + first * g.dy_stride + h * P, g.dy_stride, b.rows, b.padded, b.dy);
  for (int c = 0; c < P; c += simd::width) {
    const simd::Vec skip = simd::load(s.skip + h * P + c);
    simd::Vec sum = simd::zero();
    for (int i = 0; i < b.padded; ++i) {
      const simd::Vec dy = simd::load(b.dy[i] + c);
      simd::store(b.start_dy[i] + c, b.from_start[i] * dy);
      simd::store(b.skipped[i] + c, simd::load(b.skipped[i] + c) + skip * dy);
      sum += dy * simd::load(b.v[i] + c);
    }
    float* d_skip = g.d_skip + h * P + c;
    simd::store(d_skip, simd::load(d_skip) + sum);
  }
}

/// Writes dq of head h and adds to dc0, dc1 and `read`.
template <SsdForm Form>
void ssd_backward_finish_head(const SsdSequence& s, const SsdGradient& g, std::int64_t first, int h,
                              const float* state, SsdBackwardChunk<Form>& b) {
  constexpr int Q = SsdBackwardChunk<Form>::Q, N = Form.keys, P = Form.values;
  const SsdWeights weights = ssd_weights<Form>(s, h);
  simd::Vec d_c0 = simd::zero(), d_c1 = simd::zero();
  for (int i = 0; i < b.rows; ++i)
    for (int c = 0; c < N; c += simd::width) {
      const simd::Vec dq = simd::load(b.dq[i] + c);
      d_c1 += simd::load(b.head[i] + c) * dq;
      simd::store(g.dq + (first + i) * g.d_key_stride + h * N + c, weights.c1 * dq);
    }
  if (state != nullptr) {
    alignas(64) float read[Q];
    sum_rows(b.rows, read, [&](int i) {
      const simd::Vec from_keys = weights.c1 * ssd_dot<N>(b.head[i], b.from_state[i]);
      if constexpr (!Form.constant_key) return from_keys;
      const simd::Vec constant = ssd_dot<P>(state + N * P, b.start_dy[i]);
      d_c0 += constant;
      return from_keys + weights.c0 * constant;
    });
    for (int i = 0; i < b.rows; ++i) b.read[i] += read[i];
  }
  if constexpr (!Form.constant_key) return;
  for (int c = 0; c < b.padded; c += simd::width) {
    simd::Vec sum = simd::zero();
    for (int i = c; i < b.padded; ++i) sum += simd::load(b.weights[i] + c);
    d_c0 += sum * simd::load(b.step + c);
  }
  g.d_c0[h] += static_cast<double>(simd::reduce_add(d_c0));
  g.d_c1[h] += static_cast<double>(simd::reduce_add(d_c1));
}

/// crossing[rows - 1 - t] = Σ_{j < t <= i} Δ_j paths[i][j]: the sums grow from the last token on.
template <SsdForm Form>
void ssd_backward_crossing(const SsdBackwardChunk<Form>& b, float* crossing) {
  constexpr int Q = SsdBackwardChunk<Form>::Q;
  simd::Vec below[Q / simd::width] = {};  // Σ_{i >= t} paths[i][j]
  sum_rows(b.rows, crossing, [&](int row) {
    const int t = b.rows - 1 - row;
    simd::Vec sum = simd::zero();
    for (int c = 0; c <= t; c += simd::width) {
      simd::Vec& column = below[c / simd::width];
      column += simd::load(b.paths[t] + c);
      const simd::Vec weighted = column * simd::load(b.step + c);
      sum += simd::select(simd::iota() + c < t, weighted, simd::zero());
    }
    return sum;
  });
}

/// The gradients of step sizes and rate, and dk and dv, once all heads are done. to_carry[j] is
/// Δ_j e^{A_Q - A_j} u_j v_j, through_carry is e^{A_Q} ⟨G, s⟩.
template <SsdForm Form>
void ssd_backward_finish(const SsdSequence& s, const SsdGradient& g, std::int64_t first,
                         const float* to_carry, double through_carry, SsdBackwardChunk<Form>& b) {
  constexpr int Q = SsdBackwardChunk<Form>::Q, N = Form.keys, P = Form.values;
  alignas(64) float crossing[Q], direct[Q];
  ssd_backward_crossing(b, crossing);
  sum_rows(b.rows, direct, [&](int t) { return ssd_dot<P>(b.dv[t], b.v[t]); });
  double before[Q], reads = 0, d_rate = 0;
  double sum = 0;
  for (int t = 0; t < b.rows; ++t) {
    before[t] = sum;
    sum += static_cast<double>(to_carry[t]);
  }
  for (int t = b.rows - 1; t >= 0; --t) {
    reads += static_cast<double>(b.read[t]);
    const double alpha = static_cast<double>(crossing[b.rows - 1 - t]) + reads + before[t] + through_carry;
    d_rate += static_cast<double>(b.step[t]) * alpha;
    g.d_step[(first + t) * g.d_stride] = direct[t] + static_cast<float>(static_cast<double>(s.rate) * alpha);
    for (int c = 0; c < N; c += simd::width)
      simd::store(g.dk + (first + t) * g.d_key_stride + c, b.step[t] * simd::load(b.dk[t] + c));
    for (int c = 0; c < P; c += simd::width)
      simd::store(g.dv + (first + t) * g.d_stride + c,
                  b.step[t] * simd::load(b.dv[t] + c) + simd::load(b.skipped[t] + c));
  }
  *g.d_rate += d_rate;
}

/// One chunk; b.carry holds G unless this is the last one.
template <SsdForm Form>
void ssd_backward_chunk(const SsdSequence& s, const SsdGradient& g, std::int64_t index,
                        SsdBackwardChunk<Form>& b) {
  constexpr int Q = SsdBackwardChunk<Form>::Q, P = Form.values;
  const std::int64_t size = Form.size(), first = index * Q;
  const bool has_carry = index + 1 < ssd_chunks(P, s.rows);
  const float* state = index > 0 ? g.chunk_states + index * size : nullptr;
  ssd_backward_load(s, index, state, has_carry, b);
  alignas(64) float to_carry[Q] = {};
  if (has_carry) {
    sum_rows(b.rows, to_carry, [&](int i) { return ssd_dot<P>(b.dv[i], b.v[i]); });
    for (int i = 0; i < b.rows; ++i) to_carry[i] *= b.step[i];
  }
  double through_carry = 0;
  if (has_carry && state != nullptr)
    for (int row = 0; row < Form.rows(); ++row)
      through_carry += static_cast<double>(simd::reduce_add(ssd_dot<P>(b.carry + row * P, state + row * P)));
  for (int h = 0; h < s.heads; ++h) {
    const SsdWeights weights = ssd_weights<Form>(s, h);
    ssd_backward_load_head(s, g, first, h, b);
    ssd_scores(weights, b);
    ssd_backward_weights(h == 0, b);
    ssd_backward_query(state != nullptr, b);
    ssd_backward_key_value(weights.c1, b);
    ssd_backward_finish_head(s, g, first, h, state, b);
    if (state != nullptr) ssd_backward_carry(h > 0 ? 1.0f : has_carry ? b.decay : 0.0f, weights, b);
  }
  ssd_backward_finish(s, g, first, to_carry, static_cast<double>(b.decay) * through_carry, b);
}

}  // namespace detail

/// Gradients of all sequences of a batch; gradients[i] belongs to sequences[i]. Chunks run from the last to
/// the first: prepare(i, first, count) is called before the kernel reads rows [first, first + count) of dy,
/// and finish(i, first, count) after it has written those rows of the gradients.
template <SsdForm Form>
void ssd_backward(std::span<const SsdSequence> sequences, std::span<const SsdGradient> gradients,
                  SsdHook prepare = {}, SsdHook finish = {}) {
  constexpr int Q = ssd_chunk_rows(Form.values);
  parallel_for(static_cast<std::int64_t>(sequences.size()), [&](std::int64_t i) {
    const SsdSequence& s = sequences[static_cast<std::size_t>(i)];
    auto& chunk = detail::ssd_scratch<detail::SsdBackwardChunk<Form>>();
    for (std::int64_t c = ssd_chunks(Form.values, s.rows) - 1; c >= 0; --c) {
      prepare(i, c * Q, std::min<std::int64_t>(Q, s.rows - c * Q));
      detail::ssd_backward_chunk(s, gradients[static_cast<std::size_t>(i)], c, chunk);
      finish(i, c * Q, chunk.rows);
    }
  });
}

}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_SSD_BACKWARD_HPP
