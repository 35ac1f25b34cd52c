#ifndef RECURFORMER_REFERENCE_STANDARD_MAMBA2_HPP
#define RECURFORMER_REFERENCE_STANDARD_MAMBA2_HPP

// Standard Mamba-2 as its recurrence (spec/standard_mamba2.hpp), in double, one token after the other.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "recurformer/math/activation.hpp"
#include "recurformer/reference/mixer_reference.hpp"
#include "recurformer/spec/standard_mamba2.hpp"

namespace rf::reference {

template <SsdShape Shape>
struct MixerReference<StandardMamba2<Shape>> {
  struct State {
    template <class Precision>
    using Stored = typename Precision::State;

    std::vector<double> conv;   // (d_conv - 1, channels), oldest first
    std::vector<double> state;  // (queries, d_state, d_head)
    Rounding round = exact;     // of both, at the end of a call
  };

  static void forward(const StandardMamba2<Shape>& mixer, const HeadShape& shape, const GroupArguments& a,
                      State& past) {
    const auto queries = static_cast<std::size_t>(shape.queries_per_group),
               d = static_cast<std::size_t>(shape.d_head),
               channels = static_cast<std::size_t>(mixer.channels(shape)),
               width = static_cast<std::size_t>(projection_width(mixer, shape));
    constexpr std::size_t states = Shape.d_state;
    past.conv.resize((Shape.d_conv - 1) * channels);
    past.state.resize(queries * states * d);
    for (std::size_t t = 0; t < static_cast<std::size_t>(a.rows); ++t) {
      const double* z = a.projected + t * width;
      const std::vector<double> x = convolve(z + queries * d, shape, a.local, past.conv);
      const double *b = x.data() + queries * d, *c = b + states;
      const double* dt = z + queries * d + channels;
      for (std::size_t h = 0; h < queries; ++h) {
        const double step =
            std::clamp(softplus(dt[h] + a.local[6][h]), shape.step_limits.least, shape.step_limits.most);
        const double decay = std::exp(-step * std::exp(a.local[7][h]));
        for (std::size_t i = 0; i < d; ++i) {
          const double input = x[h * d + i];
          double y = a.local[8][h] * input;
          for (std::size_t n = 0; n < states; ++n) {
            double& s = past.state[(h * states + n) * d + i];
            s = decay * s + step * b[n] * input;
            y += c[n] * s;
          }
          a.out[(t * queries + h) * d + i] = y * gate_value(Gate::silu, z[h * d + i]);
        }
      }
    }
    for (auto* kept : {&past.conv, &past.state})
      for (double& value : *kept) value = past.round(value);
  }

 private:
  /// silu(conv(in) + bias) of one token's x | B | C, which joins the past.
  static std::vector<double> convolve(const double* in, const HeadShape& shape,
                                      std::span<const std::span<const double>> local,
                                      std::vector<double>& past) {
    constexpr std::size_t taps = Shape.d_conv;
    const auto b = static_cast<std::size_t>(shape.group_width()), c = b + Shape.d_state,
               channels = c + Shape.d_state;
    past.insert(past.end(), in, in + channels);
    std::vector<double> out(channels);
    for (std::size_t i = 0; i < channels; ++i) {
      const std::size_t part = i < b ? 0 : i < c ? 1 : 2;
      const std::size_t at = i - (part == 0 ? 0 : part == 1 ? b : c);
      double sum = local[3 + part][at];
      for (std::size_t j = 0; j < taps; ++j) sum += local[part][at * taps + j] * past[j * channels + i];
      out[i] = activate(Activation::silu, sum);
    }
    past.erase(past.begin(), past.begin() + static_cast<std::ptrdiff_t>(channels));
    return out;
  }
};

}  // namespace rf::reference

#endif  // RECURFORMER_REFERENCE_STANDARD_MAMBA2_HPP
