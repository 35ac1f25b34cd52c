#ifndef RECURFORMER_SPEC_MAMBA2_HPP
#define RECURFORMER_SPEC_MAMBA2_HPP

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "recurformer/core/error.hpp"
#include "recurformer/math/activation.hpp"
#include "recurformer/spec/mixer.hpp"

namespace rf {

/// Choices of Mamba2 that change the kernel.
struct SsdPolicy {
  bool rope = false;  ///< rotary positions on q and k; the state itself does not depend on positions
  bool norm = false;  ///< RMSNorm over d_head, with a gain, on every head's output before the gate
  Gate gate = Gate::two_sigmoid;
  friend constexpr bool operator==(const SsdPolicy&, const SsdPolicy&) = default;
};

/// Added to the mean square under the root of Mamba2's output norm.
inline constexpr double ssd_norm_epsilon = 1e-5;

namespace initial {
/// The inverse softplus of a step size drawn log-uniformly from [0.001, 0.1], as in Mamba.
inline void mamba2_dt_bias(std::span<float> slice, const HeadShape&, Random& random) {
  for (float& value : slice) {
    const double step = std::exp(random.uniform(std::log(1e-3), std::log(1e-1)));
    value = static_cast<float>(inverse_softplus(step));
  }
}
/// log of a decay rate drawn uniformly from [1, 16], as in Mamba-2.
inline void mamba2_a_log(std::span<float> slice, const HeadShape&, Random& random) {
  for (float& value : slice) value = static_cast<float>(std::log(random.uniform(1.0, 16.0)));
}
/// 1/√d_head: with c0 = 1 a head starts with the weights 1 + q·k/√d_head, softmax to first order.
inline void mamba2_c1(std::span<float> slice, const HeadShape& shape, Random&) {
  for (float& value : slice) value = static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.d_head)));
}
}  // namespace initial

/// State space duality (Mamba-2, arXiv 2405.21060), one state per KV group: its query heads share k, v, the
/// step size Δ and the decay rate a = -exp(A_log).
///
///   Δ_t = softplus(dt_t + dt_bias)
///   s_t = e^{Δ_t a} s_{t-1} + Δ_t k_t v_tᵀ      (d_head, d_head)
///   r_t = e^{Δ_t a} r_{t-1} + Δ_t v_t           (d_head), the state of a key channel that is always 1
///   y = c0 r_t + c1 q_tᵀ s_t + D ∘ v_t,  out = norm(y) ∘ gate(z)      per query head
///
/// Projected columns of one group: q (queries · d_head) | k (d_head) | v (d_head) | z (queries · d_head) |
/// dt (1).
template <SsdPolicy Policy = SsdPolicy{}>
struct Mamba2 {
  static constexpr std::string_view name = "mamba2";
  static constexpr std::string_view module = "mamba2";
  static constexpr std::string_view header = "recurformer/spec/mamba2.hpp";
  static constexpr SsdPolicy policy = Policy;

  static std::string type_name() {
    if (Policy == SsdPolicy{}) return "rf::Mamba2<>";
    return text("rf::Mamba2<rf::SsdPolicy{.rope = ", Policy.rope, ", .norm = ", Policy.norm,
                ", .gate = ", cpp_name(Policy.gate), "}>");
  }

  constexpr auto parameters(const HeadShape& shape) const {
    constexpr auto projection = [](std::string_view tensor, Unit unit, std::int64_t rows,
                                   const HeadShape& s) {
      return ParameterSpec{.name = tensor,
                           .role = Role::projection,
                           .unit = unit,
                           .slice = slice_of(rows, s.d_model),
                           .initialise = initial::projection};
    };
    constexpr auto local = [](std::string_view tensor, Unit unit, std::int64_t size, Initialiser initialise) {
      return ParameterSpec{.name = tensor,
                           .role = Role::local,
                           .unit = unit,
                           .slice = slice_of(size),
                           .initialise = initialise,
                           .weight_decay = false};
    };
    const std::array common{projection("q_proj.weight", Unit::head, shape.d_head, shape),
                            projection("k_proj.weight", Unit::group, shape.d_head, shape),
                            projection("v_proj.weight", Unit::group, shape.d_head, shape),
                            projection("z_proj.weight", Unit::head, shape.d_head, shape),
                            projection("dt_proj.weight", Unit::group, 1, shape),
                            local("dt_bias", Unit::group, 1, initial::mamba2_dt_bias),
                            local("A_log", Unit::group, 1, initial::mamba2_a_log),
                            local("c0", Unit::head, 1, initial::ones),
                            local("c1", Unit::head, 1, initial::mamba2_c1),
                            local("D", Unit::head, shape.d_head, initial::ones)};
    if constexpr (Policy.norm) {
      std::array<ParameterSpec, common.size() + 1> all{};
      for (std::size_t i = 0; i < common.size(); ++i) all[i] = common[i];
      all.back() = local("norm.weight", Unit::head, shape.d_head, initial::ones);
      return all;
    } else {
      return common;
    }
  }

  /// d_head rows of s, then r.
  constexpr std::array<CacheField, 1> cache_fields(const HeadShape& shape) const {
    return {CacheField{.name = "state",
                       .kind = FieldKind::state,
                       .unit = Unit::group,
                       .slice = slice_of(shape.d_head + 1, shape.d_head)}};
  }
};

}  // namespace rf

#endif  // RECURFORMER_SPEC_MAMBA2_HPP
