// Gradients of every parameter tensor of a small model with every mixer, against central differences of the
// loss that the definition in double gives. The differences are taken over the float parameters themselves.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>
#include <vector>

#include "recurformer/cpu/standard_mamba2_mixer.hpp"
#include "recurformer/model/loss.hpp"
#include "recurformer/model/reference_model.hpp"
#include "recurformer/reference/attention.hpp"
#include "recurformer/reference/mamba.hpp"
#include "recurformer/reference/mamba2.hpp"
#include "recurformer/reference/standard_mamba2.hpp"
#include "support/mixer_memory.hpp"
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

/// The gradients of every parameter for two batches of sequences of different lengths.
template <class M>
std::vector<float> varlen_gradients(M& model, rf::Activations activations) {
  rf::ModelTape tape;
  tape.activations = activations;
  rf::NextTokenLoss loss;
  auto gradients = model.make_gradients();
  const std::vector<std::vector<std::int64_t>> batches = {{40, 3},
                                                          {7, 1, 0, 12}};  // less than was kept before
  for (const auto& lengths : batches) {
    std::vector<rf::SequenceRows> sequences;
    std::int64_t rows = 0;
    for (const std::int64_t length : lengths) {
      sequences.push_back({.first_row = rows, .rows = length});
      rows += length;
    }
    model.forward(small::tokens(rows), sequences, tape);
    std::vector<float> d_hidden(static_cast<std::size_t>(rows * model.shape().layer.d_model));
    loss.backward(model, tape.hidden.data(), small::tokens(rows, 8), {}, static_cast<const M*>(nullptr),
                  nullptr, d_hidden.data(), gradients);
    model.backward(tape, d_hidden.data(), gradients);
  }
  std::vector<float> out;
  for (const rf::ParameterRef& gradient : rf::parameter_refs(gradients)) {
    const auto* values = static_cast<const float*>(gradient.data);
    out.insert(out.end(), values, values + gradient.size);
  }
  return out;
}

/// Computing activations again changes no bit of a gradient.
template <class M>
void check_recomputation(M model) {
  const std::vector<float> expected = varlen_gradients(model, rf::Activations::kept);
  CHECK(std::all_of(expected.begin(), expected.end(), [](float value) { return std::isfinite(value); }));
  for (const int threads : {1, 3}) {
    rf::set_threads(threads);
    CHECK(rf::test::same_bits(varlen_gradients(model, rf::Activations::recomputed), expected));
  }
  rf::set_threads(2);
}

/// Heads whose projections have biases.
struct BiasSpec {
  using Kinds = rf::Kinds<rf::Kind<rf::Attention<rf::AttentionPolicy{.qkv_bias = true}>, rf::Fp32>>;
  using Precision = rf::Fp32;
  using Widths = small::Spec::Widths;
};

/// Heads that share B and C.
struct Mamba2Spec {
  using Kinds = rf::Kinds<rf::Kind<rf::StandardMamba2<rf::SsdShape{.d_state = 16, .d_conv = 3}>, rf::Fp32>>;
  using Precision = rf::Fp32;
  using Widths = small::Spec::Widths;
};

/// What head matching minimises on one sequence, by the definition in double: per layer, the squared error of
/// the recurrent heads' outputs relative to the original's, both given the original's inputs.
class HeadMatching {
 public:
  HeadMatching(small::Model& original, std::span<const rf::Token> tokens) {
    const auto& weights = original.weights();
    const rf::LayerShape& shape = original.shape().layer;
    const auto d = static_cast<std::size_t>(shape.d_model);
    std::vector<double> x;
    for (const rf::Token token : tokens)
      for (std::size_t i = 0; i < d; ++i)
        x.push_back(static_cast<double>(weights.embedding.data()[static_cast<std::size_t>(token) * d + i]));
    for (const auto& layer : weights.layers) {
      auto& one = layers_.emplace_back();
      one.h = rf::reference::detail::rms_norm_rows(x, layer.mixer_norm, shape.norm_epsilon);
      one.target.resize(tokens.size() * static_cast<std::size_t>(shape.heads_width()));
      layer.for_each_run([&](std::size_t, const auto& run) {
        rf::reference::detail::run_heads(run, shape, {}, one.h, tokens.size(), rf::reference::exact, {},
                                         one.target);
      });
      rf::reference::forward_layer(layer, shape, x);
    }
  }

