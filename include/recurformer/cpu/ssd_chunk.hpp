#ifndef RECURFORMER_CPU_SSD_CHUNK_HPP
#define RECURFORMER_CPU_SSD_CHUNK_HPP

// The arithmetic of one chunk of the SSD recurrence; ssd.hpp has the equations and puts chunks together.

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <limits>
#include <memory>
#include <numbers>

#include "recurformer/cpu/chunk_product.hpp"
#include "recurformer/tile/simd.hpp"

namespace rf::cpu {

/// The form of a state, which the kernels are instantiated for.
struct SsdForm {
  int keys = 0;               ///< N: width of q and k, a multiple of 16
  int values = 0;             ///< P: width of v, a multiple of 16
  bool constant_key = false;  ///< one more key that is always 1, and c0 and c1 that weigh it and the others

  /// Rows of the state: those of s, then r.
  constexpr int rows() const { return keys + (constant_key ? 1 : 0); }
  /// Floats of the state.
  constexpr std::int64_t size() const { return std::int64_t{rows()} * values; }
  friend constexpr bool operator==(const SsdForm&, const SsdForm&) = default;
};

/// That of Mamba2's heads.
constexpr SsdForm mamba2_form(int d_head) { return {.keys = d_head, .values = d_head, .constant_key = true}; }

/// Tokens of a chunk for values of this width.
constexpr int ssd_chunk_rows(int values) { return values <= 32 ? 32 : 64; }
/// Chunks of a sequence.
constexpr std::int64_t ssd_chunks(int values, std::int64_t rows) {
  return (rows + ssd_chunk_rows(values) - 1) / ssd_chunk_rows(values);
}

/// New tokens of one state. Rows of q, k, v and step are `stride` floats apart.
struct SsdSequence {
  std::int64_t rows = 0;
  int heads = 1;                ///< query heads that read the state
  const float* q = nullptr;     ///< (rows, heads · keys)
  const float* k = nullptr;     ///< (rows, keys)
  const float* v = nullptr;     ///< (rows, values)
  const float* step = nullptr;  ///< (rows): Δ >= 0
  std::int64_t stride = 0;
  float rate = 0;                        ///< a <= 0
  const float* c0 = nullptr;             ///< (heads); not read without a constant key
  const float* c1 = nullptr;             ///< (heads); the same
  const float* skip = nullptr;           ///< D, (heads, values)
  const float* initial_state = nullptr;  ///< (rows of the form, values), or null: zero
  float* final_state = nullptr;          ///< may be initial_state; or null: not wanted
  float* y = nullptr;                    ///< (rows, heads · values), rows y_stride floats apart
  std::int64_t y_stride = 0;
  float* chunk_states =
      nullptr;  ///< (ssd_chunks, state): the state before every chunk, for backward; or null
};

/// What a caller does to rows of a sequence before or after a kernel works on them: f(i, first, count) for
/// rows [first, first + count) of sequence i, called from any thread. Does not own f, which outlives the
/// kernel's call. One indirect call a chunk keeps the kernels free of the caller's types, and compiled once.
class SsdHook {
 public:
  SsdHook() = default;  ///< does nothing
  template <class F>
  requires std::invocable<const F&, std::int64_t, std::int64_t, std::int64_t> SsdHook(const F& f)
      : context_(&f), call_([](const void* context, std::int64_t i, std::int64_t first, std::int64_t count) {
          (*static_cast<const F*>(context))(i, first, count);
        }) {}
  void operator()(std::int64_t i, std::int64_t first, std::int64_t count) const {
    if (call_ != nullptr) call_(context_, i, first, count);
  }

