// Converted models and Mamba, small, against what `transformers` and plain PyTorch modules compute with them
// (examples/hybrid_in_transformers.py, tests/golden/make_models.py).

#include <doctest/doctest.h>

#include <set>
#include <string>

#include "recurformer/cpu/attention_mixer.hpp"
#include "recurformer/cpu/mamba2_mixer.hpp"
#include "recurformer/cpu/mamba_mixer.hpp"
#include "recurformer/model/linear_products.hpp"
#include "support/golden_model.hpp"
#include "support/temporary_folder.hpp"

namespace {

struct Spec {
  using Kinds = rf::Kinds<rf::Kind<rf::Attention<>, rf::Fp32>, rf::Kind<rf::StreamingAttention<>, rf::Fp32>,
                          rf::Kind<rf::Mamba<>, rf::Fp32>, rf::Kind<rf::Mamba2<>, rf::Fp32>,
                          rf::Kind<rf::Mamba<rf::ScanShape{}, rf::standard_mamba>, rf::Fp32>,
                          rf::Kind<rf::Attention<rf::AttentionPolicy{.qkv_bias = true}>, rf::Fp32>>;
  using Precision = rf::Fp32;
  using Widths = std::integer_sequence<int, 16>;
};
using Model = rf::Model<Spec>;
constexpr const char* names[] = {"hybrid_llama", "hybrid_qwen2", "hybrid_qwen3", "mamba", "mamba_wide"};

}  // namespace

TEST_CASE("golden hybrids: logits of attention, streaming, Mamba and Mamba2 heads in one layer") {
  for (const char* name : names) {
    CAPTURE(name);
    const golden::Expected expected(name);
    const auto logits = expected.values("logits");
    auto model = golden::load<Model>(name);
    const double tolerance = 1e-4 * golden::largest(logits);
    CHECK(golden::largest_difference(golden::cached_logits(model, expected.tokens), logits) <= tolerance);
    CHECK(golden::largest_difference(golden::uncached_logits(model, expected.tokens), logits) <= tolerance);
  }
}

TEST_CASE("golden hybrids: what is saved has the tensors that the Python loader reads") {
  for (const char* name : names) {
    CAPTURE(name);
    auto model = golden::load<Model>(name);
    const rf::test::TemporaryFolder folder;
    rf::save_model(model.weights(), rf::model_config(model), folder.path().string());
    const rf::SafetensorsFile read(golden::folder + name + "/model.safetensors");
    const rf::SafetensorsFile saved(folder / "model.safetensors");
    const auto sorted = [](const rf::SafetensorsFile& file) {
      const auto all = file.names();
      return std::set<std::string>(all.begin(), all.end());
    };
    CHECK(sorted(saved) == sorted(read));
    for (const rf::TensorEntry& entry : read.tensors()) {
      CAPTURE(entry.name);
      std::vector<float> before(entry.bytes.size() / 2), after(before.size());
      rf::read_tensor(read, entry.name, entry.shape, before.data());
      rf::read_tensor(saved, entry.name, entry.shape, after.data());
      CHECK(before == after);
    }
    // In the order of kinds in which this program has them.
    const rf::ModelConfig config = rf::read_model_config(golden::folder + name);
    const rf::ModelConfig again = rf::read_model_config(folder.path().string());
    CHECK(again.shape == config.shape);
    for (std::size_t layer = 0; layer < config.plan.kind_of_group.size(); ++layer)
      for (std::size_t group = 0; group < config.plan.kind_of_group[layer].size(); ++group) {
        const auto kind = [&](const rf::Plan& plan) {
          return plan.kinds[static_cast<std::size_t>(plan.kind_of_group[layer][group])];
        };
        CHECK(kind(again.plan).mixer == kind(config.plan).mixer);
        CHECK(kind(again.plan).options == kind(config.plan).options);
      }
  }
}