  /// The sum over layers.
  double error(small::Model& model) const {
    const rf::LayerShape& shape = model.shape().layer;
    const auto width = static_cast<std::size_t>(shape.heads_width()),
               columns = static_cast<std::size_t>(shape.head_shape().group_width());
    double sum = 0;
    for (std::size_t l = 0; l < layers_.size(); ++l) {
      const OfLayer& layer = layers_[l];
      const std::size_t rows = layer.target.size() / width;
      double squares = 0, power = 0;
      std::vector<double> u(layer.target.size());
      model.weights().layers[l].for_each_run([&]<class K>(std::size_t, const rf::RunWeights<K>& run) {
        if (rf::reuses_attention_weights<typename K::Mixer>) return;
        rf::reference::detail::run_heads(run, shape, {}, layer.h, rows, rf::reference::exact, {}, u);
        for (std::size_t i = 0; i < u.size(); ++i) {
          const auto group = static_cast<int>(i % width / columns);
          if (std::find(run.groups.begin(), run.groups.end(), group) == run.groups.end()) continue;
          const double wanted = layer.target[i];
          squares += (u[i] - wanted) * (u[i] - wanted);
          power += wanted * wanted;
        }
      });
      sum += squares / power;
    }
    return sum;
  }

 private:
  struct OfLayer {
    std::vector<double> h, target;  // (rows, d_model), (rows, heads_width)
  };
  std::vector<OfLayer> layers_;
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

TEST_CASE("norms of queries and keys have the gradient that finite differences give") {
  rf::ModelShape shape = small::shape();
  shape.layer.qk_norm = true;
  small::Model model(shape, small::hybrid_plan());  // of two runs that share the norms, and two that do not
  small::randomise(model);
  const auto parameters = rf::parameter_refs(model.weights());
  CHECK(std::any_of(parameters.begin(), parameters.end(),
                    [](const auto& p) { return p.name == "layers.1.key_norm"; }));
  check_gradients(std::move(model));
}

TEST_CASE("a norm across heads has the gradient that finite differences give") {
  rf::ModelShape shape = small::shape();
  shape.layer.heads_norm = true;
  small::Model model(shape, small::hybrid_plan());
  small::randomise(model);
  check_gradients(std::move(model));
}

TEST_CASE("standard Mamba-2 without an MLP has the gradients that finite differences give") {
  rf::ModelShape shape = small::shape();
  shape.layer.d_ff = 0;
  shape.layer.heads_norm = true;
  rf::Model<Mamba2Spec> model(shape, rf::uniform_plan({"mamba2_standard", "fp32", {}}, 2, 4));
  small::randomise(model);
  check_gradients(std::move(model));
}

TEST_CASE("activations computed again give the same bits of every gradient") {
  rf::Plan plan = small::hybrid_plan();
  check_recomputation(small::model(plan));
  plan.kind_of_group = {{0, 2, 2, 3}, {3, 3, 0, 1}};  // layers that need different memory
  rf::ModelShape shape = small::shape();
  shape.layer.qk_norm = shape.layer.heads_norm = true;
  small::Model with_norms(shape, plan);
  small::randomise(with_norms);
  check_recomputation(std::move(with_norms));

  shape = small::shape();
  shape.layer.d_ff = 0;
  shape.layers = 3;
  rf::Model<Mamba2Spec> without_mlp(shape, rf::uniform_plan({"mamba2_standard", "fp32", {}}, 3, 4));
  small::randomise(without_mlp);
  check_recomputation(std::move(without_mlp));
}

TEST_CASE("head matching gives replaced heads the gradient that finite differences give, others none") {
  auto original = small::model(small::attention_plan());
  auto model = small::model(small::hybrid_plan(), true, 2);
  const std::vector<std::vector<rf::Token>> sequences = {small::tokens(11), small::tokens(9, 8)};
  const auto batch = [&](std::int64_t index) {
    const auto& tokens = sequences[static_cast<std::size_t>(index)];
    rf::Batch out;
    out.append(tokens, tokens);
    return out;
  };
  const HeadMatching first(original, sequences[0]), second(original, sequences[1]);
  const auto reference_loss = [&] { return 0.5 * (first.error(model) + second.error(model)); };
  const double expected = reference_loss();

  // A rate too small to move a weight: the step leaves its gradient in the first moments.
  constexpr rf::AdamwOptions unclipped{.beta1 = 0.5, .clip = 0};
  rf::Trainer<small::Model> trainer(model,
                                    {.objective = rf::Objective::match_heads,
                                     .new_rate = 1e-30,
                                     .warmup = 0,
                                     .accumulate = 2,
                                     .adamw = unclipped},
                                    &original);
  const rf::StepReport report = trainer.step(batch);
  CHECK(report.loss == doctest::Approx(expected / 2).epsilon(1e-5));  // the mean of two layers
  REQUIRE(reference_loss() == expected);

  const auto parameters = rf::parameter_refs(model.weights());
  const auto state = trainer.optimizer().state();
  rf::Random random(3);
  for (std::size_t p = 0; p < parameters.size(); ++p) {
    std::vector<float> gradient;
    for (const float moment : state[3 * p + 1].values) gradient.push_back(moment / 0.5f);
    if (parameters[p].kind >= 2)  // Mamba, Mamba2
      check_gradient(parameters[p], gradient.data(), random, reference_loss);
    else
      CHECK(gradient == std::vector<float>(gradient.size()));
  }
}
