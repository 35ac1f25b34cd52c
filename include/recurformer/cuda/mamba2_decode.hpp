#ifndef RECURFORMER_CUDA_MAMBA2_DECODE_HPP
#define RECURFORMER_CUDA_MAMBA2_DECODE_HPP

// Mamba2 heads (spec/mamba2.hpp) token by token on CUDA cores, for decoding one to a few tokens per sequence,
// and for runs that store floats, whatever the number of tokens. A block has the state of one group of one
// sequence in its registers, reads it once, goes through the tokens and writes it once:
//
//   s ← e^{Δa} s + Δ k vᵀ,  r ← e^{Δa} r + Δ v,  y = c0 r + c1 qᵀ s + D ∘ v,  out = norm(y) ∘ gate(z)
//
// A thread owns four columns of every row_groups-th row of s. q, k and v of up to a stage of tokens lie in
// shared memory, rotated; what the threads add up for a head meets there too, in fixed order. All arithmetic
// is fp32.
//
// Floors per group and sequence: 8 (P + 1) P bytes (read and write) plus (3 G + 2) P elements per token, at
// P = 128: 132 KB → 39 ns of the H100's whole bandwidth; (4 + 2 G) P² FLOP per token; 2 G P exps.

#include <cstdint>

#include "recurformer/arch/arch.hpp"
#include "recurformer/cuda/mamba2_arguments.hpp"

namespace rf::cuda {

template <class T, int P, class Traits>
struct SsdSteps {
  static_assert(P == 16 || P == 32 || P == 64 || P == 128,
                "recurformer: SSD on CUDA has d_head 16, 32, 64 or 128");
  struct Parameters {
    Mamba2Arguments<T> call = {};
    int stage_tokens = 1;  ///< tokens whose q, k and v are in shared memory at a time, 1 to most_stage_tokens
  };
  static constexpr int quads = P / 4;  ///< of columns
  static constexpr int threads = P >= 64 ? 256 : P == 32 ? 64 : 32;
  static constexpr int blocks_per_multiprocessor = P == 128 ? 2 : P == 64 ? 3 : 4;
  static constexpr int warps = threads / arch::warp_size;
  static constexpr int row_groups = threads / quads;
  static constexpr int own_rows = P / row_groups;  ///< of a thread
  static constexpr int heads_at_once = 4;
  static constexpr int most_stage_tokens = 8;

  struct Fixed {
    float r[P];
    float partial[heads_at_once][warps][P];  ///< qᵀ s over the rows of a warp
    float step[most_stage_tokens], decay[most_stage_tokens];
  };

  static constexpr int shared_bytes(int queries, int stage_tokens) {
    return static_cast<int>(sizeof(Fixed)) +
           stage_tokens * (queries + 2) * P * static_cast<int>(sizeof(float));
  }
  /// The most tokens that fit into 64 KB with the rest.
  static constexpr int stage_tokens(int queries, std::int64_t longest) {
    int tokens = longest < most_stage_tokens ? static_cast<int>(longest) : most_stage_tokens;
    while (tokens > 1 && shared_bytes(queries, tokens) > 64 * 1024) --tokens;
    return tokens;
  }

  RECURFORMER_DEVICE static void run(const Parameters& p) {
    const arch::Dim3 block = arch::block_index();
    walk(p, block.x, block.y);
  }

  /// The work of one block; shared memory may hold anything before and after.
  RECURFORMER_DEVICE static void walk(const Parameters& p, int group, int sequence) {
    const SequenceRows rows = p.call.sequences[sequence];
    if (rows.rows == 0) return;
    Fixed& shared = *arch::shared_memory<Fixed>();
    float* const staged = reinterpret_cast<float*>(&shared + 1);  // (token, q of all heads | k | v, P)
    float* const kept = p.call.state(sequence, group, P);
    float state[own_rows][4];
    load_state(kept, state, shared);
    for (std::int64_t first = 0; first < rows.rows; first += p.stage_tokens) {
      const int tokens =
          rows.rows - first < p.stage_tokens ? static_cast<int>(rows.rows - first) : p.stage_tokens;
      stage(p.call, group, rows.first_row + first, rows.position + first, tokens, staged, shared);
      sync_item<threads>();
      for (int token = 0; token < tokens; ++token)
        step(p.call, group, rows.first_row + first + token, token, staged + token * (p.call.queries + 2) * P,
             state, shared);
    }
    if (kept != nullptr) store_state(state, shared, kept);
  }

