#ifndef RECURFORMER_CPU_MAMBA_BLOCK_HPP
#define RECURFORMER_CPU_MAMBA_BLOCK_HPP

// What a Mamba head does before its scan, for a block of tokens that stays in the first caches; forward and
// backward both run it:
//
//   p = conv(x) + bias,  u = act(p)          (rows, d_head)    causal, depthwise, d_conv taps
//   δ, B, C = W_x u + b                      (rows, dt_rank + 2·d_state, padded to whole vectors)
//   r = W_Δ δ + b_Δ,     Δ = softplus(r)     (rows, d_head)
//
// The head's small matrices are first laid out with channels, or outputs, innermost. Everything is float.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "recurformer/cpu/mixer_kernel.hpp"
#include "recurformer/cpu/scratch.hpp"
#include "recurformer/spec/mamba.hpp"
#include "recurformer/tile/simd.hpp"
#include "recurformer/tile/transpose.hpp"

namespace rf::cpu {

/// Tokens that a head works on between two passes over memory.
inline constexpr std::int64_t mamba_block = 64;

inline namespace RECURFORMER_ISA {
namespace detail {

constexpr std::int64_t round_up(std::int64_t x, std::int64_t multiple) {
  return (x + multiple - 1) / multiple * multiple;
}

/// Positions of Mamba's local parameters in declared order.
template <class Mixer>
struct MambaLocal {
  static constexpr std::size_t bias = Mixer::policy.bias ? 1 : 0;
  static constexpr std::size_t conv_weight = 0, conv_bias = 1, x_proj = 2, x_proj_bias = 3;
  static constexpr std::size_t dt_weight = 3 + bias, dt_bias = 4 + bias, a_log = 5 + bias, skip = 6 + bias;
  static constexpr std::size_t count = 7 + bias;
};

/// The sizes of one head.
template <class Mixer>
struct MambaSizes {
  static constexpr std::int64_t states = Mixer::scan.d_state, taps = Mixer::scan.d_conv;
  std::int64_t d_head, rank, rows, stride;

  explicit MambaSizes(const HeadShape& shape)
      : d_head(shape.d_head),
        rank(Mixer::dt_rank(shape)),
        rows(Mixer::x_proj_rows(shape)),
        stride(round_up(rows, simd::width)) {}

  /// Elements of one head's slice of local parameter i.
  std::int64_t slice(std::size_t i) const {
    using Local = MambaLocal<Mixer>;
    if (i == Local::conv_weight) return taps * d_head;
    if (i == Local::x_proj) return rows * d_head;
    if (Mixer::policy.bias && i == Local::x_proj_bias) return rows;
    if (i == Local::dt_weight) return rank * d_head;
    if (i == Local::a_log) return states * d_head;
    return d_head;  // conv_bias, dt_bias, skip
  }
};

/// out (columns, out_stride) ← in (rows, columns) transposed; where out_stride has room for whole
/// vectors, columns of `out` from `rows` up to the next multiple of the vector width become 0.
inline void transpose_slice(const float* in, std::int64_t rows, std::int64_t columns, float* out,
                            std::int64_t out_stride) {
  using simd::Vec, simd::width;
  const std::int64_t whole = out_stride >= round_up(rows, width) ? columns / width * width : 0;
  for (std::int64_t i = 0; i < rows; i += width)
    for (std::int64_t j = 0; j < whole; j += width) {
      Vec square[width];
      const float* from = in + i * columns + j;
      const auto count = static_cast<int>(std::min<std::int64_t>(rows - i, width));
#pragma GCC unroll 16
      for (int k = 0; k < width; ++k) square[k] = k < count ? simd::load(from + k * columns) : simd::zero();
      simd::transpose(square);
#pragma GCC unroll 16
      for (int k = 0; k < width; ++k) simd::store(out + (j + k) * out_stride + i, square[k]);
    }
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = whole; j < columns; ++j) out[j * out_stride + i] = in[i * columns + j];
}

/// One head's parameters, laid out for vectors over channels.
template <class Mixer>
struct MambaHead {
  MambaSizes<Mixer> size;
  const float* conv_bias;      // (d_head)
  const float* dt_bias;        // (d_head)
  const float* skip;           // (d_head)
  const float* x_proj_by_row;  // (rows, d_head), as stored
  float* conv_weight;          // (taps, d_head)
  float* x_proj;               // (d_head, stride), zero beyond `rows`
  float* x_proj_bias;          // (stride)
  float* dt_weight;            // (rank, d_head)
  float* a;                    // (states, d_head)

  static std::int64_t scratch(const MambaSizes<Mixer>& size) {
    return (size.taps + size.stride + size.rank + size.states) * size.d_head + 5 * Scratch::line +
           size.stride;
  }

  /// Head `index` of the run, counting the heads of its groups.
  MambaHead(const HeadShape& shape, std::span<const float* const> local, std::int64_t index, Scratch& scratch)
      : size(shape) {
    using Local = MambaLocal<Mixer>;
    const auto slice = [&](std::size_t i) { return local[i] + index * size.slice(i); };
    conv_bias = slice(Local::conv_bias);
    dt_bias = slice(Local::dt_bias);
    skip = slice(Local::skip);
    x_proj_by_row = slice(Local::x_proj);

    const std::int64_t d = size.d_head;
    conv_weight = scratch.take(size.taps * d);
    transpose_slice(slice(Local::conv_weight), d, size.taps, conv_weight, d);
    x_proj = scratch.take(d * size.stride);
    transpose_slice(x_proj_by_row, size.rows, d, x_proj, size.stride);
    x_proj_bias = scratch.take(size.stride);
    std::fill_n(x_proj_bias, size.stride, 0.0f);
    if constexpr (Mixer::policy.bias) std::copy_n(slice(Local::x_proj_bias), size.rows, x_proj_bias);
    dt_weight = scratch.take(size.rank * d);
    transpose_slice(slice(Local::dt_weight), d, size.rank, dt_weight, d);
    a = scratch.take(size.states * d);
    transpose_slice(slice(Local::a_log), d, size.states, a, d);
    for (std::int64_t i = 0; i < size.states * d; i += simd::width)
      simd::store(a + i, -simd::exp(simd::load(a + i)));
  }
};

/// p (rows, d) = depthwise convolution of the window (taps - 1 + rows, d): row t sees window rows t … t +
/// taps - 1, the last of which is its own.
template <int Taps>
void causal_conv1d(const float* window, std::int64_t rows, std::int64_t d, const float* weight,
                   const float* bias, float* p) {
  for (std::int64_t c = 0; c < d; c += simd::width) {
    simd::Vec w[Taps];
    for (int j = 0; j < Taps; ++j) w[j] = simd::load(weight + j * d + c);
    const simd::Vec start = simd::load(bias + c);
    for (std::int64_t t = 0; t < rows; ++t) {
      simd::Vec sum = start;
#pragma GCC unroll 8
      for (int j = 0; j < Taps; ++j) sum += w[j] * simd::load(window + (t + j) * d + c);
      simd::store(p + t * d + c, sum);
    }
  }
}

/// Tokens × Vectors of out = u · weights + bias; weights (d, stride), out (…, stride).
template <int Tokens, int Vectors>
void x_proj_tile(const float* u, std::int64_t d, const float* weights, const float* bias, std::int64_t stride,
                 float* out) {
  simd::Vec sum[Tokens][Vectors];
#pragma GCC unroll 8
  for (int t = 0; t < Tokens; ++t)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) sum[t][v] = simd::load(bias + v * simd::width);
  for (std::int64_t k = 0; k < d; ++k) {
    simd::Vec w[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) w[v] = simd::load(weights + k * stride + v * simd::width);
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t) {
      const simd::Vec x = simd::broadcast(u[t * d + k]);
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) sum[t][v] += x * w[v];
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < Tokens; ++t)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) simd::store(out + t * stride + v * simd::width, sum[t][v]);
}

