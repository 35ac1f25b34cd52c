#ifndef RECURFORMER_CPU_MAMBA_GRADIENTS_HPP
#define RECURFORMER_CPU_MAMBA_GRADIENTS_HPP

// Gradients of a Mamba head's parameters, summed over tokens in the layout of the kernel (channels
// innermost), and the transposed small products of its backward.

#include <cstdint>
#include <span>

#include "recurformer/cpu/gate.hpp"
#include "recurformer/cpu/mamba_block.hpp"
#include "recurformer/tile/simd.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {
namespace detail {

/// Sums over tokens of the gradients of one head's parameters.
template <class Mixer>
struct MambaGradients {
  std::int64_t d_head, rank, rows, stride;
  float* all;          // everything below, one after the other
  float* conv_weight;  // (taps, d_head)
  float* conv_bias;    // (d_head)
  float* x_proj;       // (rows, d_head)
  float* x_proj_bias;  // (stride)
  float* dt_weight;    // (rank, d_head)
  float* dt_bias;      // (d_head)
  float* a;            // (states, d_head), of A itself
  float* skip;         // (d_head)

  static std::int64_t floats(const MambaSizes<Mixer>& size) {
    return (size.taps + size.rows + size.rank + size.states + 3) * size.d_head +
           round_up(size.stride, Scratch::line);
  }

  MambaGradients(const MambaSizes<Mixer>& size, float* memory)
      : d_head(size.d_head), rank(size.rank), rows(size.rows), stride(size.stride), all(memory) {
    const auto take = [&](std::int64_t count) {
      float* piece = memory;
      memory += count * d_head;
      return piece;
    };
    conv_weight = take(size.taps);
    conv_bias = take(1);
    x_proj = take(size.rows);
    dt_weight = take(size.rank);
    dt_bias = take(1);
    a = take(size.states);
    skip = take(1);
    x_proj_bias = memory;
  }

  /// Of the convolution: window (taps - 1 + count, d_head), d_p (count, d_head).
  void add_convolution(const float* window, const float* d_p, std::int64_t count) const {
    constexpr int taps = static_cast<int>(MambaSizes<Mixer>::taps);
    for (std::int64_t c = 0; c < d_head; c += simd::width) {
      simd::Vec weight[taps], bias = simd::load(conv_bias + c);
#pragma GCC unroll 8
      for (int j = 0; j < taps; ++j) weight[j] = simd::load(conv_weight + j * d_head + c);
      for (std::int64_t t = 0; t < count; ++t) {
        const simd::Vec d = simd::load(d_p + t * d_head + c);
        bias += d;
#pragma GCC unroll 8
        for (int j = 0; j < taps; ++j) weight[j] += d * simd::load(window + (t + j) * d_head + c);
      }
      simd::store(conv_bias + c, bias);
#pragma GCC unroll 8
      for (int j = 0; j < taps; ++j) simd::store(conv_weight + j * d_head + c, weight[j]);
    }
  }

  /// Of r = W_Δ δ + b: coefficients (count, stride) start with δ, d_r (count, d_head).
  void add_dt(const float* coefficients, const float* d_r, std::int64_t count) const {
    for (std::int64_t c = 0; c < d_head; c += simd::width) {
      simd::Vec bias = simd::load(dt_bias + c);
      for (std::int64_t t = 0; t < count; ++t) bias += simd::load(d_r + t * d_head + c);
      simd::store(dt_bias + c, bias);
    }
    add_outer(coefficients, d_r, count, rank, dt_weight);
  }

  /// Of (δ, B, C) = W_x u + b: u (count, d_head), d_coefficients (count, stride).
  void add_x_proj(const float* u, const float* d_coefficients, std::int64_t count) const {
    for (std::int64_t i = 0; i < stride; i += simd::width) {
      simd::Vec bias = simd::load(x_proj_bias + i);
      for (std::int64_t t = 0; t < count; ++t) bias += simd::load(d_coefficients + t * stride + i);
      simd::store(x_proj_bias + i, bias);
    }
    add_outer(d_coefficients, u, count, rows, x_proj);
  }

  /// Adds everything to the gradients of head `index` of the run, in the parameters' own layout.
  void add_to(const MambaSizes<Mixer>& size, std::span<const float* const> local,
              std::span<float* const> d_local, std::int64_t index) const {
    using Local = MambaLocal<Mixer>;
    const auto slice = [&](std::size_t i) { return d_local[i] + index * size.slice(i); };
    const auto add = [&](std::size_t i, const float* values) {
      float* to = slice(i);
      for (std::int64_t k = 0; k < size.slice(i); ++k) to[k] += values[k];
    };
    const auto add_transposed = [&](std::size_t i, const float* values) {
      float* to = slice(i);
      const std::int64_t columns = size.slice(i) / d_head;
      for (std::int64_t c = 0; c < d_head; ++c)
        for (std::int64_t j = 0; j < columns; ++j) to[c * columns + j] += values[j * d_head + c];
    };
    add_transposed(Local::conv_weight, conv_weight);
    add(Local::conv_bias, conv_bias);
    add(Local::x_proj, x_proj);
    if constexpr (Mixer::policy.bias) add(Local::x_proj_bias, x_proj_bias);
    add_transposed(Local::dt_weight, dt_weight);
    add(Local::dt_bias, dt_bias);
    add(Local::skip, skip);
    // A = -exp(A_log), hence dA_log = dA · A
    const float* a_log = local[Local::a_log] + index * size.slice(Local::a_log);
    float* d_a_log = slice(Local::a_log);
    for (std::int64_t c = 0; c < d_head; ++c)
      for (std::int64_t n = 0; n < size.states; ++n)
        d_a_log[c * size.states + n] -= a[n * d_head + c] * std::exp(a_log[c * size.states + n]);
  }

