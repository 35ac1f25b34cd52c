// expect: the runs' KV groups must add up to shape.kv_groups
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/layer_spec.hpp"
#include "recurformer/spec/mamba.hpp"

struct MyLayer {
  static constexpr rf::LayerShape shape{.d_model = 96, .d_head = 32, .kv_groups = 3, .d_ff = 256};
  using Precision = rf::Fp32;
  using Runs = rf::Runs<rf::Run<2, rf::Attention<>, rf::Fp32>, rf::Run<2, rf::Mamba<>, rf::Fp32>>;
};
static_assert(rf::LayerSpec<MyLayer>);
