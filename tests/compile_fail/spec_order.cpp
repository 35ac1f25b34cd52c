// expect: order must name every KV group from 0 to kv_groups - 1 exactly once
#include <array>

#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/layer_spec.hpp"

struct MyLayer {
  static constexpr rf::LayerShape shape{.d_model = 96, .d_head = 32, .kv_groups = 3, .d_ff = 256};
  using Precision = rf::Fp32;
  using Runs = rf::Runs<rf::Run<3, rf::Attention<>, rf::Fp32>>;
  static constexpr std::array order{0, 1, 1};
};
static_assert(rf::LayerSpec<MyLayer>);
