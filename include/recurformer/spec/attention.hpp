#ifndef RECURFORMER_SPEC_ATTENTION_HPP
#define RECURFORMER_SPEC_ATTENTION_HPP

#include <array>
#include <string>
#include <string_view>

#include "recurformer/core/error.hpp"
#include "recurformer/math/attention_mask.hpp"
#include "recurformer/spec/mixer.hpp"

namespace rf {

/// Choices of attention that change the kernel.
struct AttentionPolicy {
  bool qkv_bias = false;  ///< Qwen2: biases on the query, key and value projections
  friend constexpr bool operator==(const AttentionPolicy&, const AttentionPolicy&) = default;
};

namespace detail {

/// Parameters of every attention mixer, in the order of the projected columns of one group:
/// q (queries · d_head) | k (d_head) | v (d_head).
template <AttentionPolicy Policy>
constexpr auto attention_parameters(const HeadShape& shape) {
  constexpr auto projection = [](std::string_view name, Unit unit, const HeadShape& s) {
    return ParameterSpec{.name = name,
                         .role = Role::projection,
                         .unit = unit,
                         .slice = slice_of(s.d_head, s.d_model),
                         .initialise = initial::projection};
  };
  constexpr auto bias = [](std::string_view name, Unit unit, const HeadShape& s) {
    return ParameterSpec{.name = name,
                         .role = Role::projection_bias,
                         .unit = unit,
                         .slice = slice_of(s.d_head),
                         .initialise = initial::zeros,
                         .weight_decay = false};
  };
  const auto q = projection("q_proj.weight", Unit::head, shape);
  const auto k = projection("k_proj.weight", Unit::group, shape);
  const auto v = projection("v_proj.weight", Unit::group, shape);
  if constexpr (Policy.qkv_bias)
    return std::array{q, bias("q_proj.bias", Unit::head, shape), k, bias("k_proj.bias", Unit::group, shape),
                      v, bias("v_proj.bias", Unit::group, shape)};
  else
    return std::array{q, k, v};
}

/// The policy as a template argument, nothing for the default.
constexpr std::string_view policy_text(const AttentionPolicy& policy) {
  return policy.qkv_bias ? "rf::AttentionPolicy{.qkv_bias = true}" : "";
}

}  // namespace detail

/// Causal softmax attention, softmax(q kᵀ / √d_head) v, with rotary positions on q and k. MHA, GQA and MQA
/// are shapes of the layer (queries_per_group, kv_groups), not of the mixer.
template <AttentionPolicy Policy = AttentionPolicy{}>
struct Attention {
  static constexpr std::string_view name = Policy.qkv_bias ? "attention_qkv_bias" : "attention";
  static constexpr std::string_view module = "self_attn";
  static constexpr std::string_view header = "recurformer/spec/attention.hpp";
  static constexpr AttentionPolicy policy = Policy;

  static std::string type_name() { return text("rf::Attention<", detail::policy_text(Policy), ">"); }

  constexpr auto parameters(const HeadShape& shape) const {
    return detail::attention_parameters<Policy>(shape);
  }

  /// Every earlier token is seen.
  static constexpr AttentionMask mask() { return {}; }

  /// Rotated keys, and values: every row kept.
  constexpr std::array<CacheField, 2> cache_fields(const HeadShape& shape) const {
    const auto field = [&](std::string_view called, std::string_view scales) {
      return CacheField{
          .name = called, .kind = FieldKind::rows, .slice = slice_of(shape.d_head), .scales = scales};
    };
    return {field("key", "key_scale"), field("value", "value_scale")};
  }
};

/// True if heads of mixer M have exactly the tensors of attention heads, so that replacing one needs no new
/// weights.
template <Mixer M>
inline constexpr bool reuses_attention_weights = M::module == Attention<>::module;

}  // namespace rf

#endif  // RECURFORMER_SPEC_ATTENTION_HPP
