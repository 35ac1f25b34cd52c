#include "recurformer/eval/mqar.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <map>
#include <set>
#include <utility>
#include <vector>

using rf::MqarTask;
using rf::Split;

namespace {

rf::TaskRow row_of(const MqarTask& task, std::uint64_t index) {
  auto random = rf::task_random(11, task.split, index);
  return task.row(random);
}

}  // namespace

TEST_CASE("MQAR rows: pairs, then every key once more, followed by its value") {
  const MqarTask tasks[] = {{},
                            {.row_length = 4, .pairs = 1, .vocabulary = 8},
                            {.row_length = 129, .pairs = 32, .power = 1.0},
                            {.row_length = 512, .pairs = 63, .vocabulary = 256, .power = 3.0},
                            {.row_length = 64, .pairs = 4, .vocabulary = 8192}};
  for (const auto& task : tasks) {
    CAPTURE(task.vocabulary);
    const auto row = row_of(task, 0);
    REQUIRE(row.tokens.size() == static_cast<std::size_t>(task.length()));
    REQUIRE(row.targets.size() == row.tokens.size());
    const auto pairs = static_cast<std::size_t>(task.pairs);
    std::map<std::int32_t, std::int32_t> value_of;
    std::set<std::int32_t> values;
    for (std::size_t i = 0; i < 2 * pairs; i += 2) {
      CHECK((row.tokens[i] >= 1 && row.tokens[i] < task.vocabulary / 2));
      CHECK((row.tokens[i + 1] >= task.vocabulary / 2 && row.tokens[i + 1] < task.vocabulary));
      value_of[row.tokens[i]] = row.tokens[i + 1];
      values.insert(row.tokens[i + 1]);
      CHECK(row.targets[i] == -1);
      CHECK(row.targets[i + 1] == -1);
    }
    CHECK(value_of.size() == pairs);  // distinct keys, distinct values
    CHECK(values.size() == pairs);

    std::set<std::int32_t> asked;
    for (std::size_t i = 2 * pairs; i < row.tokens.size(); ++i) {
      if (row.targets[i] < 0) {
        CHECK(row.tokens[i] == 0);
        continue;
      }
      CHECK(i % 2 == 0);
      CHECK(row.targets[i] == value_of.at(row.tokens[i]));
      REQUIRE(i + 1 < row.tokens.size());
      CHECK(row.tokens[i + 1] == row.targets[i]);
      asked.insert(row.tokens[i]);
      ++i;  // the value itself
      CHECK(row.targets[i] == -1);
    }
    CHECK(asked.size() == pairs);
  }
}

TEST_CASE("the first query's slot follows the power law") {
  // With one pair the slot is one draw with probability (g + 1)^(power - 1) / sum.
  constexpr int rows = 20000, slots = 15;
  for (const double power : {0.01, 1.0, 2.0}) {
    CAPTURE(power);
    int counts[slots] = {};
    for (std::uint64_t i = 0; i < rows; ++i) {
      const auto row = row_of({.row_length = 2 * slots + 2, .pairs = 1, .power = power}, i);
      for (std::size_t g = 0; g < slots; ++g) counts[g] += row.targets[2 + 2 * g] >= 0;
    }
    double sum = 0;
    for (int g = 0; g < slots; ++g) sum += std::pow(g + 1, power - 1);
    for (int g = 0; g < slots; ++g) {
      const double expected = std::pow(g + 1, power - 1) / sum;
      const double sigma = std::sqrt(expected * (1 - expected) / rows);
      CHECK(std::abs(static_cast<double>(counts[g]) / rows - expected) < 4 * sigma);
    }
  }
}

TEST_CASE("slots are drawn without replacement, each weighted among those that are left") {
  // Two slots of three, weights 1, 1/2, 1/3 (power 0.0...): P(first query's key in slot 0, second's in slot
  // 1) = 6/11 * (1/2) / (5/6) = 36/110.
  constexpr int rows = 20000;
  int hits = 0;
  for (std::uint64_t i = 0; i < rows; ++i) {
    const auto row = row_of({.row_length = 10, .pairs = 2, .power = 1e-9}, i);
    hits += row.tokens[4] == row.tokens[0] && row.tokens[6] == row.tokens[2];
  }
  CHECK(std::abs(hits / double{rows} - 36.0 / 110.0) < 4 * std::sqrt(0.33 * 0.67 / rows));
}

TEST_CASE("MQAR rows are reproducible and differ from one another") {
  CHECK(row_of({}, 0).tokens == row_of({}, 0).tokens);
  CHECK(row_of({}, 0).tokens != row_of({}, 1).tokens);
}

TEST_CASE("no held-out binding occurs in training rows, but every key and value does") {
  std::set<std::pair<std::int32_t, std::int32_t>> bindings[2];
  std::set<std::int32_t> tokens[2];
  for (const Split split : {Split::train, Split::held_out})
    for (std::uint64_t i = 0; i < 4000; ++i) {
      const auto row = row_of({.row_length = 16, .pairs = 4, .vocabulary = 64, .split = split}, i);
      for (std::size_t j = 0; j < 8; j += 2) {
        bindings[static_cast<int>(split)].emplace(row.tokens[j], row.tokens[j + 1]);
        tokens[static_cast<int>(split)].insert({row.tokens[j], row.tokens[j + 1]});
      }
    }
  CHECK(bindings[0].size() + bindings[1].size() == 31 * 32);  // every binding, in one of the two
  CHECK(bindings[1].size() > 60);
  for (const auto& binding : bindings[1]) CHECK(!bindings[0].contains(binding));
  CHECK(tokens[0].size() == 63);
}

TEST_CASE("MQAR tasks that cannot be are refused") {
  rf::Random random;
  CHECK_THROWS_WITH_AS((MqarTask{.row_length = 31, .pairs = 8}.row(random)),
                       "MQAR: rows of 31 tokens for 8 pairs; they take at least four tokens a pair",
                       rf::ArgumentError);
  CHECK_THROWS_AS((MqarTask{.pairs = 0}.row(random)), rf::ArgumentError);
  CHECK_THROWS_AS((MqarTask{.row_length = 512, .pairs = 64}.row(random)), rf::ArgumentError);
  CHECK_THROWS_AS((MqarTask{.vocabulary = 255}.row(random)), rf::ArgumentError);
  CHECK_THROWS_AS((MqarTask{.vocabulary = 6}.row(random)), rf::ArgumentError);
  CHECK_THROWS_AS((MqarTask{.power = 0}.row(random)), rf::ArgumentError);
  CHECK_THROWS_AS((MqarTask{.power = NAN}.row(random)), rf::ArgumentError);
}