 private:
  RECURFORMER_DEVICE static int own_row(int i) { return arch::thread_index() / quads + i * row_groups; }
  RECURFORMER_DEVICE static int own_column() { return arch::thread_index() % quads * 4; }

  RECURFORMER_DEVICE static void load_state(const float* from, float (&state)[own_rows][4], Fixed& shared) {
    RECURFORMER_UNROLL
    for (int i = 0; i < own_rows; ++i) {
      const FourFloats four = from != nullptr
                                  ? *reinterpret_cast<const FourFloats*>(from + own_row(i) * P + own_column())
                                  : FourFloats{};
      RECURFORMER_UNROLL
      for (int c = 0; c < 4; ++c) state[i][c] = four.value[c];
    }
    for (int c = arch::thread_index(); c < P; c += threads)
      shared.r[c] = from != nullptr ? from[P * P + c] : 0.0f;
  }

  RECURFORMER_DEVICE static void store_state(const float (&state)[own_rows][4], const Fixed& shared,
                                             float* to) {
    RECURFORMER_UNROLL
    for (int i = 0; i < own_rows; ++i)
      *reinterpret_cast<FourFloats*>(to + own_row(i) * P + own_column()) = {state[i][0], state[i][1],
                                                                            state[i][2], state[i][3]};
    for (int c = arch::thread_index(); c < P; c += threads) to[P * P + c] = shared.r[c];
  }

  /// q, k and v of `tokens` tokens as floats, rotated, and their step sizes and decays.
  RECURFORMER_DEVICE static void stage(const Mamba2Arguments<T>& call, int group, std::int64_t row,
                                       std::int64_t position, int tokens, float* staged, Fixed& shared) {
    const int half_vectors = (call.queries + 2) * (P / 2);  // pairs (i, i + P/2) of q, k, v of one token
    for (int i = arch::thread_index(); i < tokens * half_vectors; i += threads) {
      const int token = i / half_vectors, vector = i % half_vectors / (P / 2), channel = i % (P / 2);
      const T* const from = call.columns(row + token, group) + vector * P + channel;
      float low = convert<float>(from[0]), high = convert<float>(from[P / 2]);
      if constexpr (Traits::rope)
        if (vector <= call.queries) {  // not v
          const std::int64_t at = (position + token) * call.rope.stride + channel;
          const float cosine = call.rope.cosines[at], sine = call.rope.sines[at], turned = high;
          high = turned * cosine + low * sine;
          low = low * cosine - turned * sine;
        }
      float* const to = staged + (token * (call.queries + 2) + vector) * P + channel;
      to[0] = low;
      to[P / 2] = high;
    }
    const float rate = detail::ssd_log2_rate(call.locals.a_log[group]);
    for (int token = arch::thread_index(); token < tokens; token += threads) {
      const T* const dt = call.columns(row + token, group) + (2 * call.queries + 2) * P;
      const float delta = detail::ssd_softplus(convert<float>(*dt) + call.locals.dt_bias[group]);
      shared.step[token] = delta;
      shared.decay[token] = delta == 0.0f ? 1.0f : arch::exp2(delta * rate);
    }
  }

  /// One token, whose q, k and v are `staged`. Ends with a barrier.
  RECURFORMER_DEVICE static void step(const Mamba2Arguments<T>& call, int group, std::int64_t row, int token,
                                      const float* staged, float (&state)[own_rows][4], Fixed& shared) {
    const float* const k = staged + call.queries * P;
    const float* const v = k + P;
    const float delta = shared.step[token], decay = shared.decay[token];
    float value[4];
    RECURFORMER_UNROLL
    for (int c = 0; c < 4; ++c) value[c] = delta * v[own_column() + c];
    RECURFORMER_UNROLL
    for (int i = 0; i < own_rows; ++i) {
      const float key = k[own_row(i)];
      RECURFORMER_UNROLL
      for (int c = 0; c < 4; ++c) state[i][c] = decay * state[i][c] + key * value[c];
    }
    for (int c = arch::thread_index(); c < P; c += threads) shared.r[c] = decay * shared.r[c] + delta * v[c];
    for (int head = 0; head < call.queries; head += heads_at_once) {
      const int heads = call.queries - head < heads_at_once ? call.queries - head : heads_at_once;
      for (int h = 0; h < heads; ++h) read_state(staged + (head + h) * P, state, shared.partial[h]);
      sync_item<threads>();
      for (int h = arch::warp_index(); h < heads; h += warps)
        finish_head(call, group, head + h, row, v, shared, shared.partial[h]);
      sync_item<threads>();
    }
  }

