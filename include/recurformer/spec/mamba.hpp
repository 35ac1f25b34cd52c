#ifndef RECURFORMER_SPEC_MAMBA_HPP
#define RECURFORMER_SPEC_MAMBA_HPP

// Mamba (selective scan, arXiv 2312.00752) as a head of RecurFormer: every query head is a block of its own,
// d_head wide. See reference/mamba.hpp for the equations.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "recurformer/core/error.hpp"
#include "recurformer/math/activation.hpp"
#include "recurformer/spec/mixer.hpp"

namespace rf {

/// Sizes of a selective scan.
struct ScanShape {
  int d_state = 16;  ///< N: states per channel, at least 1
  int d_conv = 4;    ///< taps of the causal convolution, the current token's included, at least 2
  int dt_rank = 0;   ///< width of δ; 0: ceil(d_head / 16), for standard Mamba ceil(d_head / 32)

  friend constexpr bool operator==(const ScanShape&, const ScanShape&) = default;
};

/// Choices of Mamba. The defaults are those of a head converted from attention, which lets it start close to
/// the head it replaces; {silu, silu, false} is standard Mamba.
struct MambaPolicy {
  Activation activation = Activation::none;  ///< after the convolution
  Gate gate = Gate::two_sigmoid;
  bool bias = true;  ///< on δ, B and C

  friend constexpr bool operator==(const MambaPolicy&, const MambaPolicy&) = default;
};

inline constexpr MambaPolicy standard_mamba = {
    .activation = Activation::silu, .gate = Gate::silu, .bias = false};

namespace detail {

/// Width of δ. Mamba's own default is d_model / 16, and its one head per layer is 2 · d_model wide.
constexpr int mamba_dt_rank(const ScanShape& scan, const MambaPolicy& policy, int d_head) {
  if (scan.dt_rank > 0) return scan.dt_rank;
  const int per_rank = policy == standard_mamba ? 32 : 16;
  return (d_head + per_rank - 1) / per_rank;
}

/// Starts of a converted head: an ungated moving average. Conversion fits them to the head it replaces.
template <ScanShape Scan>
struct ConvertedMamba {
  /// Decay rates on a logarithmic grid from 1/200 to 3 per token.
  static double rate(int n) {
    const double step = Scan.d_state > 1 ? n / (Scan.d_state - 1.0) : 0.0;
    return std::exp(std::log(1.0 / 200) + step * (std::log(3.0) - std::log(1.0 / 200)));
  }
  /// Identity: the tap of the current token is the last one.
  static void conv_weight(std::span<float> slice, const HeadShape&, Random&) {
    for (std::size_t i = 0; i < slice.size(); ++i) slice[i] = (i + 1) % Scan.d_conv == 0 ? 1.0f : 0.0f;
  }
  /// B_n = C_n: every state's exponential weights sum to 1/N, all of them to 1.
  static void x_proj_bias(std::span<float> slice, const HeadShape&, Random&) {
    const auto rank = slice.size() - 2 * Scan.d_state;
    std::fill(slice.begin(), slice.end(), 0.0f);
    for (int n = 0; n < Scan.d_state; ++n) {
      const auto value = static_cast<float>(std::sqrt((1 - std::exp(-rate(n))) / Scan.d_state));
      slice[rank + static_cast<std::size_t>(n)] = value;
      slice[rank + static_cast<std::size_t>(Scan.d_state + n)] = value;
    }
  }
  /// Δ = 1.
  static void dt_bias(std::span<float> slice, const HeadShape&, Random&) {
    std::fill(slice.begin(), slice.end(), static_cast<float>(inverse_softplus(1.0)));
  }
  static void a_log(std::span<float> slice, const HeadShape&, Random&) {
    for (std::size_t i = 0; i < slice.size(); ++i)
      slice[i] = static_cast<float>(std::log(rate(static_cast<int>(i % Scan.d_state))));
  }
};

/// Starts of standard Mamba.
template <ScanShape Scan>
struct StandardMamba {
  static void uniform(std::span<float> slice, double bound, Random& random) {
    for (float& value : slice) value = static_cast<float>(random.uniform(-bound, bound));
  }
  static void conv(std::span<float> slice, const HeadShape&, Random& random) {
    uniform(slice, 1.0 / std::sqrt(Scan.d_conv), random);
  }
  static void x_proj_weight(std::span<float> slice, const HeadShape& shape, Random& random) {
    const double deviation = 1.0 / std::sqrt(shape.d_head);
    for (float& value : slice) value = static_cast<float>(deviation * random.normal());
  }
  static void dt_weight(std::span<float> slice, const HeadShape& shape, Random& random) {
    const auto rank = slice.size() / static_cast<std::size_t>(shape.d_head);
    uniform(slice, 1.0 / std::sqrt(static_cast<double>(rank)), random);
  }
  /// Δ log-uniform in [0.001, 0.1] where δ is zero.
  static void dt_bias(std::span<float> slice, const HeadShape&, Random& random) {
    for (float& value : slice)
      value = static_cast<float>(inverse_softplus(std::exp(random.uniform(std::log(0.001), std::log(0.1)))));
  }
  /// A = -(1, 2, …, N) for every channel.
  static void a_log(std::span<float> slice, const HeadShape&, Random&) {
    for (std::size_t i = 0; i < slice.size(); ++i)
      slice[i] = static_cast<float>(std::log(1.0 + static_cast<double>(i % Scan.d_state)));
  }
};

}  // namespace detail

/// A selective scan with a state of (d_state, d_head) per head, a short convolution before it and a gate
/// after it. Projected columns of one group: x of all its heads (queries · d_head) | z of all its heads.
template <ScanShape Shape = ScanShape{}, MambaPolicy Policy = MambaPolicy{}>
struct Mamba {
  static_assert(Shape.d_state >= 1,
                "recurformer: Mamba needs d_state >= 1; raise d_state in its rf::ScanShape");
  static_assert(Shape.d_conv >= 2, "recurformer: Mamba needs d_conv >= 2; raise d_conv in its rf::ScanShape");
  static_assert(Shape.dt_rank >= 0, "recurformer: Mamba needs dt_rank >= 0; 0 means ceil(d_head / 16)");