 private:
  /// sum (outputs, d_head) += Σ_t left[t][output] · right[t][channel]; left (count, stride).
  void add_outer(const float* left, const float* right, std::int64_t count, std::int64_t outputs,
                 float* sum) const {
    std::int64_t i = 0;
    for (; i + 4 <= outputs; i += 4) add_outer_rows<4>(left + i, right, count, sum + i * d_head);
    for (; i < outputs; ++i) add_outer_rows<1>(left + i, right, count, sum + i * d_head);
  }
  template <int Outputs>
  void add_outer_rows(const float* left, const float* right, std::int64_t count, float* sum) const {
    for (std::int64_t c = 0; c < d_head; c += simd::width) {
      simd::Vec total[Outputs];
#pragma GCC unroll 4
      for (int i = 0; i < Outputs; ++i) total[i] = simd::load(sum + i * d_head + c);
      for (std::int64_t t = 0; t < count; ++t) {
        const simd::Vec x = simd::load(right + t * d_head + c);
#pragma GCC unroll 4
        for (int i = 0; i < Outputs; ++i) total[i] += x * left[t * stride + i];
      }
#pragma GCC unroll 4
      for (int i = 0; i < Outputs; ++i) simd::store(sum + i * d_head + c, total[i]);
    }
  }
};

/// d_coefficients[t][i] = Σ_c d_r[t][c] · W_Δ[c][i], the gradient of δ.
template <class Mixer>
void transposed_dt(const MambaHead<Mixer>& head, const float* d_r, std::int64_t count,
                   float* d_coefficients) {
  const std::int64_t d = head.size.d_head;
  for (std::int64_t t = 0; t < count; ++t)
    for (std::int64_t i = 0; i < head.size.rank; ++i) {
      simd::Vec sum = simd::zero();
      for (std::int64_t c = 0; c < d; c += simd::width)
        sum += simd::load(d_r + t * d + c) * simd::load(head.dt_weight + i * d + c);
      d_coefficients[t * head.size.stride + i] = simd::reduce_add(sum);
    }
}

/// Rows tokens of d_u[t][c] += Σ_i d_coefficients[t][i] · W_x[i][c].
template <int Tokens, class Mixer>
void transposed_x_proj_rows(const MambaHead<Mixer>& head, const float* d_coefficients, float* d_u) {
  const std::int64_t d = head.size.d_head, stride = head.size.stride;
  for (std::int64_t c = 0; c < d; c += simd::width) {
    simd::Vec sum[Tokens];
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t) sum[t] = simd::load(d_u + t * d + c);
    for (std::int64_t i = 0; i < head.size.rows; ++i) {
      const simd::Vec weight = simd::load(head.x_proj_by_row + i * d + c);
#pragma GCC unroll 8
      for (int t = 0; t < Tokens; ++t) sum[t] += weight * d_coefficients[t * stride + i];
    }
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t) simd::store(d_u + t * d + c, sum[t]);
  }
}

template <class Mixer>
void transposed_x_proj(const MambaHead<Mixer>& head, const float* d_coefficients, std::int64_t count,
                       float* d_u) {
  const std::int64_t d = head.size.d_head, stride = head.size.stride;
  std::int64_t t = 0;
  for (; t + 8 <= count; t += 8) transposed_x_proj_rows<8>(head, d_coefficients + t * stride, d_u + t * d);
  for (; t < count; ++t) transposed_x_proj_rows<1>(head, d_coefficients + t * stride, d_u + t * d);
}

/// d_x (d) of one token from d_p of this token and the taps - 1 after it (taps, d).
template <int Taps>
void reversed_convolution(const float* d_p, std::int64_t d, const float* weight, float* d_x) {
  for (std::int64_t c = 0; c < d; c += simd::width) {
    simd::Vec sum = simd::zero();
#pragma GCC unroll 8
    for (int j = 0; j < Taps; ++j)
      sum += simd::load(weight + (Taps - 1 - j) * d + c) * simd::load(d_p + j * d + c);
    simd::store(d_x + c, sum);
  }
}

}  // namespace detail
}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_MAMBA_GRADIENTS_HPP