 private:
  const void* context_ = nullptr;
  void (*call_)(const void*, std::int64_t, std::int64_t, std::int64_t) = nullptr;
};

inline namespace RECURFORMER_ISA {
namespace detail {

constexpr int ssd_round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

/// Step sizes and decays of one chunk of Q tokens.
template <int Q>
struct SsdDecays {
  alignas(64) float relative[Q][Q];   // L; only the tiles of for_lower_tiles
  alignas(64) float step[Q];          // Δ; zero behind the chunk's last token
  alignas(64) float high[Q], low[Q];  // A · log2(e) = high + low
  alignas(64) float from_start[Q];    // e^{A}
  alignas(64) float to_end[Q];        // e^{A_Q - A}
  float decay;                        // e^{A_Q}
  int rows, padded;                   // tokens; rounded up to a multiple of chunk_row_block
};

/// What forward keeps of one chunk. Rows of every buffer from `rows` up to `padded` are zero.
template <SsdForm Form>
struct SsdChunk : SsdDecays<ssd_chunk_rows(Form.values)> {
  static constexpr int Q = ssd_chunk_rows(Form.values), N = Form.keys, P = Form.values;

  alignas(64) float kt[N][Q];      // kᵀ
  alignas(64) float vs[Q][P];      // Δ v
  alignas(64) float tail_v[Q][P];  // e^{A_Q - A} Δ v
  alignas(64) float head[Q][N];    // q of the head being worked on
  alignas(64) float scores[Q][Q];  // its M; only the tiles of for_lower_tiles
};

/// The calling thread's buffers of type T.
template <class T>
T& ssd_scratch() {
  thread_local const std::unique_ptr<T> scratch(new T);
  return *scratch;
}

/// Copies `rows` rows of so many floats and pads them with zero rows.
template <int Columns>
inline void ssd_copy_rows(const float* from, std::int64_t stride, int rows, int padded,
                          float (*to)[Columns]) {
  for (int i = 0; i < rows; ++i)
    for (int c = 0; c < Columns; c += simd::width) simd::store(to[i] + c, simd::load(from + i * stride + c));
  for (int i = rows; i < padded; ++i)
    for (int c = 0; c < Columns; c += simd::width) simd::store(to[i] + c, simd::zero());
}

/// What weighs the constant key and the others in one head's output.
struct SsdWeights {
  float c0, c1;
};
template <SsdForm Form>
SsdWeights ssd_weights(const SsdSequence& s, int head) {
  if constexpr (Form.constant_key)
    return {.c0 = s.c0[head], .c1 = s.c1[head]};
  else
    return {.c0 = 0.0f, .c1 = 1.0f};
}

/// Everything but `relative` of chunk `index`.
template <int Q>
void ssd_load_decays(const SsdSequence& s, std::int64_t index, SsdDecays<Q>& chunk) {
  const std::int64_t first = index * Q;
  chunk.rows = static_cast<int>(std::min<std::int64_t>(Q, s.rows - first));
  chunk.padded = ssd_round_up(chunk.rows, chunk_row_block);
  const double rate = static_cast<double>(s.rate) * std::numbers::log2e;
  double sum = 0;
  for (int i = 0; i < Q; ++i) {  // behind the last token nothing decays
    chunk.step[i] = i < chunk.rows ? s.step[(first + i) * s.stride] : 0.0f;
    sum += static_cast<double>(chunk.step[i]) * rate;
    chunk.high[i] = static_cast<float>(sum);
    chunk.low[i] = static_cast<float>(sum - static_cast<double>(chunk.high[i]));
  }
  const float last_high = chunk.high[Q - 1], last_low = chunk.low[Q - 1];
  for (int i = 0; i < Q; i += simd::width) {
    const simd::Vec high = simd::load(chunk.high + i), low = simd::load(chunk.low + i);
    simd::store(chunk.from_start + i, simd::exp2(high + low));
    simd::store(chunk.to_end + i, simd::exp2((last_high - high) + (last_low - low)));
  }
  chunk.decay = chunk.from_start[Q - 1];
}

/// L on the tiles that for_lower_tiles visits.
template <int Q>
void ssd_relative_decays(SsdDecays<Q>& chunk) {
  for_lower_tiles(chunk.padded, [&]<int R, int V>(int row, int column) {
    for (int j = 0; j < V * simd::width; j += simd::width) {
      const simd::Vec high = simd::load(chunk.high + column + j), low = simd::load(chunk.low + column + j);
      const simd::IntVec lane = simd::iota() + (column + j);
      for (int i = row; i < row + R; ++i) {
        const simd::Vec difference = (chunk.high[i] - high) + (chunk.low[i] - low);
        const simd::Vec masked =
            simd::select(lane <= i, difference, simd::broadcast(-std::numeric_limits<float>::infinity()));
        simd::store(chunk.relative[i] + column + j, simd::exp2(masked));
      }
    }
  });
}

/// Fills everything but the scores and the head's q.
template <SsdForm Form>
void ssd_load_chunk(const SsdSequence& s, std::int64_t index, SsdChunk<Form>& chunk) {
  constexpr int Q = SsdChunk<Form>::Q, P = Form.values;
  const std::int64_t first = index * Q;
  ssd_load_decays(s, index, chunk);
  chunk_transpose(s.k + first * s.stride, s.stride, chunk.rows, Form.keys, &chunk.kt[0][0], Q);
  ssd_copy_rows(s.v + first * s.stride, s.stride, chunk.rows, chunk.padded, chunk.vs);
  for (int i = 0; i < chunk.rows; ++i)
    for (int c = 0; c < P; c += simd::width) {
      const simd::Vec v = chunk.step[i] * simd::load(chunk.vs[i] + c);
      simd::store(chunk.vs[i] + c, v);
      simd::store(chunk.tail_v[i] + c, chunk.to_end[i] * v);
    }
}

/// M of one head from its q in chunk.head.
template <class Chunk>
void ssd_scores(SsdWeights weights, Chunk& chunk) {
  constexpr int Q = Chunk::Q, N = Chunk::N;
  for_lower_tiles(chunk.padded, [&]<int R, int V>(int row, int column) {
    simd::Vec tile[R][V] = {};
    add_product<N, Q>(tile, chunk.head[row], chunk.kt[0] + column, N);
    for_vectors(tile, [&](int i, int j, simd::Vec x) {
      simd::store(chunk.scores[row + i] + column + j,
                  (weights.c1 * x + weights.c0) * simd::load(chunk.relative[row + i] + column + j));
    });
  });
}

/// y of one chunk; `state` is the one before it, null for zero. Needs ssd_load_chunk and ssd_relative_decays.
template <SsdForm Form>
void ssd_chunk_output(const SsdSequence& s, std::int64_t index, const float* state, SsdChunk<Form>& chunk) {
  constexpr int Q = SsdChunk<Form>::Q, N = Form.keys, P = Form.values;
  const std::int64_t first = index * Q;
  for (int h = 0; h < s.heads; ++h) {
    const SsdWeights weights = ssd_weights<Form>(s, h);
    ssd_copy_rows(s.q + first * s.stride + h * N, s.stride, chunk.rows, chunk.padded, chunk.head);
    ssd_scores(weights, chunk);
    for_tiles<P>(chunk.padded, [&]<int R, int V>(int row, int column) {
      simd::Vec tile[R][V] = {};
      if (state != nullptr) {
        add_product<N, P>(tile, chunk.head[row], state + column, N);
        for_vectors(tile, [&](int i, int j, simd::Vec& x) {
          if constexpr (Form.constant_key)
            x = weights.c1 * x + weights.c0 * simd::load(state + N * P + column + j);
          x *= chunk.from_start[row + i];
        });
      }
      add_product<Q, P>(tile, chunk.scores[row], chunk.vs[0] + column, row + R);
      for_vectors(tile, [&](int i, int j, simd::Vec x) {
        if (row + i >= chunk.rows) return;
        const simd::Vec v = simd::load(s.v + (first + row + i) * s.stride + column + j);
        const simd::Vec skip = simd::load(s.skip + h * P + column + j);
        simd::store(s.y + (first + row + i) * s.y_stride + h * P + column + j, x + skip * v);
      });
    });
  }
}

/// next = decay · state + what the chunk adds; `state` null for zero. next may be state.
template <SsdForm Form>
void ssd_chunk_state(const SsdChunk<Form>& chunk, const float* state, float* next) {
  constexpr int Q = SsdChunk<Form>::Q, N = Form.keys, P = Form.values;
  for_tiles<P>(N, [&]<int R, int V>(int row, int column) {
    simd::Vec tile[R][V] = {};
    add_product<Q, P>(tile, chunk.kt[row], chunk.tail_v[0] + column, chunk.rows);
    for_vectors(tile, [&](int i, int j, simd::Vec x) {
      const int at = (row + i) * P + column + j;
      simd::store(next + at, state != nullptr ? chunk.decay * simd::load(state + at) + x : x);
    });
  });
  if constexpr (!Form.constant_key) return;
  for (int c = 0; c < P; c += simd::width) {
    simd::Vec sum = simd::zero();
    for (int i = 0; i < chunk.rows; ++i) sum += simd::load(chunk.tail_v[i] + c);
    const int at = N * P + c;
    simd::store(next + at, state != nullptr ? chunk.decay * simd::load(state + at) + sum : sum);
  }
}

}  // namespace detail
}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_SSD_CHUNK_HPP