/// Columns [0, Vectors · width) of out (rows, stride).
template <int Vectors>
void x_proj_columns(const float* u, std::int64_t rows, std::int64_t d, const float* weights,
                    const float* bias, std::int64_t stride, float* out) {
  constexpr int tokens = simd::width == 16 ? 8 : 4;  // with three vectors, as many sums as registers hold
  std::int64_t t = 0;
  for (; t + tokens <= rows; t += tokens)
    x_proj_tile<tokens, Vectors>(u + t * d, d, weights, bias, stride, out + t * stride);
  for (; t < rows; ++t) x_proj_tile<1, Vectors>(u + t * d, d, weights, bias, stride, out + t * stride);
}

/// out (rows, stride) = u (rows, d) · weights (d, stride) + bias (stride).
inline void x_proj(const float* u, std::int64_t rows, std::int64_t d, const float* weights, const float* bias,
                   std::int64_t stride, float* out) {
  for (std::int64_t first = 0; first < stride; first += 3 * simd::width) {
    const auto columns = [&]<int Vectors>(std::integral_constant<int, Vectors>) {
      x_proj_columns<Vectors>(u, rows, d, weights + first, bias + first, stride, out + first);
    };
    switch (std::min<std::int64_t>(3, (stride - first) / simd::width)) {
      case 1:
        columns(std::integral_constant<int, 1>{});
        break;
      case 2:
        columns(std::integral_constant<int, 2>{});
        break;
      default:
        columns(std::integral_constant<int, 3>{});
    }
  }
}

/// The tokens of one block between the projections and the scan.
struct MambaBlock {
  float* window = nullptr;        // (taps - 1 + rows, d_head): inputs of the convolution
  float* p = nullptr;             // (rows, d_head); may be u where backward does not need it
  float* u = nullptr;             // (rows, d_head)
  float* coefficients = nullptr;  // (rows, stride): δ | B | C | padding
  float* r = nullptr;             // (rows, d_head); null in forward, which does not need it
  float* delta = nullptr;         // (rows, d_head)
  float* y = nullptr;             // (rows, d_head): the scan's output, not filled here
};

/// Fills everything from the window on; r and Δ only for channels [first, end).
template <class Mixer>
void mamba_inputs(const MambaHead<Mixer>& head, const MambaBlock& block, std::int64_t rows,
                  std::int64_t first, std::int64_t end) {
  const std::int64_t d = head.size.d_head, stride = head.size.stride;
  causal_conv1d<static_cast<int>(MambaSizes<Mixer>::taps)>(block.window, rows, d, head.conv_weight,
                                                           head.conv_bias, block.p);
  if constexpr (Mixer::policy.activation == Activation::silu)
    for (std::int64_t i = 0; i < rows * d; i += simd::width)
      simd::store(block.u + i, simd::silu(simd::load(block.p + i)));
  x_proj(block.u, rows, d, head.x_proj, head.x_proj_bias, stride, block.coefficients);
  for (std::int64_t t = 0; t < rows; ++t) {
    const float* rank = block.coefficients + t * stride;
    for (std::int64_t c = first; c < end; c += simd::width) {
      simd::Vec r = simd::load(head.dt_bias + c);
      for (std::int64_t i = 0; i < head.size.rank; ++i) r += simd::load(head.dt_weight + i * d + c) * rank[i];
      if (block.r) simd::store(block.r + t * d + c, r);
      simd::store(block.delta + t * d + c, simd::softplus(r));
    }
  }
}

}  // namespace detail
}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_MAMBA_BLOCK_HPP
