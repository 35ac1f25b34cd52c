#ifndef RECURFORMER_REFERENCE_MAMBA2_HPP
#define RECURFORMER_REFERENCE_MAMBA2_HPP

// Mamba2 as its recurrence (spec/mamba2.hpp), in double, one token after the other.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "recurformer/math/activation.hpp"
#include "recurformer/reference/attention.hpp"
#include "recurformer/reference/mixer_reference.hpp"
#include "recurformer/spec/mamba2.hpp"

namespace rf::reference {

template <SsdPolicy Policy>
struct MixerReference<Mamba2<Policy>> {
  struct State {
    template <class Precision>
    using Stored = typename Precision::State;

    std::vector<double> state;  // (d_head + 1, d_head): rows of s, then r; empty means zero
    Rounding round = exact;     // of it, at the end of a call
  };

  static void forward(const Mamba2<Policy>&, const HeadShape& shape, const GroupArguments& a, State& past) {
    const int d = shape.d_head, queries = shape.queries_per_group;
    const std::int64_t width = std::int64_t{2 * queries + 2} * d + 1;
    past.state.resize(static_cast<std::size_t>((d + 1) * d), 0.0);
    double* s = past.state.data();
    const double bias = a.local[0][0], rate = -std::exp(a.local[1][0]);
    std::vector<double> q(static_cast<std::size_t>(d)), k(static_cast<std::size_t>(d + 1), 1.0);
    for (std::int64_t t = 0; t < a.rows; ++t) {
      const double* row = a.projected + t * width;
      const double* v = row + (queries + 1) * d;
      const double* z = v + d;
      for (int i = 0; i < d; ++i) k[static_cast<std::size_t>(i)] = row[queries * d + i];
      if (Policy.rope) rotate(k.data(), shape, a.position + t);
      const double step = softplus(z[queries * d] + bias), decay = std::exp(step * rate);
      for (int i = 0; i <= d; ++i)  // the last k is the constant 1, its state row is r
        for (int j = 0; j < d; ++j)
          s[i * d + j] = decay * s[i * d + j] + step * k[static_cast<std::size_t>(i)] * v[j];
      for (int h = 0; h < queries; ++h) {
        q.assign(row + h * d, row + (h + 1) * d);
        if (Policy.rope) rotate(q.data(), shape, a.position + t);
        const auto head = static_cast<std::size_t>(h);
        double* out = a.out + (t * queries + h) * d;
        double squares = 0;
        for (int j = 0; j < d; ++j) {
          double sum = 0;
          for (int i = 0; i < d; ++i) sum += q[static_cast<std::size_t>(i)] * s[i * d + j];
          out[j] = a.local[2][head] * s[d * d + j] + a.local[3][head] * sum +
                   a.local[4][static_cast<std::size_t>(h * d + j)] * v[j];
          squares += out[j] * out[j];
        }
        for (int j = 0; j < d; ++j) {
          if (Policy.norm)
            out[j] *=
                a.local[5][static_cast<std::size_t>(h * d + j)] / std::sqrt(squares / d + ssd_norm_epsilon);
          out[j] *= gate_value(Policy.gate, z[h * d + j]);
        }
      }
    }
    for (double& value : past.state) value = past.round(value);
  }
};

}  // namespace rf::reference

#endif  // RECURFORMER_REFERENCE_MAMBA2_HPP
