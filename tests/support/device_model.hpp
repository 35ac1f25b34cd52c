#ifndef TESTS_SUPPORT_DEVICE_MODEL_HPP
#define TESTS_SUPPORT_DEVICE_MODEL_HPP

// A small hybrid model for a device, with all four mixers in every layer, and random tokens for it. Its spec
// also names the kinds of heads with biases, which share the kernels of those without.

#include <array>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "recurformer/model/device_layer.hpp"
#include "recurformer/model/device_model.hpp"
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/mamba.hpp"
#include "recurformer/spec/mamba2.hpp"
#include "recurformer/spec/streaming_attention.hpp"

namespace device_model {

inline constexpr rf::AttentionPolicy qkv_bias{.qkv_bias = true};

struct Spec {
  using Kinds = rf::Kinds<rf::Kind<rf::Attention<>, rf::Bf16>, rf::Kind<rf::StreamingAttention<>, rf::Bf16>,
                          rf::Kind<rf::Mamba<>, rf::Bf16>, rf::Kind<rf::Mamba2<>, rf::Bf16>,
                          rf::Kind<rf::Attention<qkv_bias>, rf::Bf16>,
                          rf::Kind<rf::StreamingAttention<rf::StreamingWindow{}, qkv_bias>, rf::Bf16>>;
  using Precision = rf::Bf16;
  using Widths = std::integer_sequence<int, 16>;
};
using Weights = rf::ModelWeights<Spec::Kinds, Spec::Precision>;

inline constexpr int vocabulary = 40;

/// Weights every one of which differs from zero.
template <class SpecType>
rf::ModelWeights<typename SpecType::Kinds, typename SpecType::Precision> random_weights(
    const rf::ModelShape& shape, const rf::Plan& plan) {
  rf::ModelWeights<typename SpecType::Kinds, typename SpecType::Precision> out(
      shape, rf::bind_plan<typename SpecType::Kinds>(plan));
  rf::initialise(out, 1);
  rf::Random random(101);
  for (const auto& parameter : rf::parameter_refs(out))
    for (std::int64_t i = 0; i < parameter.size; ++i) {
      const auto moved = [&](auto& value) {
        value = rf::convert<std::remove_reference_t<decltype(value)>>(
            rf::convert<float>(value) + static_cast<float>(0.05 * random.normal()));
      };
      if (parameter.dtype == rf::DType::F32)
        moved(static_cast<float*>(parameter.data)[i]);
      else if (parameter.dtype == rf::DType::F16)
        moved(static_cast<rf::fp16*>(parameter.data)[i]);
      else
        moved(static_cast<rf::bf16*>(parameter.data)[i]);
    }
  return out;
}

inline constexpr rf::ModelShape host_shape{
    .vocabulary = vocabulary,
    .layers = 2,
    .layer = {.d_model = 24, .d_head = 16, .kv_groups = 4, .queries_per_group = 2, .d_ff = 40},
    .tied_embeddings = true};
inline const rf::Plan host_plan{.kinds = {{"attention", "bf16", {}},
                                          {"streaming", "bf16", {{"sink", 2}, {"window", 5}}},
                                          {"mamba", "bf16", {}},
                                          {"mamba2", "bf16", {}}},
                                .kind_of_group = {{0, 2, 3, 1}, {3, 0, 1, 2}}};

/// One layer of it for a program of its own, one group of each kind.
struct OneLayer {
  static constexpr rf::LayerShape shape = host_shape.layer;
  using Precision = rf::Bf16;
  using Runs = rf::Runs<rf::Run<1, rf::Attention<>, rf::Bf16>, rf::Run<1, rf::StreamingAttention<>, rf::Bf16>,
                        rf::Run<1, rf::Mamba<>, rf::Bf16>, rf::Run<1, rf::Mamba2<>, rf::Bf16>>;
  static constexpr std::array order{2, 0, 3, 1};
};

inline Weights host_weights() { return random_weights<Spec>(host_shape, host_plan); }

inline std::vector<rf::Token> random_tokens(std::int64_t count, std::uint64_t seed) {
  rf::Random random(seed);
  std::vector<rf::Token> out;
  for (std::int64_t i = 0; i < count; ++i) out.push_back(static_cast<rf::Token>(random.below(vocabulary)));
  return out;
}

}  // namespace device_model

#endif  // TESTS_SUPPORT_DEVICE_MODEL_HPP
