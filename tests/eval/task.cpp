#include "recurformer/eval/task.hpp"

#include <doctest/doctest.h>

#include <vector>

using rf::Split;

TEST_CASE("scores count positions and whole answers") {
  const rf::TaskRow row{{1, 2, 3, 4, 5, 6}, {-1, 3, 4, -1, 6, 7}};
  CHECK(rf::score_tokens(row, std::vector{0, 3, 4, 0, 6, 7}).correct == 4);
  CHECK(rf::score_answers(row, std::vector{0, 3, 4, 0, 6, 7}).correct == 2);

  const std::vector first_wrong{9, 9, 4, 9, 6, 7};
  CHECK(rf::score_tokens(row, first_wrong).correct == 3);
  CHECK(rf::score_tokens(row, first_wrong).total == 4);
  CHECK(rf::score_answers(row, first_wrong).correct == 1);
  CHECK(rf::score_answers(row, first_wrong).total == 2);
  CHECK(rf::score_answers(row, std::vector{9, 3, 9, 9, 6, 9}).correct == 0);

  // Position 0 and answers up to the end are answers too; a row without scored positions has none.
  CHECK(rf::score_answers({{1}, {2}}, std::vector{2}).correct == 1);
  CHECK(rf::score_answers({{1, 2}, {-1, -1}}, std::vector{2, 3}).total == 0);
  CHECK(rf::score_tokens({}, {}).accuracy() == 0.0);
}

TEST_CASE("scores add up") {
  rf::TaskScore score;
  score += {3, 4};
  score += {0, 2};
  CHECK(score.accuracy() == 0.5);
}

TEST_CASE("a score needs one prediction for every position") {
  const rf::TaskRow row{{1, 2, 3}, {-1, 3, 4}};
  CHECK_THROWS_WITH_AS(rf::score_tokens(row, std::vector{1, 2}),
                       "a row of 3 tokens was scored with 2 predictions; pass one for every position",
                       rf::ArgumentError);
  CHECK_THROWS_AS(rf::score_answers(row, std::vector{1, 2, 3, 4}), rf::ArgumentError);
}

TEST_CASE("one string in eight is held out, and it is always the same one") {
  int held_out = 0;
  for (int a = 0; a < 80; ++a)
    for (int b = 0; b < 100; ++b) held_out += rf::split_of(std::vector{a, b}) == Split::held_out;
  CHECK(held_out > 900);  // 8000 / 8, within 3.4 standard deviations
  CHECK(held_out < 1100);
  // Written down, because a change would let what older models were trained on into the held-out rows.
  CHECK(rf::split_of(std::vector{11, 1011, -11}) == Split::held_out);
  CHECK(rf::split_of(std::vector{10, 1010, -10}) == Split::train);
  CHECK(rf::split_of({}) == Split::held_out);
}

TEST_CASE("the random numbers of rows and splits differ") {
  CHECK(rf::task_random(1, Split::train, 0).bits() == rf::task_random(1, Split::train, 0).bits());
  CHECK(rf::task_random(1, Split::train, 0).bits() != rf::task_random(1, Split::held_out, 0).bits());
  CHECK(rf::task_random(1, Split::train, 0).bits() != rf::task_random(1, Split::train, 1).bits());
  CHECK(rf::task_random(1, Split::train, 0).bits() != rf::task_random(2, Split::train, 0).bits());
}

TEST_CASE("drawing from an empty split ends with an error") {
  CHECK_THROWS_WITH_AS(rf::detail::draw_until([] { return false; }, "some task", "do this"),
                       "some task: this split has too few strings left to draw from; do this",
                       rf::ArgumentError);
}
