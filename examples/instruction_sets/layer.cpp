// Compiled once per instruction set. All of the library is local to the set, and so are the layer's threads:
// what comes in and goes out is plain data.
#include "layer.hpp"

#include "recurformer/recurformer.hpp"

namespace {

struct HybridLayer {
  static constexpr rf::LayerShape shape{
      .d_model = layer_width, .d_head = 64, .kv_groups = 2, .queries_per_group = 1, .d_ff = 256};
  using Precision = rf::Fp32;
  using Runs = rf::Runs<rf::Run<1, rf::Attention<>, rf::Fp32>, rf::Run<1, rf::Mamba<>, rf::Fp32>>;
};

}  // namespace

template <rf::InstructionSet>
void forward_layer(std::span<float> x) {
  auto weights = rf::Layer<HybridLayer>::make_weights();
  rf::initialise(weights, HybridLayer::shape, 1);
  rf::Layer<HybridLayer> layer{std::move(weights)};
  rf::Cache cache = layer.make_cache();
  const auto rows = static_cast<std::int64_t>(x.size()) / layer_width;
  layer.prefill(rf::TensorView<float, rf::Dims<2>>(x.data(), rf::Dims<2>(rows, layer_width)), cache);
}

template void forward_layer<rf::compiled_instruction_set>(std::span<float>);
