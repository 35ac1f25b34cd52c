// The small model of device_model_cases.hpp at the other widths of heads, whose blocks and tiles differ. Slow
// to compile: only with RECURFORMER_FULL_TESTS.

#include <doctest/doctest.h>

#include "model/device_model_cases.hpp"
#include "recurformer/cuda/simulated.hpp"

namespace {

template <int d_head>
struct SpecOfWidth {
  using Kinds = device_model::Spec::Kinds;
  using Precision = rf::Bf16;
  using Widths = std::integer_sequence<int, d_head>;
};

template <int d_head>
void check_width() {
  rf::Simulated device({.seed = d_head});
  const rf::ModelShape shape{
      .vocabulary = device_model::vocabulary,
      .layers = 1,
      .layer = {.d_model = 64, .d_head = d_head, .kv_groups = 4, .queries_per_group = 2, .d_ff = 40},
      .tied_embeddings = true};
  const rf::Plan plan{.kinds = {{"attention", "bf16", {}},
                                {"streaming", "bf16", {{"sink", 2}, {"window", 5}}},
                                {"mamba", "bf16", {}},
                                {"mamba2", "bf16", {}}},
                      .kind_of_group = {{0, 2, 3, 1}}};
  using Spec = SpecOfWidth<d_head>;
  device_model::check_chunks<Spec>(device, device_model::random_weights<Spec>(shape, plan),
                                   {{39}, {30, 1, 7, 1}, {9, 9, 21}});
}

}  // namespace

TEST_CASE("device model, simulated: heads of width 32") { check_width<32>(); }
TEST_CASE("device model, simulated: heads of width 64") { check_width<64>(); }
TEST_CASE("device model, simulated: heads of width 128") { check_width<128>(); }
