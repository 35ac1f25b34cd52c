// The analysis of wider heads, whose attention Hopper computes by a kernel of its own (pages) or by that of
// all GPUs (rings). Slow to compile: only with RECURFORMER_FULL_TESTS.

#include <doctest/doctest.h>

#include <utility>

#include "plan/device_analysis_cases.hpp"
#include "recurformer/cpu/attention_mixer.hpp"
#include "recurformer/model/model.hpp"
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/streaming_attention.hpp"

namespace {

template <class P>
struct WideHeads {
  using Kinds = rf::Kinds<rf::Kind<rf::Attention<>, P>, rf::Kind<rf::StreamingAttention<>, P>>;
  using Precision = P;
  using Widths = std::integer_sequence<int, 64>;
};

}  // namespace

TEST_CASE("analysis on a device: heads of width 64, more than a tile of keys") {
  constexpr rf::ModelShape shape{
      .vocabulary = device_model::vocabulary,
      .layers = 2,
      .layer = {.d_model = 24, .d_head = 64, .kv_groups = 2, .queries_per_group = 2, .d_ff = 40},
      .tied_embeddings = true};
  const rf::Plan plan{
      .kinds = {{"attention", "bf16", {}}, {"streaming", "bf16", {{"sink", 2}, {"window", 20}}}},
      .kind_of_group = {{0, 1}, {0, 0}}};
  rf::Simulated device({.seed = 64});
  device_analysis::check_analysis<WideHeads<rf::Bf16>, rf::Model<WideHeads<rf::Fp32>>>(
      device, shape, plan, {.window = 16, .sink = 2}, 150);
}
