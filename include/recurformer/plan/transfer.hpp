#ifndef RECURFORMER_PLAN_TRANSFER_HPP
#define RECURFORMER_PLAN_TRANSFER_HPP

// How a replaced head starts: a mixer's transfer rule turns the attention weights of a KV group, and where
// its heads look, into the mixer's own parameters. A mixer of the user's own specialises Transfer as the ones
// below do.

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string_view>
#include <vector>

#include "recurformer/core/error.hpp"
#include "recurformer/math/activation.hpp"
#include "recurformer/math/distance_profile.hpp"
#include "recurformer/math/least_squares.hpp"
#include "recurformer/spec/mamba.hpp"
#include "recurformer/spec/mamba2.hpp"

namespace rf {

/// The attention group that is replaced: weights in float, row-major; biases empty where the model has none.
struct AttentionGroup {
  HeadShape shape;
  std::vector<float> query, key, value;  ///< (queries · d_head, d_model), (d_head, d_model) twice
  std::vector<float> query_bias, key_bias, value_bias;
  std::vector<DistanceProfile> profiles;  ///< one per query head
};

/// One of the new group's parameters: (units per group, slice), to be written.
struct ParameterSlices {
  ParameterSpec spec;
  std::span<float> values;

  /// The slice of one unit.
  std::span<float> unit(int index) const {
    const auto size = static_cast<std::size_t>(spec.slice.size());
    return values.subspan(static_cast<std::size_t>(index) * size, size);
  }
};

/// Specialise with `static void apply(const Mixer&, const AttentionGroup&, std::span<ParameterSlices>)`,
/// which gets every declared parameter filled with its initial values and overwrites what should start
/// otherwise.
template <class M>
struct Transfer {
  static void apply(const M&, const AttentionGroup&, std::span<ParameterSlices>) {}
};

namespace detail {

inline ParameterSlices& named(std::span<ParameterSlices> parameters, std::string_view name) {
  for (auto& parameter : parameters)
    if (parameter.spec.name == name) return parameter;
  throw ArgumentError(text("this mixer has no parameter ", name));
}

inline void fill(std::span<float> values, double value) {
  for (float& one : values) one = static_cast<float>(value);
}

/// Probability of lag 0.
inline double probability_now(const DistanceProfile& profile) {
  return profile.probability.empty() ? 0.0 : profile.probability[0];
}

/// Mean of exp(-rate · δ) over the lags of entry i.
inline double mean_decay(const DistanceProfile& profile, std::size_t i, double rate) {
  if (rate < 1e-12) return 1.0;
  return std::exp(-rate * profile.lag[i]) * -std::expm1(-rate * profile.lags[i]) /
         (profile.lags[i] * -std::expm1(-rate));
}

/// Non-negative weights c with p(δ) ≈ Σ c_n exp(-rate_n δ) over lags of at least 1. Lag 0 is the skip
/// connection's.
inline std::vector<double> fit_decays(const DistanceProfile& profile, std::span<const double> rates) {
  std::vector<double> a, b;
  for (std::size_t i = 0; i < profile.lag.size(); ++i) {
    if (profile.lag[i] < 1) continue;
    const double weight = std::sqrt(profile.lags[i]);  // an entry counts as often as it has lags
    for (const double rate : rates) a.push_back(weight * mean_decay(profile, i, rate));
    b.push_back(weight * profile.probability[i]);
  }
  return nonnegative_least_squares(a, b, rates.size());
}

/// n decay rates from 1/200 to 3 per token, evenly spaced in their logarithm.
inline std::vector<double> decay_grid(std::size_t n) {
  std::vector<double> rates;
  const double low = std::log(1.0 / 200.0), high = std::log(3.0);
  for (std::size_t i = 0; i < n; ++i)
    rates.push_back(
        std::exp(n == 1 ? low : low + (high - low) * static_cast<double>(i) / static_cast<double>(n - 1)));
  return rates;
}

}  // namespace detail

/// Mamba: x is the group's value (for each of its query heads), the convolution is the identity, the gate
/// exactly 1 and Δ = 1; the value's bias is the convolution's. The states decay on a fixed grid of rates;
/// constant B and C weigh them so that the head averages its values with the weights of its distance profile,
/// and D adds what lag 0 lacks. The content-dependent parts start at zero, with one factor of each product
/// non-zero so that they can be learnt.
template <ScanShape Shape, MambaPolicy Policy>
struct Transfer<Mamba<Shape, Policy>> {
  static void apply(const Mamba<Shape, Policy>& mixer, const AttentionGroup& group,
                    std::span<ParameterSlices> parameters) {
    static_assert(Policy.bias && Policy.gate == Gate::two_sigmoid && Policy.activation == Activation::none,
                  "recurformer: attention heads convert to Mamba<Shape> with its default policy (biases, "
                  "2·sigmoid gate, "
                  "no activation); the standard policy cannot start as the head it replaces");
    const auto d_head = static_cast<std::size_t>(group.shape.d_head);
    const auto states = static_cast<std::size_t>(Shape.d_state),
               taps = static_cast<std::size_t>(Shape.d_conv);
    const auto rank = static_cast<std::size_t>(mixer.dt_rank(group.shape));
    const std::vector<double> rates = detail::decay_grid(states);
    detail::fill(detail::named(parameters, "in_proj_z.weight").values, 0);
    detail::fill(detail::named(parameters, "conv1d.weight").values, 0);
    detail::fill(detail::named(parameters, "conv1d.bias").values, 0);
    detail::fill(detail::named(parameters, "dt_proj.weight").values, 0);
    detail::fill(detail::named(parameters, "dt_proj.bias").values, inverse_softplus(1.0));
    detail::fill(detail::named(parameters, "x_proj.bias").values, 0);
    for (int head = 0; head < group.shape.queries_per_group; ++head) {
      const DistanceProfile& profile = group.profiles[static_cast<std::size_t>(head)];
      const std::vector<double> weights = detail::fit_decays(profile, rates);
      const auto x = detail::named(parameters, "in_proj_x.weight").unit(head);
      for (std::size_t i = 0; i < x.size(); ++i) x[i] = group.value[i];
      const auto conv = detail::named(parameters, "conv1d.weight").unit(head);
      const auto conv_bias = detail::named(parameters, "conv1d.bias").unit(head);
      const auto projection = detail::named(parameters, "x_proj.weight").unit(head);
      const auto bias = detail::named(parameters, "x_proj.bias").unit(head);
      const auto a_log = detail::named(parameters, "A_log").unit(head);
      const auto skip = detail::named(parameters, "D").unit(head);
      double fitted_now = 0;
      for (std::size_t n = 0; n < states; ++n) {
        bias[rank + n] = bias[rank + states + n] = static_cast<float>(std::sqrt(weights[n]));
        fitted_now += weights[n];
      }
      for (std::size_t i = rank * d_head; i < projection.size(); ++i) projection[i] = 0;  // B and C
      for (std::size_t c = 0; c < d_head; ++c) {
        conv[c * taps + taps - 1] = 1;
        if (!group.value_bias.empty()) conv_bias[c] = group.value_bias[c];
        skip[c] = static_cast<float>(detail::probability_now(profile) - fitted_now);
        for (std::size_t n = 0; n < states; ++n)
          a_log[c * states + n] = static_cast<float>(std::log(rates[n]));
      }
    }
  }
};

/// Mamba2: q, k and v are the group's own, scores are c0 + c1 · q·k/√d_head with c1 = 0.03 c0 (softmax is
/// nearly linear only for small scores), the gate exactly 1, Δ = 1. The one decay of the group is the best
/// single exponential for the mean profile of its heads, c0 each head's amplitude, and D adds what lag 0
/// lacks. ArgumentError for attention with biases or with norms of queries and keys, which Mamba2 has no
/// place for.
template <SsdPolicy Policy>
struct Transfer<Mamba2<Policy>> {
  static void apply(const Mamba2<Policy>&, const AttentionGroup& group,
                    std::span<ParameterSlices> parameters) {
    static_assert(Policy.gate == Gate::two_sigmoid,
                  "recurformer: attention heads convert to Mamba2 with a 2·sigmoid gate");
    check(group.query_bias.empty() && group.key_bias.empty() && group.value_bias.empty(),
          "attention heads with biases cannot become Mamba2 heads, whose projections have none; convert them "
          "to "
          "Mamba, which keeps the value's bias");
    check(!group.shape.qk_norm,
          "attention heads whose queries and keys are normalised cannot become Mamba2 heads, which have no "
          "such norms; convert them to Mamba, which needs no queries and keys");
    const auto copy = [](std::span<float> to, const std::vector<float>& from, double scale) {
      for (std::size_t i = 0; i < to.size(); ++i)
        to[i] = static_cast<float>(scale * static_cast<double>(from[i]));
    };
    copy(detail::named(parameters, "q_proj.weight").values, group.query,
         1.0 / std::sqrt(static_cast<double>(group.shape.d_head)));
    copy(detail::named(parameters, "k_proj.weight").values, group.key, 1.0);
    copy(detail::named(parameters, "v_proj.weight").values, group.value, 1.0);
    detail::fill(detail::named(parameters, "z_proj.weight").values, 0);
    detail::fill(detail::named(parameters, "dt_proj.weight").values, 0);
    detail::fill(detail::named(parameters, "dt_bias").values, inverse_softplus(1.0));
    const double rate = best_rate(group.profiles);
    detail::fill(detail::named(parameters, "A_log").values, std::log(rate));
    for (int head = 0; head < group.shape.queries_per_group; ++head) {
      const DistanceProfile& profile = group.profiles[static_cast<std::size_t>(head)];
      const double amplitude = detail::fit_decays(profile, std::span(&rate, 1))[0];
      detail::fill(detail::named(parameters, "c0").unit(head), amplitude);
      detail::fill(detail::named(parameters, "c1").unit(head), 0.03 * amplitude);
      detail::fill(detail::named(parameters, "D").unit(head), detail::probability_now(profile) - amplitude);
    }
  }

 private:
  /// The rate on a fine grid with the least squared error over all heads' profiles.
  static double best_rate(const std::vector<DistanceProfile>& profiles) {
    double best = 1, least = std::numeric_limits<double>::infinity();
    for (const double rate : detail::decay_grid(200)) {
      double error = 0;
      for (const DistanceProfile& profile : profiles) {
        const double amplitude = detail::fit_decays(profile, std::span(&rate, 1))[0];
        for (std::size_t i = 0; i < profile.lag.size(); ++i) {
          if (profile.lag[i] < 1) continue;
          const double difference = profile.probability[i] - amplitude * detail::mean_decay(profile, i, rate);
          error += profile.lags[i] * difference * difference;
        }
      }
      if (error < least) least = error, best = rate;
    }
    return best;
  }
};

}  // namespace rf

#endif  // RECURFORMER_PLAN_TRANSFER_HPP
