// Small checkpoints of Falcon-H1, against what `transformers` computes with them
// (tests/golden/make_models.py): three KV groups of Mamba heads share one B and C, or two pairs do; all
// multipliers differ from 1.

#include <doctest/doctest.h>

#include <cstddef>
#include <filesystem>
#include <set>
#include <string>
#include <utility>

#include "recurformer/cpu/attention_mixer.hpp"
#include "recurformer/cpu/standard_mamba2_mixer.hpp"
#include "recurformer/model/linear_products.hpp"
#include "support/error_message.hpp"
#include "support/golden_model.hpp"
#include "support/same_weights.hpp"
#include "support/temporary_folder.hpp"

namespace {

using rf::test::check_same_weights;
using rf::test::contains;
using rf::test::message_of;
using rf::test::TemporaryFolder;

template <class P>
struct Spec {
  using Kinds =
      rf::Kinds<rf::Kind<rf::Attention<>, P>, rf::Kind<rf::StandardMamba2<rf::SsdShape{.d_state = 16}>, P>>;
  using Precision = P;
  using Widths = std::integer_sequence<int, 16>;
};
template <class P>
using Model = rf::Model<Spec<P>>;

}  // namespace

TEST_CASE("golden Falcon-H1: fp32 logits") {
  for (const char* name : {"falcon_h1", "falcon_h1_tied"}) golden::check_logits<Model<rf::Fp32>>(name);
}

TEST_CASE("golden Falcon-H1: bf16 is at most twice as far from fp32 as PyTorch's") {
  for (const char* name : {"falcon_h1", "falcon_h1_tied"}) golden::check_bf16_logits<Model<rf::Bf16>>(name);
}

TEST_CASE("golden Falcon-H1: loss and all gradients, those of copies added up") {
  golden::check_gradients<Model<rf::Fp32>>("falcon_h1_tied");
}

TEST_CASE("golden Falcon-H1: weights of a mapped file are those of a read one") {
  for (const char* name : {"falcon_h1", "falcon_h1_tied"}) {
    CAPTURE(name);
    auto mapped = rf::load_model<Model<rf::Bf16>>(golden::folder + name);
    auto copied = golden::load<Model<rf::Bf16>>(name);
    check_same_weights(mapped, copied);
  }
}

TEST_CASE("golden Falcon-H1: what is saved is such a checkpoint, of the same model") {
  for (const std::string name : {"falcon_h1", "falcon_h1_tied"}) {
    CAPTURE(name);
    auto model = golden::load<Model<rf::Fp32>>(name);
    rf::ModelConfig config = rf::model_config(model);
    config.other = rf::read_model_config(golden::folder + name).other;
    const TemporaryFolder folder;
    rf::save_model(model.weights(), config, folder.path().string());
    auto again = rf::load_model<Model<rf::Fp32>>(folder.path().string());
    CHECK(again.shape() == model.shape());
    check_same_weights(again, model);

    const rf::SafetensorsFile read(golden::folder + name + "/model.safetensors"),
        saved(folder / "model.safetensors");
    const auto read_names = read.names(), saved_names = saved.names();
    CHECK(std::set(read_names.begin(), read_names.end()) == std::set(saved_names.begin(), saved_names.end()));
    const nlohmann::json written = nlohmann::json::parse(rf::read_text_file(folder / "config.json"));
    CHECK(written.at("mamba_n_groups") == (name == "falcon_h1" ? 3 : 4));
    CHECK(written.at("mamba_d_state") == 16);
    CHECK(!written.contains("recurformer"));
    for (const auto& [field, value] : written.items())
      CHECK(std::string(field).find("multiplier") == std::string::npos);
  }
}

TEST_CASE("golden Falcon-H1: the config beside the tensors says how they are read") {
  const TemporaryFolder folder;
  std::filesystem::copy(golden::folder + "falcon_h1", folder / "m");
  const nlohmann::json original = nlohmann::json::parse(rf::read_text_file(folder / "m/config.json"));
  auto model = golden::load<Model<rf::Fp32>>("falcon_h1");
  const auto load_with = [&](const char* field, const nlohmann::json& value) {
    nlohmann::json changed = original;
    changed[field] = value;
    rf::write_file_atomically(folder / "m/config.json", changed.dump());
    return message_of<rf::FileError>([&] { rf::load_weights(model.weights(), folder / "m"); });
  };
  CHECK(contains(load_with("mamba_n_groups", 3),
                 "tensor 'model.layers.0.mamba.in_proj.weight' has shape (230, 32); expected (294, 32)"));
  CHECK(contains(load_with("ssm_multipliers", {1, 2}),
                 "config.json: ssm_multipliers: found [1,2]; supported: 5"));
  CHECK(load_with("lm_head_multiplier", 0.8) == "no error");
  auto before = golden::load<Model<rf::Fp32>>("falcon_h1");
  for (std::size_t i = 0; i < model.weights().final_norm.size(); ++i)
    CHECK(model.weights().final_norm[i] == 2 * before.weights().final_norm[i]);
}
