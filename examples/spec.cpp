// The ten-line spec: a layer with four attention heads and ten Mamba heads, as a type, run in your own
// program.

#include <cstdio>

#include "recurformer/recurformer.hpp"

// README.md shows these lines as they stand here.
// clang-format off
struct MyLayer {  // Qwen2-0.5B's widths with MHA
  static constexpr rf::LayerShape shape{.d_model = 896, .d_head = 64, .kv_groups = 14, .queries_per_group = 1, .d_ff = 4864};
  using Precision = rf::Bf16;  // W_O, MLP
  using Runs = rf::Runs<rf::Run<4, rf::Attention<>, rf::Bf16>,
                        rf::Run<10, rf::Mamba<rf::ScanShape{.d_state = 16, .d_conv = 4}>, rf::Bf16>>;
};
// clang-format on

int main() {
  rf::Layer<MyLayer> layer{
      rf::Layer<MyLayer>::make_weights()};  // zeros here; fill layer.weights() with yours
  rf::Cache cache = layer.make_cache();
  rf::Tensor<float, rf::Dims<2>> x(rf::Dims<2>(100, 896));
  layer.prefill(x.view(), cache);                // 100 tokens at once
  layer.decode(x.view().slice(0, 0, 1), cache);  // the 101st
  std::printf("%lld tokens, %lld bytes of cache\n", static_cast<long long>(cache.length()),
              static_cast<long long>(cache.bytes()));
  for (const rf::CacheItem& item : cache.items())
    std::printf("  %-16s %-6s %lld\n", item.kind.c_str(), item.field.c_str(),
                static_cast<long long>(item.bytes));
}