  static constexpr std::string_view name = Policy == standard_mamba ? "mamba_standard" : "mamba";
  static constexpr std::string_view module = "mamba";
  static constexpr std::string_view header = "recurformer/spec/mamba.hpp";
  static constexpr ScanShape scan = Shape;
  static constexpr MambaPolicy policy = Policy;
  static constexpr bool any_width = true;

  static std::string type_name() {
    if (Shape == ScanShape{} && Policy == MambaPolicy{}) return "rf::Mamba<>";
    return text("rf::Mamba<rf::ScanShape{.d_state = ", Shape.d_state, ", .d_conv = ", Shape.d_conv,
                ", .dt_rank = ", Shape.dt_rank,
                "}, rf::MambaPolicy{.activation = ", cpp_name(Policy.activation),
                ", .gate = ", cpp_name(Policy.gate), ", .bias = ", Policy.bias, "}>");
  }

  /// Width of δ.
  static constexpr int dt_rank(const HeadShape& shape) {
    return detail::mamba_dt_rank(Shape, Policy, shape.d_head);
  }
  /// Rows of x_proj: δ (dt_rank) | B (d_state) | C (d_state).
  static constexpr int x_proj_rows(const HeadShape& shape) { return dt_rank(shape) + 2 * Shape.d_state; }

  constexpr auto parameters(const HeadShape& shape) const {
    using Standard = detail::StandardMamba<Shape>;
    using Converted = detail::ConvertedMamba<Shape>;
    // A policy with biases is that of a converted head.
    constexpr bool converted = Policy.bias;
    const auto projection = [&](std::string_view called, Initialiser start) {
      return ParameterSpec{.name = called,
                           .role = Role::projection,
                           .unit = Unit::head,
                           .slice = slice_of(shape.d_head, shape.d_model),
                           .initialise = start};
    };
    const auto local = [](std::string_view called, SliceShape slice, Initialiser start, bool decay) {
      return ParameterSpec{
          .name = called, .unit = Unit::head, .slice = slice, .initialise = start, .weight_decay = decay};
    };
    const auto x = projection("in_proj_x.weight", initial::projection);
    const auto z =
        projection("in_proj_z.weight",
                   Policy.gate == Gate::two_sigmoid ? Initialiser(initial::zeros) : initial::projection);
    const auto conv_weight = local("conv1d.weight", slice_of(shape.d_head, Shape.d_conv),
                                   converted ? Converted::conv_weight : Standard::conv, false);
    const auto conv_bias = local("conv1d.bias", slice_of(shape.d_head),
                                 converted ? Initialiser(initial::zeros) : Standard::conv, false);
    const auto x_proj = local("x_proj.weight", slice_of(x_proj_rows(shape), shape.d_head),
                              converted ? Initialiser(initial::zeros) : Standard::x_proj_weight, true);
    const auto dt_weight =
        local("dt_proj.weight", slice_of(shape.d_head, dt_rank(shape)), Standard::dt_weight, true);
    const auto dt_bias = local("dt_proj.bias", slice_of(shape.d_head),
                               converted ? Converted::dt_bias : Standard::dt_bias, false);
    const auto a_log = local("A_log", slice_of(shape.d_head, Shape.d_state),
                             converted ? Converted::a_log : Standard::a_log, false);
    const auto skip = local("D", slice_of(shape.d_head), converted ? initial::zeros : initial::ones, false);
    if constexpr (Policy.bias) {
      const auto x_proj_bias =
          local("x_proj.bias", slice_of(x_proj_rows(shape)), Converted::x_proj_bias, false);
      return std::array{x, z, conv_weight, conv_bias, x_proj, x_proj_bias, dt_weight, dt_bias, a_log, skip};
    } else {
      return std::array{x, z, conv_weight, conv_bias, x_proj, dt_weight, dt_bias, a_log, skip};
    }
  }

  /// The last d_conv - 1 inputs of the convolution, oldest first, and the state of the scan, with channels
  /// innermost so that the CPU kernel reads them a vector at a time.
  constexpr std::array<CacheField, 2> cache_fields(const HeadShape& shape) const {
    return {CacheField{.name = "conv",
                       .kind = FieldKind::state,
                       .unit = Unit::head,
                       .slice = slice_of(Shape.d_conv - 1, shape.d_head)},
            CacheField{.name = "scan",
                       .kind = FieldKind::state,
                       .unit = Unit::head,
                       .slice = slice_of(Shape.d_state, shape.d_head)}};
  }
};

}  // namespace rf

#endif  // RECURFORMER_SPEC_MAMBA_HPP
