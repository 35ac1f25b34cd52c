#include "recurformer/plan/convert_files.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "../support/error_message.hpp"
#include "../support/same_weights.hpp"
#include "../support/temporary_folder.hpp"
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/mamba.hpp"
#include "recurformer/spec/streaming_attention.hpp"

namespace {

using rf::test::check_same_weights;
using rf::test::contains;
using rf::test::message_of;
using rf::test::TemporaryFolder;

/// The set that a command line names; P plays no part in converting files.
template <class P>
using SetIn =
    rf::Kinds<rf::Kind<rf::Attention<>, P>, rf::Kind<rf::StreamingAttention<>, P>, rf::Kind<rf::Mamba<>, P>>;
using Set = SetIn<rf::Fp32>;

/// A model as far as conversion and files see it: no kernels.
template <class P>
class Weights {
 public:
  using Precision = P;

  Weights(const rf::ModelShape& shape, const rf::Plan& plan)
      : plan_(rf::bind_plan<SetIn<P>>(plan)), weights_(shape, plan_) {}
  const rf::ModelShape& shape() const { return weights_.shape; }
  rf::Plan named_plan() const { return rf::named_plan(plan_); }
  auto& weights() { return weights_; }

 private:
  rf::BoundPlan<SetIn<P>> plan_;
  rf::ModelWeights<SetIn<P>, P> weights_;
};

rf::ModelShape shape(bool tied) {
  return {.vocabulary = 30,
          .layers = 3,
          .layer = {.d_model = 24, .d_head = 16, .kv_groups = 2, .queries_per_group = 2, .d_ff = 20},
          .tied_embeddings = tied};
}

/// Layer 1 stays as it is.
rf::Plan plan_with(const std::string& mixer, const std::string& precision) {
  return {.kinds = {{"attention", precision, {}}, {mixer, precision, {}}},
          .kind_of_group = {{0, 1}, {0, 0}, {1, 1}}};
}

rf::ModelProfiles profiles() {
  rf::DistanceProfile profile;
  for (int lag = 0; lag < 64; ++lag) {
    profile.lag.push_back(lag);
    profile.lags.push_back(1);
    profile.probability.push_back(std::exp(-0.3 * lag) * (1 - std::exp(-0.3)));
  }
  return rf::ModelProfiles(3, std::vector<rf::DistanceProfile>(4, profile));
}

/// An attention model with config fields of its own, in a folder.
template <class P>
Weights<P> write_original(const std::string& folder, bool tied = true) {
  Weights<P> model(shape(tied), rf::uniform_plan({"attention", std::string(P::name), {}}, 3, 2));
  rf::initialise(model.weights(), 5);
  rf::ModelConfig config = rf::model_config(model);
  config.max_positions = 77;
  config.other["eos_token_id"] = 3;
  rf::save_model(model.weights(), config, folder);
  return model;
}

/// Converts in memory and from folder to folder.
template <class P>
void check_same(const std::string& mixer, bool tied) {
  const TemporaryFolder folder;
  auto original = write_original<P>(folder / "original", tied);
  const rf::Plan plan = plan_with(mixer, std::string(P::name));
  auto expected = rf::convert_model(original, plan, profiles(), 9);
  rf::convert_files<Set>(folder / "original", plan_with(mixer, "fp32"), profiles(), 9, folder / "converted");

  const rf::ModelConfig config = rf::read_model_config(folder / "converted");
  CHECK(config.plan == rf::without_unused_kinds(rf::model_config(expected).plan));
  CHECK(config.max_positions == 77);
  CHECK(config.other.at("eos_token_id") == 3);
  Weights<P> found(config.shape, config.plan);
  rf::load_weights(found.weights(), folder / "converted");
  check_same_weights(found, expected);

  rf::save_model(expected.weights(), config, folder / "saved");
  CHECK(rf::read_text_file(folder / "converted/model.safetensors") ==
        rf::read_text_file(folder / "saved/model.safetensors"));
}

}  // namespace

TEST_CASE("files are converted to what converting in memory and saving writes") {
  for (const char* mixer : {"mamba", "streaming"}) {
    CAPTURE(mixer);
    check_same<rf::Fp32>(mixer, true);
    check_same<rf::Bf16>(mixer, false);
  }
}

TEST_CASE("tensors that stay keep the bytes they have in the file") {
  const TemporaryFolder folder;
  write_original<rf::Bf16>(folder / "original");
  // As other programs write bf16 models: norms in bf16 too.
  const rf::SafetensorsFile original(folder / "original/model.safetensors");
  rf::SafetensorsWriter writer;
  std::vector<std::vector<rf::bf16>> narrow;
  for (const rf::TensorEntry& tensor : original.tensors())
    if (tensor.dtype == rf::DType::F32) {
      auto& values = narrow.emplace_back(static_cast<std::size_t>(tensor.shape[0]));
      rf::detail::copy_converted<float>(tensor.bytes, values.data());
      writer.add(tensor.name, rf::DType::BF16, tensor.shape, std::as_bytes(std::span(values)));
    } else {
      writer.add(tensor.name, tensor.dtype, tensor.shape, tensor.bytes);
    }
  std::filesystem::create_directory(folder / "other");
  writer.write(folder / "other/model.safetensors");
  std::filesystem::copy_file(folder / "original/config.json", folder / "other/config.json");

  rf::convert_files<Set>(folder / "other", plan_with("mamba", "fp32"), profiles(), 0, folder / "converted");
  const rf::SafetensorsFile before(folder / "other/model.safetensors"),
      after(folder / "converted/model.safetensors");
  for (const rf::TensorEntry& tensor : before.tensors()) {
    const std::string& name = tensor.name;
    if (contains(name, "layers.0.self_attn.o_proj") || contains(name, "layers.1.") ||
        contains(name, "norm")) {
      CAPTURE(name);
      CHECK(after.tensor(name).dtype == rf::DType::BF16);
      CHECK(std::memcmp(after.tensor(name).bytes.data(), tensor.bytes.data(), tensor.bytes.size()) == 0);
    }
  }
  CHECK(!after.contains("model.layers.2.self_attn.q_proj.weight"));
  CHECK(after.tensor("model.layers.0.self_attn.q_proj.weight").shape == std::vector<std::int64_t>{32, 24});
}

