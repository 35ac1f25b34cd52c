// What a program compiles that has one layer of its own (README.md), prefill and decode.
#include "recurformer/cuda/layer.cuh"

struct MyLayer {
  static constexpr rf::LayerShape shape{
      .d_model = 896, .d_head = 64, .kv_groups = 14, .queries_per_group = 1, .d_ff = 4864};
  using Precision = rf::Bf16;
  using Runs = rf::Runs<rf::Run<4, rf::Attention<>, rf::Bf16>,
                        rf::Run<10, rf::Mamba<rf::ScanShape{.d_state = 16, .d_conv = 4}>, rf::Bf16>>;
};

template class rf::DeviceLayer<MyLayer, rf::Cuda>;
