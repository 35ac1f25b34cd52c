// expect: a layer spec needs `static constexpr rf::LayerShape shape
// expect: a layer spec needs `using Precision = rf::Bf16`
// expect: a layer spec needs `using Runs = rf::Runs<rf::Run<...>, ...>`
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/layer_spec.hpp"

using AttentionRuns = rf::Runs<rf::Run<2, rf::Attention<>, rf::Fp32>>;
constexpr rf::LayerShape layer_shape{.d_model = 32, .d_head = 16, .kv_groups = 2};

struct WithoutShape {
  using Precision = rf::Fp32;
  using Runs = AttentionRuns;
};
static_assert(rf::LayerSpec<WithoutShape>);

struct WithoutPrecision {
  static constexpr rf::LayerShape shape = layer_shape;
  using Runs = AttentionRuns;
};
static_assert(rf::LayerSpec<WithoutPrecision>);

struct WithoutRuns {
  static constexpr rf::LayerShape shape = layer_shape;
  using Precision = rf::Fp32;
};
static_assert(rf::LayerSpec<WithoutRuns>);
