// expect: d_head must be one of 16, 32, 64, 80, 96, 128, 256
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/layer_spec.hpp"

struct MyLayer {
  static constexpr rf::LayerShape shape{.d_model = 96, .d_head = 48, .kv_groups = 2, .d_ff = 256};
  using Precision = rf::Fp32;
  using Runs = rf::Runs<rf::Run<2, rf::Attention<>, rf::Fp32>>;
};
static_assert(rf::LayerSpec<MyLayer>);
