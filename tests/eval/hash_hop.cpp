#include "recurformer/eval/hash_hop.hpp"

#include <doctest/doctest.h>

#include <cstddef>
#include <map>
#include <set>
#include <string>
#include <vector>

using rf::HashHopTask;
using rf::Split;

namespace {

std::string text_of(const rf::TaskRow& row) { return {row.tokens.begin(), row.tokens.end()}; }

rf::TaskRow row_of(const HashHopTask& task, std::uint64_t index) {
  auto random = rf::task_random(7, task.split, index);
  return task.row(random);
}

struct Parsed {
  std::map<std::string, std::string> next;  // without quotes
  std::set<std::string> ends;               // right sides that were quoted
  std::vector<std::pair<std::string, std::string>> queries;
};

/// Reads a row back, by its text only.
Parsed parse(const std::string& text) {
  Parsed out;
  bool queries = false;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = text.find('\n', at);
    const std::string line = text.substr(at, end - at);
    at = end + 1;
    if (line.empty()) {
      queries = true;
      continue;
    }
    const std::size_t equals = line.find(" = ");
    REQUIRE(equals != std::string::npos);
    const std::string left = line.substr(0, equals);
    std::string right = line.substr(equals + 3);
    const bool quoted = right.front() == '\'';
    if (quoted) right = right.substr(1, right.size() - 2);
    if (queries) {
      CHECK(quoted);
      out.queries.emplace_back(left, right);
    } else {
      CHECK(out.next.emplace(left, right).second);
      if (quoted) out.ends.insert(right);
    }
  }
  return out;
}

}  // namespace

TEST_CASE("HashHop rows are chains, and the answer is the end of the one that is asked for") {
  const HashHopTask tasks[] = {{},
                               {.chains = 1, .hash_length = 1},
                               {.chains = 5, .hops = 3, .hash_length = 3, .queries = 5},
                               {.chains = 20, .hops = 2, .hash_length = 8, .queries = 2}};
  for (const auto& task : tasks) {
    CAPTURE(task.chains);
    const auto row = row_of(task, 0);
    REQUIRE(row.tokens.size() == static_cast<std::size_t>(task.length()));
    REQUIRE(row.targets.size() == row.tokens.size());
    const auto parsed = parse(text_of(row));
    CHECK(parsed.next.size() == static_cast<std::size_t>(task.chains * task.hops));
    CHECK(parsed.ends.size() == static_cast<std::size_t>(task.chains));
    REQUIRE(parsed.queries.size() == static_cast<std::size_t>(task.queries));

    std::set<std::string> asked;
    std::string answers;
    for (const auto& [start, answer] : parsed.queries) {
      std::string at = start;
      for (std::int64_t hop = 0; hop < task.hops; ++hop) at = parsed.next.at(at);
      CHECK(at == answer);
      CHECK(parsed.ends.contains(answer));
      asked.insert(start);
      answers += answer;
    }
    CHECK(asked.size() == parsed.queries.size());

    // Scored: exactly the answers, each character one position ahead.
    std::string scored;
    for (std::size_t i = 0; i < row.targets.size(); ++i)
      if (row.targets[i] >= 0) {
        REQUIRE(i + 1 < row.tokens.size());
        CHECK(row.targets[i] == row.tokens[i + 1]);
        scored += static_cast<char>(row.targets[i]);
      }
    CHECK(scored == answers);
  }
}

TEST_CASE("HashHop lines are shuffled, and any chain is asked for") {
  const HashHopTask task{.chains = 4, .hops = 2};
  std::set<std::size_t> positions;  // of the line that starts the chain that is asked for
  for (std::uint64_t i = 0; i < 200; ++i) {
    const std::string text = text_of(row_of(task, i));
    const std::string start = parse(text).queries[0].first;
    std::size_t line = 0;
    for (std::size_t at = 0; text.compare(at, 4, start) != 0; at = text.find('\n', at) + 1) ++line;
    positions.insert(line);
  }
  CHECK(positions == std::set<std::size_t>{0, 1, 2, 3, 4, 5, 6, 7});
}

TEST_CASE("HashHop is scored by character and by exact match") {
  const HashHopTask task{.chains = 3, .hash_length = 5, .queries = 2};
  const auto row = row_of(task, 1);
  auto predicted = row.targets;
  CHECK(rf::score_answers(row, predicted).correct == 2);
  for (std::size_t i = 0; i < predicted.size(); ++i)
    if (row.targets[i] >= 0) {
      predicted[i] = '?';
      break;
    }
  CHECK(rf::score_tokens(row, predicted).correct == 9);
  CHECK(rf::score_tokens(row, predicted).total == 10);
  CHECK(rf::score_answers(row, predicted).correct == 1);
  CHECK(rf::score_answers(row, predicted).total == 2);
}

TEST_CASE("HashHop rows are reproducible and differ from one another") {
  const HashHopTask task;
  CHECK(row_of(task, 0).tokens == row_of(task, 0).tokens);
  CHECK(row_of(task, 0).tokens != row_of(task, 1).tokens);
}

TEST_CASE("no held-out hash occurs in training rows") {
  std::set<std::string> seen[2];
  for (const Split split : {Split::train, Split::held_out})
    for (std::uint64_t i = 0; i < 2000; ++i)
      for (const auto& [left, right] :
           parse(text_of(row_of({.chains = 10, .hash_length = 2, .split = split}, i))).next) {
        seen[static_cast<int>(split)].insert(left);
        seen[static_cast<int>(split)].insert(right);
      }
  CHECK(seen[0].size() + seen[1].size() == 52 * 52);  // every hash was drawn, in one of the two
  CHECK(seen[1].size() > 200);
  for (const auto& hash : seen[1]) CHECK(!seen[0].contains(hash));
}

TEST_CASE("HashHop tasks that cannot be are refused") {
  rf::Random random;
  CHECK_THROWS_WITH_AS((HashHopTask{.chains = 2, .queries = 3}.row(random)),
                       "HashHop: 3 queries; allowed: 1 to the 2 chains", rf::ArgumentError);
  CHECK_THROWS_AS((HashHopTask{.chains = 0}.row(random)), rf::ArgumentError);
  CHECK_THROWS_AS((HashHopTask{.hops = 0}.row(random)), rf::ArgumentError);
  CHECK_THROWS_AS((HashHopTask{.hash_length = 0}.row(random)), rf::ArgumentError);
  // 52 hashes of one letter, of which about 6 are held out, are not enough for 16.
  CHECK_THROWS_WITH_AS(
      (HashHopTask{.hash_length = 1, .split = Split::held_out}.row(random)),
      "HashHop: this split has too few strings left to draw from; use longer hashes, fewer chains "
      "or fewer hops",
      rf::ArgumentError);
}
