#ifndef RECURFORMER_CUDA_MAMBA_BLOCK_HPP
#define RECURFORMER_CUDA_MAMBA_BLOCK_HPP

// What a Mamba head does before and after its scan, for the tile of tokens in shared memory (mamba_tile.hpp);
// all threads of the block call each function, with a barrier in between:
//
//   convolve   u = act(conv(x) + bias)                    x, halo → u, the next halo
//   project    C | B | δ = W_x u + b                      u → coefficients
//   step_size  Δ = softplus(W_Δ δ + b_Δ)                  coefficients → delta
//              scan (mamba_scan.hpp)                      u, delta, coefficients → u, which now holds y
//   gate       out = y ∘ gate(z)                          u, z → global memory
//
// `rows` is the number of tokens in the tile, `padded` the same up to the next multiple of Tile::step, which
// the scan takes at once. Tokens between have u = Δ = 0: they leave a state as it is.

#include <cstdint>

#include "recurformer/arch/arch.hpp"
#include "recurformer/cuda/mamba_tile.hpp"

namespace rf::cuda::mamba {
inline namespace RECURFORMER_ARCH {

/// The input of the convolution at token t, >= -past, of the tile.
template <class Tile>
RECURFORMER_DEVICE float conv_input(const typename Tile::Value* x, const float* halo, int t, int channel) {
  using Head = typename Tile::Head;
  return t < 0 ? halo[(t + Head::past) * Head::d_head + channel]
               : static_cast<float>(x[t * Head::d_head + channel]);
}

/// Fills u for the whole tile, with zeros behind its `rows` tokens. halo(now) holds the inputs before the
/// tile; halo(1 - now) gets those before the token after it.
template <class Tile>
RECURFORMER_DEVICE void convolve(const Shared<Tile>& shared, int now, int rows) {
  using Head = typename Tile::Head;
  using Layout = ParameterLayout<Head>;
  constexpr int d = Head::d_head, past = Head::past, segment = Tile::tokens / Tile::lanes;
  const int channel = arch::thread_index() % d, first = arch::thread_index() / d * segment;
  const typename Tile::Value* const x = shared.x();
  const float* const halo = shared.halo(now);

  float weight[Head::taps], window[Head::taps];
  RECURFORMER_UNROLL
  for (int j = 0; j <= past; ++j) weight[j] = shared.parameters(Layout::conv_weight + j * d)[channel];
  const float bias = shared.parameters(Layout::conv_bias)[channel];
  RECURFORMER_UNROLL
  for (int j = 0; j < past; ++j) window[j + 1] = conv_input<Tile>(x, halo, first - past + j, channel);
  RECURFORMER_UNROLL
  for (int i = 0; i < segment; ++i) {
    RECURFORMER_UNROLL
    for (int j = 0; j < past; ++j) window[j] = window[j + 1];
    window[past] = static_cast<float>(x[(first + i) * d + channel]);
    float sum = bias;
    RECURFORMER_UNROLL
    for (int j = 0; j <= past; ++j) sum += weight[j] * window[j];
    // Behind the tokens x is whatever was there: it is read, never used.
    shared.u(first + i)[channel] = first + i < rows ? activate<Head::activation>(sum) : 0.0f;
  }
  RECURFORMER_ROLLED
  for (int i = arch::thread_index(); i < past * d; i += Tile::threads)
    shared.halo(1 - now)[i] = conv_input<Tile>(x, halo, rows - past + i / d, i % d);
}

/// Coefficients from column FirstColumn on, a multiple of 4. A thread accumulates projection_tokens tokens
/// (interleaved, so that lanes read different banks) × 4 columns; projection_lanes threads share d_head.
template <class Tile, int FirstColumn>
RECURFORMER_DEVICE void project(const Shared<Tile>& shared, int padded) {
  using Head = typename Tile::Head;
  using Layout = ParameterLayout<Head>;
  constexpr int count = Tile::projection_tokens, lanes = Tile::projection_lanes;
  constexpr int spacing = Tile::tokens / count, groups = (Head::columns - FirstColumn) / 4;
  const int tasks = (padded < spacing ? padded : spacing) * groups * lanes;
  for (int first = 0; first < tasks; first += Tile::threads) {
    if (first + arch::warp_index() * arch::warp_size >= tasks) break;  // the whole warp: lanes sum together
    const int wanted = first + arch::thread_index();
    const int task = wanted < tasks ? wanted : tasks - 1;
    const int lane = task % lanes, column = FirstColumn + task / lanes % groups * 4;
    const int token = task / lanes / groups;
    float sum[4][count] = {};
    RECURFORMER_ROLLED
    for (int k = 4 * lane; k < Head::d_head; k += 4 * lanes) {
      float w[4][4];
      RECURFORMER_UNROLL
      for (int i = 0; i < 4; ++i)
        load_floats(w[i], shared.parameters(Layout::x_proj + (k + i) * Head::columns + column));
      RECURFORMER_UNROLL
      for (int t = 0; t < count; ++t) {
        float u[4];
        load_floats(u, shared.u(token + t * spacing) + k);
        RECURFORMER_UNROLL
        for (int i = 0; i < 4; ++i) RECURFORMER_UNROLL
        for (int j = 0; j < 4; ++j) sum[j][t] += u[i] * w[i][j];
      }
    }
    RECURFORMER_UNROLL
    for (int j = 0; j < 4; ++j) sum_over_lanes<lanes>(sum[j], lane);
    constexpr int sharing = lanes > count ? lanes / count : 1;  // lanes that hold the same sums
    constexpr int kept = count > lanes ? count / lanes : 1;
    if (wanted >= tasks || lane % sharing != 0) continue;
    float bias[4];
    load_floats(bias, shared.parameters(Layout::x_proj_bias) + column);
    RECURFORMER_UNROLL
    for (int i = 0; i < kept; ++i) {
      Float4 out;
      RECURFORMER_UNROLL
      for (int j = 0; j < 4; ++j) out.value[j] = sum[j][i] + bias[j];
      const int t = token + (lane / sharing * kept + i) * spacing;
      *reinterpret_cast<Float4*>(shared.coefficients(t) + column) = out;
    }
  }
}

template <class Tile>
RECURFORMER_DEVICE void step_size(const Shared<Tile>& shared, int rows, int padded) {
  using Head = typename Tile::Head;
  using Layout = ParameterLayout<Head>;
  constexpr int d = Head::d_head;
  const int channel = arch::thread_index() % d;
  float weight[Head::rank];
  RECURFORMER_UNROLL
  for (int r = 0; r < Head::rank; ++r) weight[r] = shared.parameters(Layout::dt_weight + r * d)[channel];
  const float bias = shared.parameters(Layout::dt_bias)[channel];
  RECURFORMER_ROLLED
  for (int t = arch::thread_index() / d; t < padded; t += Tile::lanes) {
    float low_rank[Head::columns - Head::first_delta];
    load_floats(low_rank, shared.coefficients(t) + Head::first_delta);
    float sum = bias;
    RECURFORMER_UNROLL
    for (int r = 0; r < Head::rank; ++r) sum += weight[r] * low_rank[r];
    shared.delta(t)[channel] = t < rows ? softplus(sum) : 0.0f;
  }
}

/// Writes rows of `out`, which starts at the head's column of the tile's first token.
template <class Tile>
RECURFORMER_DEVICE void gate(const Shared<Tile>& shared, typename Tile::Value* out, std::int64_t stride,
                             int rows) {
  using Head = typename Tile::Head;
  using Value = typename Tile::Value;
  constexpr int wide = 16 / static_cast<int>(sizeof(Value)), pieces = Head::d_head / wide;
  struct alignas(16) Piece {
    Value value[wide];
  };
  RECURFORMER_ROLLED
  for (int i = arch::thread_index(); i < rows * pieces; i += Tile::threads) {
    const int t = i / pieces, at = i % pieces * wide;
    const Piece z = *reinterpret_cast<const Piece*>(shared.z() + t * Head::d_head + at);
    float y[wide];
    load_floats(y, shared.u(t) + at);
    RECURFORMER_UNROLL
    for (int j = 0; j < wide; ++j) y[j] *= gate_value<Head::gate>(static_cast<float>(z.value[j]));
    arch::Words4 packed;
    RECURFORMER_UNROLL
    for (int j = 0; j < 4; ++j)
      if constexpr (sizeof(Value) == 2)
        packed.word[j] = arch::pack<Value>(y[2 * j], y[2 * j + 1]);
      else
        packed.word[j] = rf::detail::bit_cast<std::uint32_t>(y[j]);
    *reinterpret_cast<arch::Words4*>(out + t * stride + at) = packed;
  }
}

}  // namespace RECURFORMER_ARCH
}  // namespace rf::cuda::mamba

#endif  // RECURFORMER_CUDA_MAMBA_BLOCK_HPP
