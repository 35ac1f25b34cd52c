#include "recurformer/eval/evaluate.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "recurformer/eval/copy.hpp"
#include "recurformer/eval/mqar.hpp"
#include "support/small_model.hpp"

namespace {

/// A task of one row that notes which split it is asked for.
struct NotedTask {
  std::vector<std::pair<rf::Split, std::uint64_t>>* asked;
  rf::Split split = rf::Split::train;
  std::int64_t length() const { return 3; }
  rf::TaskRow row(rf::Random& random) const {
    asked->emplace_back(split, random.bits());
    return {{1, 2, 3}, {-1, 3, 4}};
  }
};

/// All of its weights are 0.
small::Model byte_model() {
  auto shape = small::shape();
  shape.vocabulary = 256;
  small::Model model(shape, small::attention_plan());
  rf::clear(model.weights());
  return model;
}

}  // namespace

TEST_CASE("a model of zeros needs eight bits per byte and recalls nothing on purpose") {
  auto model = byte_model();  // all logits are 0
  std::string document;
  for (int i = 0; i < 4000; ++i) document += "some text " + std::to_string(i);
  const auto text = rf::TokenText::of_bytes(std::vector<std::string>{document});
  const auto score = rf::evaluate_text(model, text, 32, 1000);
  CHECK(score.bits_per_byte(score.tokens) == doctest::Approx(8.0).epsilon(1e-6));
  CHECK(score.bits_per_byte(2 * score.tokens) == doctest::Approx(4.0).epsilon(1e-6));
  CHECK(score.perplexity() == doctest::Approx(256.0).epsilon(1e-6));
  CHECK(score.tokens == 32 * text.held_out_rows(32));
  std::int64_t rows_done = 0;
  const auto first_rows =
      rf::evaluate_text(model, text, 32, 3, [&](std::int64_t done, std::int64_t) { rows_done = done; });
  CHECK(first_rows.tokens == 96);
  CHECK(rows_done == 3);
  CHECK_THROWS_AS(rf::evaluate_text(model, text, 1 << 20, 1), rf::ArgumentError);
  CHECK(rf::evaluate_task(model, rf::CopyTask{.row_length = 40, .lag = 10}, rf::Split::held_out, 8, 0)
            .correct == 0);  // it always says byte 0
  CHECK(rf::evaluate_task(model, rf::MqarTask{.row_length = 64, .pairs = 4}, rf::Split::held_out, 8, 0,
                          rf::Scoring::whole_answers)
            .total == 32);
}

TEST_CASE("tasks are scored at the positions they name, the same every time") {
  auto model = byte_model();
  rf::initialise(model.weights(), 3);
  const rf::CopyTask task{.row_length = 40, .lag = 10};
  std::int64_t rows_done = 0;
  const auto score = rf::evaluate_task(model, task, rf::Split::held_out, 300, 5, rf::Scoring::per_token,
                                       [&](std::int64_t done, std::int64_t) { rows_done = done; });
  CHECK(rows_done == 300);
  CHECK(score.total == 300 * 31);
  const auto again = rf::evaluate_task(model, task, rf::Split::held_out, 300, 5);
  CHECK(score.correct == again.correct);
}

TEST_CASE("the rows of a task are those of the split that is asked for") {
  auto model = byte_model();
  for (const rf::Split split : {rf::Split::train, rf::Split::held_out}) {
    std::vector<std::pair<rf::Split, std::uint64_t>> asked;
    CHECK(rf::evaluate_task(model, NotedTask{.asked = &asked}, split, 2, 9).total == 4);
    REQUIRE(asked.size() == 2);
    for (std::uint64_t row = 0; row < 2; ++row) {
      CHECK(asked[row].first == split);
      CHECK(asked[row].second == rf::task_random(9, split, row).bits());
    }
  }
}
