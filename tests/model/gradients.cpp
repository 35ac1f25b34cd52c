// Gradients of every parameter tensor of a small model with every mixer, against central differences of the
// loss that the definition in double gives. The differences are taken over the float parameters themselves.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "recurformer/model/loss.hpp"
#include "recurformer/model/reference_model.hpp"
#include "recurformer/reference/attention.hpp"
#include "recurformer/reference/mamba.hpp"
#include "recurformer/reference/mamba2.hpp"
#include "support/small_model.hpp"

namespace {

/// A few elements of a tensor's gradient against central differences of loss(); errors relative to the
/// tensor's largest gradient.
template <class Loss>
void check_gradient(const rf::ParameterRef& parameter, const float* gradient, rf::Random& random,
                    Loss&& loss) {
  CAPTURE(parameter.name);
  auto* values = static_cast<float*>(parameter.data);
  double scale = 0, worst = 0;
  for (std::int64_t i = 0; i < parameter.size; ++i)
    scale = std::max(scale, std::abs(static_cast<double>(gradient[i])));
  CHECK(scale > 0);
  for (int trial = 0; trial < 4; ++trial) {
    const auto i = static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(parameter.size)));
    const float kept = values[i];
    const float above = kept + 2e-3f, below = kept - 2e-3f;
    values[i] = above;
    const double loss_above = loss();
    values[i] = below;
    const double loss_below = loss();
    values[i] = kept;
    const double difference =
        (loss_above - loss_below) / (static_cast<double>(above) - static_cast<double>(below));
    worst = std::max(worst, std::abs(difference - static_cast<double>(gradient[i])));
  }
  CHECK(worst < 2e-3 * scale + 1e-7);
}

/// Every parameter tensor of a model with small::shape().
template <class M>
void check_gradients(M model) {
  const auto tokens = small::tokens(11);
  std::vector<rf::Token> targets = small::tokens(11, 8);
  targets[4] = -1;
  const rf::SequenceRows sequence{.rows = 11};

  rf::ModelTape tape;
  rf::NextTokenLoss loss;
  auto gradients = model.make_gradients();
  model.forward(tokens, {&sequence, 1}, tape);
  std::vector<float> d_hidden(11 * 24, std::nanf(""));
  const auto sums = loss.backward(model, tape.hidden.data(), targets, {.gradient_scale = 1.0 / 10},
                                  static_cast<const M*>(nullptr), nullptr, d_hidden.data(), gradients);
  model.backward(tape, d_hidden.data(), gradients);
  const auto reference_loss = [&] {
    return rf::reference::cross_entropy_of(rf::reference::logits(model.weights(), tokens), targets);
  };
  CHECK(sums.counted == 10);
  CHECK(sums.mean_cross_entropy() == doctest::Approx(reference_loss()).epsilon(1e-6));

  const auto parameters = rf::parameter_refs(model.weights());
  const auto gradient_refs = rf::parameter_refs(gradients);
  REQUIRE(parameters.size() == gradient_refs.size());
  rf::Random random(3);
  for (std::size_t p = 0; p < parameters.size(); ++p) {
    CHECK(parameters[p].name == gradient_refs[p].name);
    REQUIRE(parameters[p].size == gradient_refs[p].size);
    check_gradient(parameters[p], static_cast<const float*>(gradient_refs[p].data), random, reference_loss);
  }
}

/// Heads whose projections have biases.
struct BiasSpec {
  using Kinds = rf::Kinds<rf::Kind<rf::Attention<rf::AttentionPolicy{.qkv_bias = true}>, rf::Fp32>>;
  using Precision = rf::Fp32;
  using Widths = small::Spec::Widths;
};

}  // namespace

TEST_CASE("every parameter tensor of a hybrid model has the gradient that finite differences give") {
  for (const bool tied : {true, false}) check_gradients(small::model(small::hybrid_plan(), tied));
}

TEST_CASE("biases of queries, keys and values have the gradient that finite differences give") {
  rf::Model<BiasSpec> model(small::shape(), rf::uniform_plan({"attention_qkv_bias", "fp32", {}}, 2, 4));
  small::randomise(model);
  const auto parameters = rf::parameter_refs(model.weights());
  CHECK(std::any_of(parameters.begin(), parameters.end(),
                    [](const auto& p) { return p.name == "layers.1.attention_qkv_bias.bias"; }));
  check_gradients(std::move(model));
}
