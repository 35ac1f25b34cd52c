// The small model of device_model_cases.hpp at the other widths of heads, whose blocks and tiles differ, and
// in half precision. Slow to compile: only with RECURFORMER_FULL_TESTS.

#include <doctest/doctest.h>

#include <string>

#include "model/device_model_cases.hpp"
#include "recurformer/cuda/simulated.hpp"

namespace {

template <int d_head, class P>
struct SpecOfWidth {
  using Kinds = rf::Kinds<rf::Kind<rf::Attention<>, P>, rf::Kind<rf::StreamingAttention<>, P>,
                          rf::Kind<rf::Mamba<>, P>, rf::Kind<rf::Mamba2<>, P>>;
  using Precision = P;
  using Widths = std::integer_sequence<int, d_head>;
};

template <int d_head, class P = rf::Bf16>
void check_width() {
  rf::Simulated device({.seed = d_head});
  const rf::ModelShape shape{
      .vocabulary = device_model::vocabulary,
      .layers = 1,
      .layer = {.d_model = 64, .d_head = d_head, .kv_groups = 4, .queries_per_group = 2, .d_ff = 40},
      .tied_embeddings = true};
  const std::string precision(P::name);
  const rf::Plan plan{.kinds = {{"attention", precision, {}},
                                {"streaming", precision, {{"sink", 2}, {"window", 5}}},
                                {"mamba", precision, {}},
                                {"mamba2", precision, {}}},
                      .kind_of_group = {{0, 2, 3, 1}}};
  using Spec = SpecOfWidth<d_head, P>;
  device_model::check_chunks<Spec>(device, device_model::random_weights<Spec>(shape, plan),
                                   {{39}, {30, 1, 7, 1}, {9, 9, 21}});
}

}  // namespace

TEST_CASE("device model, simulated: heads of width 32") { check_width<32>(); }
TEST_CASE("device model, simulated: heads of width 64") { check_width<64>(); }
TEST_CASE("device model, simulated: heads of width 128") { check_width<128>(); }
TEST_CASE("device model, simulated: half precision") { check_width<16, rf::Fp16>(); }
