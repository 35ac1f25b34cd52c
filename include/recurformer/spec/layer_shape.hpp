#ifndef RECURFORMER_SPEC_LAYER_SHAPE_HPP
#define RECURFORMER_SPEC_LAYER_SHAPE_HPP

#include <array>
#include <limits>
#include <utility>

#include "recurformer/core/error.hpp"
#include "recurformer/math/rope_scaling.hpp"

namespace rf {

/// Head widths that the kernels are written for.
inline constexpr std::array<int, 7> supported_d_head = {16, 32, 64, 80, 96, 128, 256};

/// True if kernels exist for heads of this width.
constexpr bool is_supported_d_head(int d_head) {
  for (const int width : supported_d_head)
    if (width == d_head) return true;
  return false;
}

/// Mamba's heads may also be any multiple of this wide, up to the limit: their kernels are not instantiated
/// by width. A checkpoint of Mamba is one such head per layer.
inline constexpr int mamba_width_step = 16, mamba_width_limit = 1 << 16;
constexpr bool is_mamba_width(int d_head) {
  return d_head >= mamba_width_step && d_head <= mamba_width_limit && d_head % mamba_width_step == 0;
}

/// supported_d_head as a type, for kernels to be instantiated for. A program that needs fewer names fewer.
using AllWidths = std::integer_sequence<int, 16, 32, 64, 80, 96, 128, 256>;

/// What the step sizes Δ of standard Mamba-2 are kept within.
struct StepLimits {
  double least = 0;
  double most = std::numeric_limits<double>::infinity();

  friend constexpr bool operator==(const StepLimits&, const StepLimits&) = default;
};

/// What a mixer needs to know of its layer: everything is per KV group.
struct HeadShape {
  int d_model = 0;            ///< width of the layer's input
  int d_head = 0;             ///< width of one head
  int queries_per_group = 1;  ///< query heads that share one key/value head
  double rope_base = 10000.0;
  RopeScaling rope_scaling = {};
  bool qk_norm = false;        ///< queries and keys go through the layer's norms before they turn
  double norm_epsilon = 1e-5;  ///< of these norms
  StepLimits step_limits = {};

  /// Columns of the head outputs that one group owns.
  constexpr int group_width() const { return queries_per_group * d_head; }
};

/// The sizes of one layer (Llama family block).
struct LayerShape {
  int d_model = 0;            ///< residual stream
  int d_head = 0;             ///< one of supported_d_head; for Mamba heads alone, a multiple of 16
  int kv_groups = 0;          ///< key/value heads before any head was replaced
  int queries_per_group = 1;  ///< GQA: query heads per key/value head; 1 is MHA
  int d_ff = 0;               ///< MLP; 0 for a layer without one
  double norm_epsilon = 1e-5;
  double rope_base = 10000.0;
  RopeScaling rope_scaling = {};  ///< of the rotary frequencies, for contexts longer than pretraining's
  bool qk_norm = false;  ///< Qwen3: RMSNorm over d_head of every query and key, with gains of the layer
  bool heads_norm = false;  ///< Mamba-2: RMSNorm, with a gain, over the outputs of all heads together
  StepLimits step_limits = {};

  constexpr int heads() const { return kv_groups * queries_per_group; }
  /// Width of the concatenated head outputs, the input of W_O.
  constexpr int heads_width() const { return heads() * d_head; }
  constexpr HeadShape head_shape() const {
    return {.d_model = d_model,
            .d_head = d_head,
            .queries_per_group = queries_per_group,
            .rope_base = rope_base,
            .rope_scaling = rope_scaling,
            .qk_norm = qk_norm,
            .norm_epsilon = norm_epsilon,
            .step_limits = step_limits};
  }
  friend constexpr bool operator==(const LayerShape&, const LayerShape&) = default;
};

/// Throws ArgumentError, naming the field, unless the shape can be computed with.
inline void validate(const LayerShape& shape) {
  check(shape.d_model >= 1, "d_model is ", shape.d_model, "; it must be at least 1");
  check(is_mamba_width(shape.d_head), "d_head is ", shape.d_head,
        "; kernels exist for 16, 32, 64, 80, 96, 128 and 256, and Mamba's for other multiples of 16 up to ",
        mamba_width_limit);
  check(shape.kv_groups >= 1, "kv_groups is ", shape.kv_groups, "; it must be at least 1");
  check(shape.queries_per_group >= 1, "queries_per_group is ", shape.queries_per_group,
        "; it must be at least 1");
  check(shape.d_ff >= 0, "d_ff is ", shape.d_ff, "; it must be positive, or 0 for a layer without an MLP");
  check(shape.norm_epsilon > 0, "norm_epsilon is ", shape.norm_epsilon, "; it must be positive");
  check(shape.rope_base > 1, "rope_base is ", shape.rope_base, "; it must be larger than 1");
  validate(shape.rope_scaling);
  const StepLimits& limits = shape.step_limits;
  check(limits.least >= 0 && limits.least < limits.most, "step_limits are ", limits.least, " and ",
        limits.most, "; the first must be at least 0, and less than the second");
}

}  // namespace rf

#endif  // RECURFORMER_SPEC_LAYER_SHAPE_HPP
