#include "recurformer/eval/copy.hpp"

#include <doctest/doctest.h>

#include <set>
#include <vector>

using rf::CopyTask;
using rf::Split;

namespace {

/// Every string of `length` tokens that a row contains.
void collect(const rf::TaskRow& row, std::size_t length, std::set<std::vector<std::int32_t>>& strings) {
  for (std::size_t i = 0; i + length <= row.tokens.size(); ++i)
    strings.emplace(row.tokens.begin() + static_cast<std::ptrdiff_t>(i),
                    row.tokens.begin() + static_cast<std::ptrdiff_t>(i + length));
}

}  // namespace

TEST_CASE("copy rows repeat their first letters, and score the repeats") {
  for (const std::int64_t lag : {1, 7, 64, 255}) {
    CAPTURE(lag);
    const CopyTask task{.lag = lag, .letters = 52};
    auto random = rf::task_random(3, Split::train, 0);
    const auto row = task.row(random);
    REQUIRE(row.tokens.size() == 256);
    REQUIRE(row.targets.size() == 256);
    CHECK(task.length() == 256);
    const auto period = static_cast<std::size_t>(lag);
    int scored = 0;
    for (std::size_t i = 0; i < 256; ++i) {
      const std::int32_t token = row.tokens[i];
      CHECK(((token >= 'a' && token <= 'z') || (token >= 'A' && token <= 'Z')));
      if (i >= period) CHECK(token == row.tokens[i - period]);
      if (i + 1 < period) {
        CHECK(row.targets[i] == -1);
      } else {
        ++scored;
        CHECK(row.targets[i] == row.tokens[i + 1 - period]);
      }
    }
    CHECK(scored == 256 - lag + 1);
  }
}

TEST_CASE("copying scores 1, guessing the last token about one in the number of letters") {
  const CopyTask task;
  rf::TaskScore copied, repeated;
  for (std::uint64_t i = 0; i < 50; ++i) {
    auto random = rf::task_random(1, Split::train, i);
    const auto row = task.row(random);
    std::vector<std::int32_t> copy(256, 0);
    for (std::size_t j = 63; j < 256; ++j) copy[j] = row.tokens[j - 63];
    copied += rf::score_tokens(row, copy);
    repeated += rf::score_tokens(row, row.tokens);
  }
  CHECK(copied.total == 50 * 193);
  CHECK(copied.accuracy() == 1.0);
  CHECK(repeated.accuracy() > 0.02);  // 1/26 = 0.038, from 3200 independent letters: sigma 0.0034
  CHECK(repeated.accuracy() < 0.06);
}

TEST_CASE("copy rows are reproducible and differ from one another") {
  const CopyTask task;
  auto a = rf::task_random(1, Split::train, 0), b = rf::task_random(1, Split::train, 0);
  const auto first = task.row(a);
  CHECK(first.tokens == task.row(b).tokens);
  CHECK(first.tokens != task.row(b).tokens);
}

TEST_CASE("no held-out pattern occurs anywhere in training rows, not even rotated") {
  std::set<std::vector<std::int32_t>> seen[2];
  for (const Split split : {Split::train, Split::held_out})
    for (std::uint64_t i = 0; i < 2000; ++i) {
      auto random = rf::task_random(5, split, i);
      collect(CopyTask{.row_length = 16, .lag = 4, .letters = 4, .split = split}.row(random), 4,
              seen[static_cast<int>(split)]);
    }
  // All 4^4 patterns were drawn, each in one of the two.
  CHECK(seen[0].size() + seen[1].size() == 256);
  CHECK(seen[0].size() > 150);
  CHECK(seen[1].size() > 5);
  for (const auto& pattern : seen[1]) CHECK(!seen[0].contains(pattern));
}

TEST_CASE("copy tasks that cannot be are refused") {
  rf::Random random;
  CHECK_THROWS_WITH_AS(
      (CopyTask{.row_length = 64, .lag = 64}.row(random)),
      "copy task: a lag of 64 in rows of 64 tokens; the lag must be at least 1 and shorter than "
      "the row",
      rf::ArgumentError);
  CHECK_THROWS_AS((CopyTask{.lag = 0}.row(random)), rf::ArgumentError);
  CHECK_THROWS_AS((CopyTask{.letters = 1}.row(random)), rf::ArgumentError);
  CHECK_THROWS_AS((CopyTask{.letters = 53}.row(random)), rf::ArgumentError);
}