  /// partial[warp] = qᵀ s over the rows of the warp's threads.
  RECURFORMER_DEVICE static void read_state(const float* q, const float (&state)[own_rows][4],
                                            float (&partial)[warps][P]) {
    float sum[4] = {};
    RECURFORMER_UNROLL
    for (int i = 0; i < own_rows; ++i) {
      const float query = q[own_row(i)];
      RECURFORMER_UNROLL
      for (int c = 0; c < 4; ++c) sum[c] += query * state[i][c];
    }
    RECURFORMER_UNROLL
    for (int bits = quads; bits < arch::warp_size; bits *= 2) {
      RECURFORMER_UNROLL
      for (int c = 0; c < 4; ++c) sum[c] += arch::shuffle_xor(sum[c], bits);
    }
    if (arch::lane_index() < quads)
      *reinterpret_cast<FourFloats*>(partial[arch::warp_index()] + own_column()) = {sum[0], sum[1], sum[2],
                                                                                    sum[3]};
  }

  /// The output of one head, by one warp.
  RECURFORMER_DEVICE static void finish_head(const Mamba2Arguments<T>& call, int group, int head,
                                             std::int64_t row, const float* v, const Fixed& shared,
                                             const float (&partial)[warps][P]) {
    constexpr int columns = (P + arch::warp_size - 1) / arch::warp_size;  // of a lane
    const int unit = group * call.queries + head;
    const float c0 = call.locals.c0[unit], c1 = call.locals.c1[unit];
    float y[columns], squares = 0.0f;
    RECURFORMER_UNROLL
    for (int i = 0; i < columns; ++i) {
      const int c = arch::lane_index() + i * arch::warp_size;
      y[i] = 0.0f;
      if (c >= P) continue;
      RECURFORMER_UNROLL
      for (int w = 0; w < warps; ++w) y[i] += partial[w][c];
      y[i] = c0 * shared.r[c] + c1 * y[i] + call.locals.skip[unit * P + c] * v[c];
      squares += y[i] * y[i];
    }
    float scale = 1.0f;
    if constexpr (Traits::norm) {
      RECURFORMER_UNROLL
      for (int bits = 16; bits > 0; bits /= 2) squares += arch::shuffle_xor(squares, bits);
      scale = arch::reciprocal_sqrt(squares / static_cast<float>(P) + static_cast<float>(ssd_norm_epsilon));
    }
    const T* const z = call.columns(row, group) + (call.queries + 2 + head) * P;
    T* const out = call.outputs(row, group, P) + head * P;
    RECURFORMER_UNROLL
    for (int i = 0; i < columns; ++i) {
      const int c = arch::lane_index() + i * arch::warp_size;
      if (c >= P) continue;
      float value = y[i];
      if constexpr (Traits::norm) value *= scale * call.locals.norm_gain[unit * P + c];
      out[c] = convert<T>(value * detail::ssd_gate<Traits::gate>(convert<float>(z[c])));
    }
  }
};

/// The forward pass of a run of Mixer (a Mamba2<…>) with heads of width P, token by token; sequences are at
/// most 65535. Reads and writes
/// states in place. A sequence without rows keeps its state.
template <class Mixer, int P, class T, class Device>
void mamba2_decode(Device& device, const Mamba2Arguments<T>& call) {
  using Steps = SsdSteps<T, P, SsdTraitsOf<Mixer>>;
  if (call.sequence_count == 0 || call.groups == 0 || call.longest == 0) return;
  const int tokens = Steps::stage_tokens(call.queries, call.longest);
  device.template launch<Steps>({.blocks = {call.groups, call.sequence_count},
                                 .shared_bytes = Steps::shared_bytes(call.queries, tokens)},
                                {call, tokens});
}

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_MAMBA2_DECODE_HPP
