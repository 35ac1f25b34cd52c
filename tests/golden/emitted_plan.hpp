#ifndef EMITTED_PLAN_HPP
#define EMITTED_PLAN_HPP

// Written by emit_header() of recurformer; change the plan instead of this file.

#include <array>

#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/mamba.hpp"
#include "recurformer/spec/mamba2.hpp"
#include "recurformer/spec/model_spec.hpp"
#include "recurformer/spec/streaming_attention.hpp"

namespace emitted::test {

inline constexpr rf::LayerShape layer_shape{.d_model = 24, .d_head = 16, .kv_groups = 4,
    .queries_per_group = 2, .d_ff = 20, .norm_epsilon = 1e-06, .rope_base = 5e+05};

struct Layer0 {
  static constexpr rf::LayerShape shape = layer_shape;
  using Precision = rf::Fp32;
  using Runs = rf::Runs<rf::Run<2, rf::Attention<>, rf::Fp32>, rf::Run<2, rf::Mamba<>, rf::Fp32>>;
};

struct Layer1 {
  static constexpr rf::LayerShape shape = layer_shape;
  using Precision = rf::Fp32;
  using Runs = rf::Runs<rf::Run<2, rf::Attention<>, rf::Fp32>,
      rf::Run<1, rf::StreamingAttention<rf::StreamingWindow{.sink = 1, .window = 3}>, rf::Fp32>,
      rf::Run<1, rf::Mamba<>, rf::Fp32>>;
  static constexpr std::array order{1, 3, 0, 2};
};

struct Layer2 {
  static constexpr rf::LayerShape shape = layer_shape;
  using Precision = rf::Fp32;
  using Runs = rf::Runs<rf::Run<2, rf::Mamba2<>, rf::Bf16>, rf::Run<2, rf::Mamba<>, rf::Fp32>>;
  static constexpr std::array order{1, 3, 0, 2};
};

struct Model {
  static constexpr rf::ModelShape shape{.vocabulary = 13, .layers = 4, .layer = layer_shape,
      .tied_embeddings = true};
  using Layers = rf::Layers<Layer0, Layer1, Layer0, Layer2>;
};

}  // namespace emitted::test

#endif  // EMITTED_PLAN_HPP
