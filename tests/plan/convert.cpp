#include "recurformer/plan/convert.hpp"

#include <doctest/doctest.h>

#include <cmath>

#include "support/small_model.hpp"

namespace {

/// Every head looks back with exp(-rate δ), normalised; some mass extra at lag 0.
rf::ModelProfiles profiles(double rate, double now = 0.0) {
  rf::DistanceProfile profile;
  for (int lag = 0; lag < 128; ++lag) {
    profile.lag.push_back(lag);
    profile.lags.push_back(1);
    profile.probability.push_back((1 - now) * std::exp(-rate * lag) * (1 - std::exp(-rate)) +
                                  (lag == 0 ? now : 0.0));
  }
  return rf::ModelProfiles(2, std::vector<rf::DistanceProfile>(8, profile));
}

std::vector<float> logits(small::Model& model) {
  const auto tokens = small::tokens(50);
  const rf::SequenceRows sequence{.rows = 50};
  std::vector<float> out(50 * 40);
  model.logits(model.forward(tokens, {&sequence, 1}), 50, out.data());
  return out;
}

rf::Plan replace(const char* mixer, std::vector<std::vector<int>> groups) {
  return {.kinds = {{"attention", "fp32", {}}, {mixer, "fp32", {}}}, .kind_of_group = std::move(groups)};
}

}  // namespace

TEST_CASE("zero heads replaced: the logits are the same bits") {
  auto original = small::model(small::attention_plan());
  auto converted = rf::convert_model(original, small::attention_plan(), {});
  CHECK(logits(converted) == logits(original));
}

TEST_CASE("streaming heads whose window covers everything are the same heads, and need no profiles") {
  auto original = small::model(small::attention_plan());
  rf::Plan plan = replace("streaming", {{1, 0, 0, 1}, {0, 1, 1, 0}});
  plan.kinds[1].options = {{"sink", 4}, {"window", 64}};
  auto converted = rf::convert_model(original, plan, {});
  const auto a = logits(original), b = logits(converted);
  for (std::size_t i = 0; i < a.size(); ++i) CHECK(b[i] == doctest::Approx(a[i]).epsilon(1e-4));
}

TEST_CASE("groups that stay keep their weights bit for bit, in files too") {
  auto original = small::model(small::attention_plan());
  auto converted = rf::convert_model(original, replace("mamba", {{1, 0, 0, 1}, {0, 0, 0, 0}}), profiles(0.3));
  const auto before = rf::file_tensors(original.weights()), after = rf::file_tensors(converted.weights());
  const auto elements = [](const std::vector<rf::FileTensor>& tensors, const std::string& name) {
    for (const auto& tensor : tensors)
      if (tensor.name == name) {
        std::vector<float> out;
        for (const auto& piece : tensor.pieces)
          out.insert(out.end(), static_cast<float*>(piece.data),
                     static_cast<float*>(piece.data) + piece.size);
        return out;
      }
    FAIL("no tensor " << name);
    return std::vector<float>{};
  };
  const auto q = elements(before, "model.layers.0.self_attn.q_proj.weight"),
             kept_q = elements(after, "model.layers.0.self_attn.q_proj.weight");
  REQUIRE(kept_q.size() == q.size() / 2);
  CHECK(std::equal(kept_q.begin(), kept_q.end(),
                   q.begin() + static_cast<std::ptrdiff_t>(q.size() / 4)));  // groups 1 and 2, in order
  CHECK(elements(after, "model.layers.1.self_attn.k_proj.weight") ==
        elements(before, "model.layers.1.self_attn.k_proj.weight"));
  CHECK(elements(after, "model.layers.0.self_attn.o_proj.weight") ==
        elements(before, "model.layers.0.self_attn.o_proj.weight"));
}

TEST_CASE("a recurrent head starts as the average of values that its profile says") {
  // The original's keys are zero, so every query attends evenly; the profile claims an exponential. The
  // converted head must compute the profile's average of the same values.
  const double rate = 0.5, now = 0.25;
  for (const char* mixer : {"mamba", "mamba2"}) {
    CAPTURE(mixer);
    auto original = small::model(small::attention_plan());
    for (auto& layer : original.weights().layers)
      rf::for_each_group_slice(std::get<0>(layer.runs), small::shape().layer.head_shape(),
                               [&](const rf::ParameterSpec& spec, std::size_t, float* data) {
                                 if (spec.name == "k_proj.weight")
                                   std::fill_n(data, spec.group_size(small::shape().layer.head_shape()),
                                               0.0f);
                               });
    auto converted =
        rf::convert_model(original, rf::uniform_plan({mixer, "fp32", {}}, 2, 4), profiles(rate, now));
    const auto tokens = small::tokens(60);
    const rf::SequenceRows sequence{.rows = 60};
    rf::ModelTape attention_tape, tape;
    original.forward(tokens, {&sequence, 1}, attention_tape);
    converted.forward(tokens, {&sequence, 1}, tape);
    const float* projected =
        attention_tape.layers[0].heads.projected[0].data();  // per group q (32) | k (16) | v (16)
    const float* out = tape.layers[0].heads.out.data();
    double error = 0, power = 0;
    for (std::int64_t t = 40; t < 60; ++t)
      for (std::int64_t head = 0; head < 8; ++head)
        for (std::int64_t c = 0; c < 16; ++c) {
          double expected = 0;
          for (std::int64_t lag = 0; lag <= t; ++lag) {
            const double p = (1 - now) * std::exp(-rate * static_cast<double>(lag)) * (1 - std::exp(-rate)) +
                             (lag == 0 ? now : 0.0);
            expected += p * static_cast<double>(projected[(t - lag) * 256 + head / 2 * 64 + 48 + c]);
          }
          const double difference = expected - static_cast<double>(out[t * 128 + head * 16 + c]);
          error += difference * difference;
          power += expected * expected;
        }
    CHECK(std::sqrt(error / power) < 0.02);
  }
}

