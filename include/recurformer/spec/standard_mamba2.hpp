#ifndef RECURFORMER_SPEC_STANDARD_MAMBA2_HPP
#define RECURFORMER_SPEC_STANDARD_MAMBA2_HPP

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "recurformer/core/error.hpp"
#include "recurformer/spec/mamba.hpp"
#include "recurformer/spec/mamba2.hpp"
#include "recurformer/spec/mixer.hpp"

namespace rf {

/// Sizes of standard Mamba-2.
struct SsdShape {
  int d_state = 128;  ///< N: a multiple of 16
  int d_conv = 4;     ///< taps of the causal convolution, the current token's included, at least 2

  friend constexpr bool operator==(const SsdShape&, const SsdShape&) = default;
};

/// A head of Mamba-2 as published (arXiv 2405.21060), of which Mamba2 is the variant that replaces attention.
/// A KV group is one of its groups: B and C are the group's; x, z, the step size Δ, the decay rate
/// a = -exp(A_log) and D are the heads' own.
///
///   x, B, C ← silu(conv(x, B, C) + bias)          causal, every channel by itself, d_conv taps
///   Δ_t = softplus(dt_t + dt_bias), within the layer's step_limits
///   s_t = e^{Δ_t a} s_{t-1} + Δ_t B_t x_tᵀ        (d_state, d_head)
///   out = (C_tᵀ s_t + D x_t) ∘ silu(z)            per head
///
/// The norm that follows is the layer's, as it goes across heads (LayerShape::heads_norm).
///
/// Projected columns of one group: z (queries · d_head) | x (queries · d_head) | B (d_state) | C (d_state) |
/// dt (queries).
template <SsdShape Shape = SsdShape{}>
struct StandardMamba2 {
  static_assert(Shape.d_state >= 16 && Shape.d_state % 16 == 0,
                "recurformer: StandardMamba2 needs a d_state that is a multiple of 16; change it in its "
                "rf::SsdShape");
  static_assert(Shape.d_conv >= 2,
                "recurformer: StandardMamba2 needs d_conv >= 2; raise d_conv in its rf::SsdShape");

  static constexpr std::string_view name = "mamba2_standard";
  static constexpr std::string_view module = "mamba2_standard";
  static constexpr std::string_view header = "recurformer/spec/standard_mamba2.hpp";
  static constexpr SsdShape ssd = Shape;

  static std::string type_name() {
    if (Shape == SsdShape{}) return "rf::StandardMamba2<>";
    return text("rf::StandardMamba2<rf::SsdShape{.d_state = ", Shape.d_state, ", .d_conv = ", Shape.d_conv,
                "}>");
  }

  /// Channels of one group's convolution: x | B | C.
  static constexpr std::int64_t channels(const HeadShape& shape) {
    return shape.group_width() + 2 * Shape.d_state;
  }

  constexpr std::array<ParameterSpec, 14> parameters(const HeadShape& shape) const {
    constexpr int taps = Shape.d_conv;
    constexpr Initialiser conv = detail::StandardMamba<ScanShape{.d_conv = taps}>::conv;
    const auto projection = [&](std::string_view called, Unit unit, std::int64_t rows) {
      return ParameterSpec{.name = called,
                           .role = Role::projection,
                           .unit = unit,
                           .slice = slice_of(rows, shape.d_model),
                           .initialise = initial::projection};
    };
    const auto local = [](std::string_view called, Unit unit, SliceShape slice, Initialiser start) {
      return ParameterSpec{
          .name = called, .unit = unit, .slice = slice, .initialise = start, .weight_decay = false};
    };
    return {projection("in_proj_z.weight", Unit::head, shape.d_head),
            projection("in_proj_x.weight", Unit::head, shape.d_head),
            projection("in_proj_b.weight", Unit::group, Shape.d_state),
            projection("in_proj_c.weight", Unit::group, Shape.d_state),
            projection("in_proj_dt.weight", Unit::head, 1),
            local("conv1d_x.weight", Unit::head, slice_of(shape.d_head, taps), conv),
            local("conv1d_b.weight", Unit::group, slice_of(Shape.d_state, taps), conv),
            local("conv1d_c.weight", Unit::group, slice_of(Shape.d_state, taps), conv),
            local("conv1d_x.bias", Unit::head, slice_of(shape.d_head), conv),
            local("conv1d_b.bias", Unit::group, slice_of(Shape.d_state), conv),
            local("conv1d_c.bias", Unit::group, slice_of(Shape.d_state), conv),
            local("dt_bias", Unit::head, slice_of(1), initial::mamba2_dt_bias),
            local("A_log", Unit::head, slice_of(1), initial::mamba2_a_log),
            local("D", Unit::head, slice_of(1), initial::ones)};
  }

  /// The last d_conv - 1 inputs of the convolution, oldest first, and the states.
  constexpr std::array<CacheField, 2> cache_fields(const HeadShape& shape) const {
    return {CacheField{.name = "conv",
                       .kind = FieldKind::state,
                       .unit = Unit::group,
                       .slice = slice_of(Shape.d_conv - 1, channels(shape))},
            CacheField{.name = "state",
                       .kind = FieldKind::state,
                       .unit = Unit::head,
                       .slice = slice_of(Shape.d_state, shape.d_head)}};
  }
};

}  // namespace rf

#endif  // RECURFORMER_SPEC_STANDARD_MAMBA2_HPP
