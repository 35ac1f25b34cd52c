// expect: the static runs have more KV groups than shape.kv_groups; lower a run's count, or raise
// shape.kv_groups expect: a layer with dynamic runs cannot have an order; remove it expect: a run has a
// negative number of KV groups; write at least 1, or rf::dynamic
#include <array>

#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/layer_spec.hpp"
#include "recurformer/spec/mamba.hpp"

struct TooMany {
  static constexpr rf::LayerShape shape{.d_model = 32, .d_head = 16, .kv_groups = 2};
  using Precision = rf::Fp32;
  using Runs = rf::Runs<rf::Run<3, rf::Attention<>, rf::Fp32>, rf::Run<rf::dynamic, rf::Mamba<>, rf::Fp32>>;
};
static_assert(rf::LayerSpec<TooMany>);

struct Ordered {
  static constexpr rf::LayerShape shape{.d_model = 32, .d_head = 16, .kv_groups = 2};
  using Precision = rf::Fp32;
  using Runs = rf::Runs<rf::Run<rf::dynamic, rf::Attention<>, rf::Fp32>>;
  static constexpr std::array order{1, 0};
};
static_assert(rf::LayerSpec<Ordered>);

using Negative = rf::Run<-2, rf::Attention<>, rf::Fp32>;
constexpr auto groups = Negative::groups;
