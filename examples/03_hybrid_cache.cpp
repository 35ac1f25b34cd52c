// 03  The hybrid cache: what decoding remembers, head by head.
//
//   g++ -std=c++20 -O2 -march=native -pthread -I include examples/03_hybrid_cache.cpp -o 03_hybrid_cache
//   ./03_hybrid_cache
//
// Attention heads remember keys and values of every token, windowed heads those of the latest, recurrent
// heads a state of constant size. The cache can be fed in pieces, kept and gone back to, and can take tokens
// back. Next: 04_custom_mixer.cpp.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include "recurformer/cpu/attention_mixer.hpp"
#include "recurformer/cpu/mamba_mixer.hpp"
#include "recurformer/model/layer.hpp"
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/mamba.hpp"
#include "recurformer/spec/streaming_attention.hpp"

struct Hybrid {
  static constexpr rf::LayerShape shape{
      .d_model = 64, .d_head = 16, .kv_groups = 4, .queries_per_group = 2, .d_ff = 128};
  using Precision = rf::Fp32;
  using Runs =
      rf::Runs<rf::Run<1, rf::Attention<>, rf::Fp32>,
               rf::Run<1, rf::StreamingAttention<rf::StreamingWindow{.sink = 4, .window = 60}>, rf::Fp32>,
               rf::Run<2, rf::Mamba<>, rf::Fp32>>;
};
using Rows = rf::Tensor<float, rf::Dims<2>>;

Rows random_rows(std::int64_t tokens) {
  Rows x(rf::Dims<2>(tokens, 64));
  rf::Random random(2);
  for (float& value : x.view().span()) value = static_cast<float>(random.normal());
  return x;
}

/// Feeds tokens [begin, end) of `in` and returns what the layer makes of the last one.
std::vector<float> feed(rf::Layer<Hybrid>& layer, rf::Cache& cache, const Rows& in, std::int64_t begin,
                        std::int64_t end) {
  Rows x = in.clone();  // the layer works in place
  layer.prefill(x.view().slice(0, begin, end), cache);
  const auto last = x.view().sub(end - 1).span();
  return {last.begin(), last.end()};
}

int mistakes = 0;
/// Pieces are computed by other kernels than the whole: equal up to rounding, not bit by bit.
void check_close(const char* what, const std::vector<float>& a, const std::vector<float>& b) {
  float worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
  std::printf("%-60s differs by %.1e\n", what, static_cast<double>(worst));
  mistakes += !(worst < 1e-4f);
}

int main() {
  auto weights = rf::Layer<Hybrid>::make_weights();
  rf::initialise(weights, Hybrid::shape, 1);
  rf::Layer<Hybrid> layer(std::move(weights));
  const Rows x = random_rows(300);

  // The plain version: all 300 tokens at once, from an empty cache.
  rf::Cache whole = layer.make_cache();
  const std::vector<float> expected = feed(layer, whole, x, 0, 300);

  // In chunks, as a long prompt is prefilled, and then one by one, as tokens are generated.
  rf::Cache cache = layer.make_cache({.max_rollback = 8});
  feed(layer, cache, x, 0, 128);
  feed(layer, cache, x, 128, 290);
  const rf::CacheSnapshot moment = cache.snapshot();  // cheap: pages are shared, rings and states copied
  std::vector<float> last;
  for (std::int64_t t = 290; t < 300; ++t) last = feed(layer, cache, x, t, t + 1);
  check_close("in chunks, then token by token", last, expected);

  // A snapshot is gone back to any number of times: one prefix, many continuations.
  cache.restore(moment);
  check_close("from the snapshot, ten tokens at once", feed(layer, cache, x, 290, 300), expected);

  // Speculative decoding: five guesses, four of them rejected. Attention forgets rows; a recurrent state
  // cannot run backwards, so the cache kept an earlier one and the inputs since.
  cache.restore(moment);
  feed(layer, cache, x, 290, 291);
  const Rows guesses = random_rows(20);
  feed(layer, cache, guesses, 0, 4);
  cache.rollback(4);
  check_close("four rejected tokens taken back", feed(layer, cache, x, 291, 300), expected);

  // Bytes are itemised, and are what is allocated. Only the attention heads' grow.
  std::printf("\n%-16s %-8s %10s %10s\n", "bytes of", "", "300 tokens", "64k tokens");
  const auto now = whole.items(), later = whole.layout().items(65536);
  for (std::size_t i = 0; i < now.size(); ++i)
    std::printf("%-16s %-8s %10lld %10lld\n", now[i].kind.c_str(), now[i].field.c_str(),
                static_cast<long long>(now[i].bytes), static_cast<long long>(later[i].bytes));
  for (const rf::CacheItem& item : later)
    if (item.kind != "attention:fp32") mistakes += item.bytes > 100000;
  return mistakes == 0 ? 0 : 1;
}
