// 05  A precision of your own: which number is stored in how many bits, run by run.
//
//   g++ -std=c++20 -O2 -march=native -pthread -I include examples/05_custom_precision.cpp -o
//   05_custom_precision
//   ./05_custom_precision
//
// A precision is a struct of types; every run of heads has one, the layer another. Arithmetic is in float, so
// a precision says what storing loses. Below: recurrent heads whose states are kept in 16 bits between calls,
// beside attention heads with keys and values in fp16 instead of bf16: as small, with three bits more of each
// number (and a range that ends at 65504). Next: 06_layer_in_your_loop.cpp.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string_view>
#include <vector>

#include "recurformer/cpu/attention_mixer.hpp"
#include "recurformer/cpu/mamba_mixer.hpp"
#include "recurformer/model/layer.hpp"
#include "recurformer/model/reference_model.hpp"
#include "recurformer/reference/attention.hpp"
#include "recurformer/reference/mamba.hpp"
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/mamba.hpp"

/// Weights as a bf16 checkpoint has them, keys and values in fp16.
struct HalfCache {
  using Weight = rf::bf16;
  using Cache = rf::fp16;
  using State = float;
  using Accumulator = float;
  static constexpr std::string_view name = "half_cache";  // in plans, files and messages
};
/// The same with states in bf16: half the bytes of a recurrent head.
struct SmallState : HalfCache {
  using State = rf::bf16;
  static constexpr std::string_view name = "small_state";
};

struct MyLayer {
  static constexpr rf::LayerShape shape{
      .d_model = 64, .d_head = 16, .kv_groups = 4, .queries_per_group = 2, .d_ff = 128};
  using Precision = rf::Bf16;  // W_O, MLP
  using Runs = rf::Runs<rf::Run<2, rf::Attention<>, HalfCache>, rf::Run<2, rf::Mamba<>, SmallState>>;
};
constexpr std::int64_t tokens = 24;
// Tokens of every call: what is remembered between calls is what is stored.
const std::vector<std::int64_t> calls = {16, 1, 1, 1, 5};

rf::Tensor<float, rf::Dims<2>> random_rows() {
  rf::Tensor<float, rf::Dims<2>> x(rf::Dims<2>(tokens, MyLayer::shape.d_model));
  rf::Random random(2);
  for (float& value : x.view().span()) value = static_cast<float>(random.normal());
  return x;
}

/// The plain version, in double. With `stored` it rounds what is remembered between the calls to the types of
/// the precisions, and nothing else; without, it rounds nothing.
template <class Weights>
std::vector<double> plain(const Weights& weights, bool stored) {
  const auto start = random_rows();
  std::vector<double> x(start.data(), start.data() + start.size());
  rf::reference::forward_layer(weights, MyLayer::shape, x, rf::reference::exact,
                               stored ? calls : std::vector<std::int64_t>());
  return x;
}

template <class A, class B>
double largest_difference(const std::vector<A>& a, const std::vector<B>& b) {
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    worst = std::max(worst, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  return worst;
}

int main() {
  auto weights = rf::Layer<MyLayer>::make_weights();
  rf::initialise(weights, MyLayer::shape, 1);
  const std::vector<double> exact = plain(weights, false), stored = plain(weights, true);

  rf::Layer<MyLayer> layer(std::move(weights));
  rf::Cache cache = layer.make_cache();
  auto x = random_rows();
  std::int64_t row = 0;
  for (const std::int64_t call : calls) {
    layer.prefill(x.view().slice(0, row, row + call), cache);
    row += call;
  }
  for (const rf::CacheItem& item : cache.items())
    std::printf("%-18s %-6s %6lld bytes\n", item.kind.c_str(), item.field.c_str(),
                static_cast<long long>(item.bytes));

  // The library's rule: at most twice as far from the exact result as the plain version in the same
  // precision.
  const std::vector<float> ours(x.data(), x.data() + x.size());
  const double error = largest_difference(ours, exact), allowed = 2 * largest_difference(stored, exact);
  std::printf("error %.1e, of a plain version in these precisions %.1e\n", error, allowed / 2);
  return error <= allowed + 1e-5 ? 0 : 1;
}
