// 01  A layer as a type: four attention heads and ten Mamba heads, in your own program.
//
//   g++ -std=c++20 -O2 -march=native -pthread -I include examples/01_layer.cpp -o 01_layer && ./01_layer
//
// A spec is a struct. It says at compile time how wide the layer is and which KV groups compute what, in
// which precision; the library instantiates kernels for exactly that, and refuses a spec that makes no sense
// with a sentence. Next: 02_tensors.cpp.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include "recurformer/model/reference_model.hpp"
#include "recurformer/recurformer.hpp"
#include "recurformer/reference/attention.hpp"
#include "recurformer/reference/mamba.hpp"

// README.md shows these lines as they stand here.
// clang-format off
struct MyLayer {  // Qwen2-0.5B's widths with MHA
  static constexpr rf::LayerShape shape{.d_model = 896, .d_head = 64, .kv_groups = 14, .queries_per_group = 1, .d_ff = 4864};
  using Precision = rf::Bf16;  // W_O, MLP
  using Runs = rf::Runs<rf::Run<4, rf::Attention<>, rf::Bf16>,
                        rf::Run<10, rf::Mamba<rf::ScanShape{.d_state = 16, .d_conv = 4}>, rf::Bf16>>;
};
// clang-format on

constexpr std::int64_t tokens = 9;

/// The residual stream of nine tokens: what a layer gets, and gives back.
rf::Tensor<float, rf::Dims<2>> random_rows() {
  rf::Tensor<float, rf::Dims<2>> x(rf::Dims<2>(tokens, MyLayer::shape.d_model));
  rf::Random random(2);
  for (float& value : x.view().span()) value = static_cast<float>(random.normal());
  return x;
}

/// The plain version: the layer's definition as naive loops in double (reference/), all tokens at once.
template <class Weights>
std::vector<double> plain(const Weights& weights) {
  const auto start = random_rows();
  std::vector<double> x(start.data(), start.data() + start.size());
  rf::reference::forward_layer(weights, MyLayer::shape, x);
  return x;
}

int main() {
  auto weights = rf::Layer<MyLayer>::make_weights();  // zeros; here go yours
  rf::initialise(weights, MyLayer::shape, 1);
  const std::vector<double> expected = plain(weights);

  rf::Layer<MyLayer> layer{std::move(weights)};
  rf::Cache cache = layer.make_cache();
  auto x = random_rows();
  layer.prefill(x.view().slice(0, 0, 8), cache);  // eight tokens at once, in place
  layer.decode(x.view().slice(0, 8, 9), cache);   // the ninth

  std::printf("%lld tokens, %lld bytes of cache\n", static_cast<long long>(cache.length()),
              static_cast<long long>(cache.bytes()));
  for (const rf::CacheItem& item : cache.items())
    std::printf("  %-16s %-6s %lld\n", item.kind.c_str(), item.field.c_str(),
                static_cast<long long>(item.bytes));

  // The check. Keys and values are stored in bf16, which has 8 bits: that is the difference.
  double worst = 0, scale = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    worst = std::max(worst, std::abs(static_cast<double>(x.data()[i]) - expected[i]));
    scale = std::max(scale, std::abs(expected[i]));
  }
  std::printf("largest difference from the definition: %.1e of %.1f\n", worst, scale);
  return worst < 4e-3 * scale ? 0 : 1;
}