TEST_CASE("a model in several files becomes one in one file") {
  const TemporaryFolder folder;
  write_original<rf::Fp32>(folder / "m");
  const rf::SafetensorsFile whole(folder / "m/model.safetensors");
  rf::SafetensorsWriter parts[2];
  nlohmann::json index;
  for (const rf::TensorEntry& tensor : whole.tensors()) {
    const std::size_t part = contains(tensor.name, "layers.2.") ? 1 : 0;
    parts[part].add(tensor.name, tensor.dtype, tensor.shape, tensor.bytes);
    index["weight_map"][tensor.name] = part == 0 ? "a.safetensors" : "b.safetensors";
  }
  std::filesystem::create_directory(folder / "parts");
  parts[0].write(folder / "parts/a.safetensors");
  parts[1].write(folder / "parts/b.safetensors");
  folder.write("parts/model.safetensors.index.json", index.dump());
  std::filesystem::copy_file(folder / "m/config.json", folder / "parts/config.json");
  for (const std::string name : {"m", "parts"})
    rf::convert_files<Set>(folder / name, plan_with("mamba", "fp32"), profiles(), 0,
                           folder / (name + "_out"));
  CHECK(rf::read_text_file(folder / "m_out/model.safetensors") ==
        rf::read_text_file(folder / "parts_out/model.safetensors"));
}

TEST_CASE("a folder can be converted into itself, and to the plan it has") {
  const TemporaryFolder folder;
  write_original<rf::Fp32>(folder / "m");
  const std::string before = rf::read_text_file(folder / "m/model.safetensors");
  rf::convert_files<Set>(folder / "m", rf::uniform_plan({"attention", "fp32", {}}, 3, 2), {}, 0,
                         folder / "m");
  CHECK(rf::read_text_file(folder / "m/model.safetensors") == before);
  rf::convert_files<Set>(folder / "m", plan_with("mamba", "fp32"), profiles(), 0, folder / "m");
  CHECK(rf::read_model_config(folder / "m").plan.kinds.size() == 2);
}

TEST_CASE("conversion says what it needs, and what is wrong with files and plans") {
  const TemporaryFolder folder;
  write_original<rf::Bf16>(folder / "m");
  const rf::ModelConfig config = rf::read_model_config(folder / "m");
  const std::int64_t nothing = rf::conversion_memory<Set>(config, config.plan);
  CHECK(nothing == 0);
  const auto mamba = rf::bind_plan<SetIn<rf::Bf16>>(plan_with("mamba", "bf16"));
  const rf::HeadShape heads = config.shape.layer.head_shape();
  CHECK(rf::conversion_memory<Set>(config, plan_with("mamba", "fp32")) >
        2 * (rf::detail::mixer_parameter_count(heads, mamba, 0) +
             rf::detail::mixer_parameter_count(heads, mamba, 2)));

  const auto error = [&](const rf::Plan& plan) {
    return message_of<rf::ArgumentError>(
        [&] { rf::convert_files<Set>(folder / "m", plan, profiles(), 0, folder / "x"); });
  };
  CHECK(contains(error(plan_with("unknown", "fp32")), "no kernels for \"unknown:bf16\""));
  CHECK(contains(error(rf::uniform_plan({"attention", "fp32", {}}, 2, 2)), "the plan has 2 layers"));
  rf::Plan mixed = plan_with("mamba", "fp32");
  mixed.kinds[1].precision = "bf16";
  CHECK(contains(error(mixed), "kinds of the precisions fp32 and bf16"));
  CHECK(contains(message_of<rf::ArgumentError>([&] {
                   rf::convert_files<Set>(folder / "m", plan_with("mamba", "fp32"), {}, 0, folder / "x");
                 }),
                 "needs the distance profiles"));
  rf::Plan falcon = plan_with("mamba2_standard", "fp32");
  falcon.kind_of_group.assign(3, {0, 1});
  CHECK(contains(error(falcon), "not those of Mamba, Mamba-2 or Falcon-H1"));
  const std::string golden = RECURFORMER_TEST_DATA "/models/";
  for (const char* name : {"mamba", "mamba2", "falcon_h1"}) {
    const rf::Plan same = rf::read_model_config(golden + name).plan;
    CHECK(contains(message_of<rf::ArgumentError>(
                       [&] { rf::convert_files<Set>(golden + name, same, {}, 0, folder / "x"); }),
                   "convert_model() it and save it"));
  }
  CHECK(!std::filesystem::exists(folder / "x"));

  rf::ModelConfig other = config;
  other.shape.layer.d_ff = 24;
  rf::write_model_config(other, folder / "m");
  CHECK(contains(message_of<rf::FileError>([&] {
                   rf::convert_files<Set>(folder / "m", plan_with("mamba", "fp32"), profiles(), 0,
                                          folder / "x");
                 }),
                 "model.safetensors"));
}
