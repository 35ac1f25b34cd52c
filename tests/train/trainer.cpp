#include "recurformer/train/trainer.hpp"

#include <doctest/doctest.h>

#include <cmath>

#include "recurformer/plan/convert.hpp"
#include "support/small_model.hpp"

namespace {

/// Rows that repeat a few tokens: something a small model can learn in a few steps.
rf::Batch batch(std::int64_t step) {
  rf::Batch out;
  for (int row = 0; row < 3; ++row) {
    const auto pattern = small::tokens(4, static_cast<std::uint64_t>(step % 5 + row));
    std::vector<rf::Token> tokens, targets;
    for (std::size_t i = 0; i < 20; ++i) {
      tokens.push_back(pattern[i % 4]);
      targets.push_back(i % 7 == 6 ? -1 : pattern[(i + 1) % 4]);
    }
    out.append(tokens, targets);
  }
  return out;
}

std::vector<float> all_parameters(small::Model& model) {
  std::vector<float> out;
  for (const auto& parameter : rf::parameter_refs(model.weights())) {
    const auto* values = static_cast<const float*>(parameter.data);
    out.insert(out.end(), values, values + parameter.size);
  }
  return out;
}

}  // namespace

TEST_CASE("training a hybrid model with every mixer lowers the loss") {
  auto model = small::model();
  rf::Trainer<small::Model> trainer(model, {.steps = 60, .rate = 5e-3, .new_rate = 5e-3, .warmup = 5});
  const double first = trainer.step(batch).loss;
  double last = 0;
  while (!trainer.done()) last = trainer.step(batch).loss;
  CHECK(first > 3.0);
  CHECK(last < 0.5 * first);
}

TEST_CASE("training gives the same bits for any number of threads") {
  std::vector<std::vector<float>> results;
  for (const int threads : {1, 2, 3}) {
    rf::set_threads(threads);
    auto model = small::model();
    rf::Trainer<small::Model> trainer(model, {.steps = 4});
    while (!trainer.done()) trainer.step(batch);
    results.push_back(all_parameters(model));
  }
  rf::set_threads(2);
  CHECK(results[0] == results[1]);
  CHECK(results[0] == results[2]);
}

TEST_CASE("training with activations computed again gives the same bits in both objectives") {
  auto original = small::model(small::attention_plan());
  const auto trained = [&](rf::TrainOptions options, rf::Activations activations) {
    auto model = small::model(small::hybrid_plan(), true, 2);
    options.activations = activations;
    rf::Trainer<small::Model> trainer(model, options, &original);
    while (!trainer.done()) trainer.step(batch);
    return all_parameters(model);
  };
  for (const rf::TrainOptions& options :
       {rf::TrainOptions{.steps = 3, .divergence_weight = 1.0, .accumulate = 2},
        rf::TrainOptions{.objective = rf::Objective::match_heads, .steps = 3}})
    CHECK(trained(options, rf::Activations::recomputed) == trained(options, rf::Activations::kept));
}

TEST_CASE("accumulated micro-batches are one larger batch") {
  const auto joined = [](std::int64_t step) {
    rf::Batch out = batch(2 * step);
    const rf::Batch second = batch(2 * step + 1);
    for (const auto& row : second.sequences)
      out.append(std::span(second.tokens).subspan(static_cast<std::size_t>(row.first_row), 20),
                 std::span(second.targets).subspan(static_cast<std::size_t>(row.first_row), 20));
    return out;
  };
  auto a = small::model(), b = small::model();
  rf::Trainer<small::Model> accumulating(a, {.steps = 3, .accumulate = 2}), plain(b, {.steps = 3});
  for (int step = 0; step < 3; ++step) {
    const auto left = accumulating.step(batch), right = plain.step(joined);
    CHECK(left.loss == doctest::Approx(right.loss).epsilon(1e-6));
    CHECK(left.gradient_norm == doctest::Approx(right.gradient_norm).epsilon(1e-4));
    CHECK(left.tokens == right.tokens);
  }
}

TEST_CASE("head matching moves the replaced heads only, and towards the original's outputs") {
  auto original = small::model(small::attention_plan());
  auto model = small::model();  // other heads, and all other parameters different from the original's
  const auto before = rf::parameter_refs(model.weights());
  std::vector<std::vector<float>> kept;
  for (const auto& parameter : before)
    kept.emplace_back(static_cast<float*>(parameter.data),
                      static_cast<float*>(parameter.data) + parameter.size);
  rf::Trainer<small::Model> trainer(
      model, {.objective = rf::Objective::match_heads, .steps = 40, .new_rate = 5e-3, .warmup = 2},
      &original);
  const double first = trainer.step(batch).loss;
  double last = 0;
  while (!trainer.done()) last = trainer.step(batch).loss;
  CHECK(last < 0.7 * first);
  const auto after = rf::parameter_refs(model.weights());
  for (std::size_t i = 0; i < after.size(); ++i) {
    CAPTURE(after[i].name);
    const bool own = after[i].kind >= 2;  // Mamba, Mamba2
    const bool same = std::equal(kept[i].begin(), kept[i].end(), static_cast<float*>(after[i].data));
    CHECK(same == !own);
  }
}

TEST_CASE("the divergence to a teacher is zero for the teacher itself, and its gradient pulls towards it") {
  auto original = small::model(small::attention_plan());
  auto same = small::model(small::attention_plan());
  rf::Trainer<small::Model> trainer(same, {.steps = 1, .rate = 0, .new_rate = 0, .divergence_weight = 1.0},
                                    &original);
  CHECK(std::abs(trainer.step(batch).divergence) < 1e-6);

  auto student = small::model(small::attention_plan(), true, 2);
  rf::Trainer<small::Model> pulling(student, {.steps = 40, .rate = 5e-3, .divergence_weight = 100.0},
                                    &original);
  const double first = pulling.step(batch).divergence;
  double last = 0;
  while (!pulling.done()) last = pulling.step(batch).divergence;
  CHECK(last < 0.5 * first);
}

TEST_CASE("wrong training options are errors") {
  auto model = small::model();
  using Trainer = rf::Trainer<small::Model>;
  CHECK_THROWS_WITH_AS(Trainer(model, {.steps = 0}), "steps is 0; it must be at least 1", rf::ArgumentError);
  CHECK_THROWS_AS(Trainer(model, {.accumulate = 0}), rf::ArgumentError);
  CHECK_THROWS_AS(Trainer(model, {.rate = -1}), rf::ArgumentError);
  CHECK_THROWS_WITH_AS(Trainer(model, {.divergence_weight = 1.0}),
                       "this training compares with an original model, but none was given",
                       rf::ArgumentError);
  CHECK_THROWS_AS(Trainer(model, {.objective = rf::Objective::match_heads}), rf::ArgumentError);
  small::Model other(small::shape(false), small::attention_plan());
  CHECK_THROWS_WITH_AS(Trainer(model, {}, &other),
                       "the original model and the trained one have different shapes", rf::ArgumentError);
}