TEST_CASE("what cannot be converted is an error that says why") {
  auto original = small::model(small::attention_plan());
  const auto plan = replace("mamba", {{1, 0, 0, 0}, {0, 0, 0, 0}});
  CHECK_THROWS_WITH_AS(rf::convert_model(original, plan, {}),
                       "converting needs the distance profiles of layer 0", rf::ArgumentError);
  auto converted = rf::convert_model(original, plan, profiles(0.3));
  CHECK_THROWS_WITH_AS(
      rf::convert_model(converted, replace("mamba2", {{1, 0, 0, 0}, {0, 0, 0, 0}}), profiles(0.3)),
      "group 0 of layer 0 is mamba already; only attention heads can be converted", rf::ArgumentError);
}

namespace {

/// Attention with biases, and what its heads may become.
struct BiasSpec {
  static constexpr rf::AttentionPolicy bias{.qkv_bias = true};
  using Kinds = rf::Kinds<rf::Kind<rf::Attention<bias>, rf::Fp32>,
                          rf::Kind<rf::StreamingAttention<rf::StreamingWindow{}, bias>, rf::Fp32>,
                          rf::Kind<rf::StreamingAttention<>, rf::Fp32>, rf::Kind<rf::Mamba<>, rf::Fp32>,
                          rf::Kind<rf::Mamba2<>, rf::Fp32>>;
  using Precision = rf::Fp32;
};

/// The elements of one parameter of one group.
std::vector<float> slice(rf::Model<BiasSpec>& model, std::size_t layer, int group, std::string_view name) {
  const rf::HeadShape shape = model.shape().layer.head_shape();
  std::vector<float> out;
  rf::detail::for_group(model.weights().layers[layer], shape, group,
                        [&](const auto&, const rf::ParameterSpec& spec, const auto* data) {
                          if (spec.name == name) out.assign(data, data + spec.group_size(shape));
                        });
  REQUIRE(!out.empty());
  return out;
}

}  // namespace

TEST_CASE("biases are converted with the heads, or the conversion is refused") {
  rf::Model<BiasSpec> original(small::shape(), rf::uniform_plan({"attention_qkv_bias", "fp32", {}}, 2, 4));
  small::randomise(original);
  const auto converted = [&](const char* mixer) {
    return rf::convert_model(original,
                             {.kinds = {{"attention_qkv_bias", "fp32", {}}, {mixer, "fp32", {}}},
                              .kind_of_group = {{0, 0, 1, 0}, {0, 0, 0, 0}}},
                             profiles(0.3));
  };
  auto streaming = converted("streaming_qkv_bias");
  for (const char* name : {"q_proj.bias", "k_proj.bias", "v_proj.bias"})
    CHECK(slice(streaming, 0, 2, name) == slice(original, 0, 2, name));

  // Both query heads of a Mamba group start from the group's value and its bias.
  auto mamba = converted("mamba");
  const std::vector<float> bias = slice(original, 0, 2, "v_proj.bias");
  std::vector<float> twice = bias;
  twice.insert(twice.end(), bias.begin(), bias.end());
  CHECK(slice(mamba, 0, 2, "conv1d.bias") == twice);
  CHECK(slice(mamba, 0, 1, "v_proj.bias") == slice(original, 0, 1, "v_proj.bias"));

  CHECK_THROWS_WITH_AS(converted("mamba2"),
                       "attention heads with biases cannot become Mamba2 heads, whose projections have none; "
                       "convert them to Mamba, which keeps the value's bias",
                       rf::ArgumentError);
  CHECK_THROWS_WITH_AS(
      converted("streaming"),
      "group 2 of layer 0 has 6 tensors (weights and biases); as streaming it would lose some "
      "of them; choose a kind that has them all",
      rf::ArgumentError);
}
