#ifndef RECURFORMER_REFERENCE_MAMBA_HPP
#define RECURFORMER_REFERENCE_MAMBA_HPP

// Mamba (arXiv 2312.00752, §3) in double, one token at a time. For every head of the group, with its columns
// x, z (d_head) of the projected row:
//
//   u_c     = act(Σ_j conv[c][j] · x_c(t - (d_conv-1) + j) + conv_bias[c])     zeros before the sequence
//   δ, B, C = W_x u + b_x                                                      dt_rank | d_state | d_state
//   Δ       = softplus(W_Δ δ + b_Δ)                                            (d_head)
//   s[n][c] ← exp(Δ_c · A[c][n]) · s[n][c] + Δ_c · u_c · B_n,                  A = -exp(A_log)
//   out_c   = (Σ_n s[n][c] · C_n + D_c · u_c) · gate(z_c)

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "recurformer/math/activation.hpp"
#include "recurformer/reference/mixer_reference.hpp"
#include "recurformer/spec/mamba.hpp"

namespace rf::reference {

/// What the heads of one group remember between calls.
struct MambaState {
  template <class Precision>
  using Stored = typename Precision::State;

  std::vector<double> conv;  ///< (queries, d_conv - 1, d_head), oldest first
  std::vector<double> scan;  ///< (queries, d_state, d_head)
  Rounding round = exact;    ///< of both, at the end of a call
};

template <ScanShape Shape, MambaPolicy Policy>
struct MixerReference<Mamba<Shape, Policy>> {
  using State = MambaState;

  static void forward(const Mamba<Shape, Policy>&, const HeadShape& shape, const GroupArguments& arguments,
                      State& state) {
    const auto queries = static_cast<std::size_t>(shape.queries_per_group);
    const auto d = static_cast<std::size_t>(shape.d_head);
    state.conv.resize(queries * (Shape.d_conv - 1) * d);
    state.scan.resize(queries * Shape.d_state * d);
    for (std::int64_t t = 0; t < arguments.rows; ++t) {
      const double* projected = arguments.projected + static_cast<std::size_t>(t) * 2 * queries * d;
      double* out = arguments.out + static_cast<std::size_t>(t) * queries * d;
      for (std::size_t h = 0; h < queries; ++h)
        token(shape, h, arguments.local, projected + h * d, projected + (queries + h) * d, out + h * d,
              state);
    }
    for (auto* kept : {&state.conv, &state.scan})
      for (double& value : *kept) value = state.round(value);
  }

 private:
  /// One token of head h: x, z and out are (d_head).
  static void token(const HeadShape& shape, std::size_t h, std::span<const std::span<const double>> local,
                    const double* x, const double* z, double* out, State& state) {
    const auto d = static_cast<std::size_t>(shape.d_head);
    const auto rank = static_cast<std::size_t>(Mamba<Shape, Policy>::dt_rank(shape));
    constexpr std::size_t taps = Shape.d_conv, states = Shape.d_state;
    const std::size_t rows = rank + 2 * states;

    std::size_t next = 0;
    const auto parameter = [&](std::size_t slice) { return local[next++].data() + h * slice; };
    const double* conv_weight = parameter(d * taps);
    const double* conv_bias = parameter(d);
    const double* x_proj = parameter(rows * d);
    const double* x_proj_bias = Policy.bias ? parameter(rows) : nullptr;
    const double* dt_weight = parameter(d * rank);
    const double* dt_bias = parameter(d);
    const double* a_log = parameter(d * states);
    const double* skip = parameter(d);

    std::vector<double> u(d), coefficients(rows);
    double* past = state.conv.data() + h * (taps - 1) * d;
    for (std::size_t c = 0; c < d; ++c) {
      double sum = conv_bias[c] + conv_weight[c * taps + taps - 1] * x[c];
      for (std::size_t j = 0; j + 1 < taps; ++j) sum += conv_weight[c * taps + j] * past[j * d + c];
      u[c] = activate(Policy.activation, sum);
    }
    for (std::size_t c = 0; c < d; ++c) {
      for (std::size_t j = 0; j + 2 < taps; ++j) past[j * d + c] = past[(j + 1) * d + c];
      past[(taps - 2) * d + c] = x[c];
    }
    for (std::size_t r = 0; r < rows; ++r) {
      coefficients[r] = x_proj_bias ? x_proj_bias[r] : 0.0;
      for (std::size_t c = 0; c < d; ++c) coefficients[r] += x_proj[r * d + c] * u[c];
    }
    const double* b = coefficients.data() + rank;
    for (std::size_t c = 0; c < d; ++c) {
      double raw = dt_bias[c];
      for (std::size_t r = 0; r < rank; ++r) raw += dt_weight[c * rank + r] * coefficients[r];
      const double delta = softplus(raw);
      double y = skip[c] * u[c];
      for (std::size_t n = 0; n < states; ++n) {
        double& s = state.scan[(h * states + n) * d + c];
        s = std::exp(-delta * std::exp(a_log[c * states + n])) * s + delta * u[c] * b[n];
        y += s * b[states + n];
      }
      out[c] = y * gate_value(Policy.gate, z[c]);
    }
  }
};

}  // namespace rf::reference

#endif  // RECURFORMER_REFERENCE_MAMBA_HPP
