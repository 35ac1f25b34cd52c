#ifndef RECURFORMER_EVAL_TASK_HPP
#define RECURFORMER_EVAL_TASK_HPP

// Synthetic tasks that only succeed by looking far back: fixed-lag copy (copy.hpp), HashHop (hash_hop.hpp)
// and multi-query associative recall (mqar.hpp). Each is a struct with `Split split`, `std::int64_t length()
// const` and `TaskRow row(Random&) const`. A row is plain next-token text, so that a model can be trained on
// it like on any other text; the answers are what is scored.
//
// Training and held-out rows never share an answer: each task names the strings that carry its information
// (copied patterns, hashes, key-value pairs), and a hash of such a string decides which of the two splits may
// use it. Seeds of their own (task_random) separate the rest.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "recurformer/core/error.hpp"
#include "recurformer/core/random.hpp"

namespace rf {

/// One sequence. targets[i] is the token to be predicted after tokens[i], -1 where that is not scored.
/// Both have the same length.
struct TaskRow {
  std::vector<std::int32_t> tokens;
  std::vector<std::int32_t> targets;
};

/// How many answers were right.
struct TaskScore {
  std::int64_t correct = 0;
  std::int64_t total = 0;

  /// In [0, 1]; 0 when nothing was scored.
  double accuracy() const {
    return total == 0 ? 0.0 : static_cast<double>(correct) / static_cast<double>(total);
  }
  TaskScore& operator+=(const TaskScore& other) {
    correct += other.correct;
    total += other.total;
    return *this;
  }
};

/// Which rows: one string in eight is held out from training.
enum class Split : std::uint8_t { train, held_out };

/// The random numbers of row `index` of a split.
inline Random task_random(std::uint64_t seed, Split split, std::uint64_t index) {
  return Random::stream(Random::stream(seed, static_cast<std::uint64_t>(split)).bits(), index);
}

/// The split that may use this string; the same in every run, on every machine.
inline Split split_of(std::span<const std::int32_t> string) {
  std::uint64_t hash = string.size();
  for (const std::int32_t token : string)
    hash = Random::stream(hash, static_cast<std::uint64_t>(static_cast<std::uint32_t>(token))).bits();
  return hash % 8 == 0 ? Split::held_out : Split::train;
}

namespace detail {

/// Calls draw() until it returns true. Where a task leaves too few strings to one split, this ends with an
/// error instead of running forever: a share of one in eight is missed 10000 times with probability 1e-580.
template <class Draw>
void draw_until(Draw&& draw, const char* task, const char* remedy) {
  for (int attempt = 0; attempt < 10000; ++attempt)
    if (draw()) return;
  throw ArgumentError(text(task, ": this split has too few strings left to draw from; ", remedy));
}

inline void check_predicted(const TaskRow& row, std::span<const std::int32_t> predicted) {
  check(predicted.size() == row.targets.size(), "a row of ", row.targets.size(), " tokens was scored with ",
        predicted.size(), " predictions; pass one for every position");
}

}  // namespace detail

/// Every scored position by itself. predicted[i] is the model's token after tokens[0..i], one per position;
/// those at positions that are not scored are ignored.
inline TaskScore score_tokens(const TaskRow& row, std::span<const std::int32_t> predicted) {
  detail::check_predicted(row, predicted);
  TaskScore score;
  for (std::size_t i = 0; i < predicted.size(); ++i) {
    if (row.targets[i] < 0) continue;
    ++score.total;
    score.correct += predicted[i] == row.targets[i];
  }
  return score;
}

/// Whole answers: a maximal stretch of scored positions counts once, and only if all of it is right.
inline TaskScore score_answers(const TaskRow& row, std::span<const std::int32_t> predicted) {
  detail::check_predicted(row, predicted);
  TaskScore score;
  bool right = false;
  for (std::size_t i = 0; i < predicted.size(); ++i) {
    if (row.targets[i] < 0) continue;
    const bool first = i == 0 || row.targets[i - 1] < 0;
    const bool last = i + 1 == predicted.size() || row.targets[i + 1] < 0;
    right = (first || right) && predicted[i] == row.targets[i];
    if (!last) continue;
    ++score.total;
    score.correct += right;
  }
  return score;
}

}  // namespace rf

#endif  // RECURFORMER_EVAL_TASK_HPP
