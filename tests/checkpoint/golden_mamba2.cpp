// Small checkpoints of Mamba-2, against what `transformers` computes with them (tests/golden/make_models.py).

#include <doctest/doctest.h>

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "recurformer/cpu/standard_mamba2_mixer.hpp"
#include "recurformer/model/linear_products.hpp"
#include "support/error_message.hpp"
#include "support/golden_model.hpp"
#include "support/temporary_folder.hpp"

namespace {

template <class P, rf::SsdShape Shape>
struct Spec {
  using Kinds = rf::Kinds<rf::Kind<rf::StandardMamba2<Shape>, P>>;
  using Precision = P;
  using Widths = std::integer_sequence<int, 16>;
};
/// The usual sizes.
template <class P>
using Usual = rf::Model<Spec<P, rf::SsdShape{}>>;
/// Those of the checkpoint with several groups.
using Groups = rf::Model<Spec<rf::Fp32, rf::SsdShape{.d_state = 48, .d_conv = 3}>>;

/// What is saved is what was read, tensor by tensor, and reads as the same model.
template <class M>
void check_saved(const std::string& name) {
  CAPTURE(name);
  auto model = golden::load<M>(name);
  const rf::test::TemporaryFolder folder;
  rf::save_model(model.weights(), rf::model_config(model), folder.path().string());
  const rf::SafetensorsFile read(golden::folder + name + "/model.safetensors");
  const rf::SafetensorsFile saved(folder / "model.safetensors");
  const auto read_names = read.names(), saved_names = saved.names();
  CHECK(std::set(read_names.begin(), read_names.end()) == std::set(saved_names.begin(), saved_names.end()));
  for (const rf::TensorEntry& entry : read.tensors()) {
    CAPTURE(entry.name);
    std::vector<float> before(entry.bytes.size() / 2), after(before.size());
    rf::read_tensor(read, entry.name, entry.shape, before.data());
    rf::read_tensor(saved, entry.name, entry.shape, after.data());
    CHECK(before == after);
  }
  CHECK(rf::read_model_config(folder.path().string()).shape ==
        rf::read_model_config(golden::folder + name).shape);
}

}  // namespace

TEST_CASE("golden Mamba-2: fp32 logits") {
  golden::check_logits<Usual<rf::Fp32>>("mamba2");
  golden::check_logits<Groups>("mamba2_groups");
}

TEST_CASE("golden Mamba-2: bf16 is at most twice as far from fp32 as PyTorch's") {
  golden::check_bf16_logits<Usual<rf::Bf16>>("mamba2");
}

TEST_CASE("golden Mamba-2: loss and all gradients") { golden::check_gradients<Groups>("mamba2_groups"); }

TEST_CASE("golden Mamba-2: what is saved is such a checkpoint") {
  check_saved<Usual<rf::Fp32>>("mamba2");
  check_saved<Groups>("mamba2_groups");
}

TEST_CASE("golden Mamba-2: tensors of other sizes than the program's are refused by name") {
  const std::string message = rf::test::message_of<rf::FileError>([] { golden::load<Groups>("mamba2"); });
  CHECK(rf::test::contains(message, "backbone.layers.0.mixer.in_proj.weight"));
}
