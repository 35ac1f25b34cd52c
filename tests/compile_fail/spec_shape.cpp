// expect: d_model must be at least 1; set it to the width of the residual stream
// expect: kv_groups must be at least 1; set it to the number of key/value heads
// expect: queries_per_group must be at least 1; 1 is MHA, more is GQA
// expect: d_ff must not be negative; write 0 for a layer without an MLP
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/layer_spec.hpp"

template <int DModel, int KvGroups, int Queries, int DFf>
struct MyLayer {
  static constexpr rf::LayerShape shape{
      .d_model = DModel, .d_head = 16, .kv_groups = KvGroups, .queries_per_group = Queries, .d_ff = DFf};
  using Precision = rf::Fp32;
  using Runs = rf::Runs<rf::Run<2, rf::Attention<>, rf::Fp32>>;
};
static_assert(rf::LayerSpec<MyLayer<0, 2, 1, 8>>);
static_assert(rf::LayerSpec<MyLayer<32, 0, 1, 8>>);
static_assert(rf::LayerSpec<MyLayer<32, 2, 0, 8>>);
static_assert(rf::LayerSpec<MyLayer<32, 2, 1, -8>>);
