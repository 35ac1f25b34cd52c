#include "recurformer/model/loss.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "recurformer/model/reference_model.hpp"
#include "support/small_model.hpp"

namespace {

constexpr std::int64_t vocabulary = 40, d_model = 24;

/// More rows than one block of logits holds.
const std::int64_t rows = rf::detail::logit_block_rows(vocabulary) + 100;

std::vector<float> hidden_states(std::uint64_t seed) {
  rf::Random random(seed);
  std::vector<float> out(static_cast<std::size_t>(rows * d_model));
  for (float& x : out) x = static_cast<float>(random.normal());
  return out;
}

/// Every third row does not count.
std::vector<rf::Token> targets_of_rows() {
  auto out = small::tokens(rows);
  for (std::size_t i = 0; i < out.size(); i += 3) out[i] = -1;
  return out;
}

}  // namespace

TEST_CASE(
    "losses of more rows than a block: the definition's mean over the rows that count, and predictions") {
  const auto model = small::model();
  const auto hidden = hidden_states(1);
  const auto targets = targets_of_rows();
  std::vector<rf::Token> predicted(targets.size());
  rf::NextTokenLoss loss;
  const rf::LossSums sums = loss.forward(model, hidden.data(), targets, predicted);

  std::vector<float> logits(static_cast<std::size_t>(rows * vocabulary));
  model.logits(hidden.data(), rows, logits.data());
  const std::vector<double> exact(logits.begin(), logits.end());
  CHECK(sums.counted == std::count_if(targets.begin(), targets.end(), [](rf::Token t) { return t >= 0; }));
  CHECK(sums.mean_cross_entropy() ==
        doctest::Approx(rf::reference::cross_entropy_of(exact, targets)).epsilon(1e-6));
  bool right = true;
  for (std::size_t r = 0; r < predicted.size(); ++r) {
    const auto row = logits.begin() + static_cast<std::ptrdiff_t>(r) * vocabulary;
    right &= predicted[r] == std::max_element(row, row + vocabulary) - row;
  }
  CHECK(right);
}

TEST_CASE("losses of parts add up to those of the whole") {
  const auto model = small::model();
  const auto teacher = small::model(small::attention_plan(), true, 2);
  const auto hidden = hidden_states(1), of_teacher = hidden_states(2);
  const auto targets = targets_of_rows();
  rf::NextTokenLoss loss;
  const auto part = [&](std::int64_t first, std::int64_t count) {
    return loss.compare(
        model, hidden.data() + first * d_model, teacher, of_teacher.data() + first * d_model,
        std::span(targets).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)));
  };
  const rf::LossSums whole = part(0, rows);
  rf::LossSums sums = part(0, 77);
  sums += part(77, rows - 77);
  CHECK(sums.counted == whole.counted);
  CHECK(sums.cross_entropy == doctest::Approx(whole.cross_entropy).epsilon(1e-9));
  CHECK(sums.divergence == doctest::Approx(whole.divergence).epsilon(1e-9));
  CHECK(whole.mean_divergence() > 0.01);  // the two differ
}

TEST_CASE("losses: a model does not diverge from itself, and no rows that count are no loss") {
  const auto model = small::model();
  const auto hidden = hidden_states(1);
  rf::NextTokenLoss loss;
  CHECK(std::abs(
            loss.compare(model, hidden.data(), model, hidden.data(), targets_of_rows()).mean_divergence()) <
        1e-6);
  const std::vector<rf::Token> none(10, -1);
  const rf::LossSums sums = loss.forward(model, hidden.data(), none);
  CHECK(sums.counted == 0);
  CHECK(sums.mean_cross_entropy() == 0);
  CHECK(sums.mean_divergence() == 0);
}
