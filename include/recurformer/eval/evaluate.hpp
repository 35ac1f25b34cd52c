#ifndef RECURFORMER_EVAL_EVALUATE_HPP
#define RECURFORMER_EVAL_EVALUATE_HPP

// What a model is worth: bits per byte of held-out text, and recall on synthetic tasks (eval/copy.hpp,
// hash_hop.hpp, mqar.hpp). Everything is a function of the seed; held-out rows are disjoint from training
// rows by construction.

#include <algorithm>
#include <cstdint>
#include <numbers>
#include <span>
#include <vector>

#include "recurformer/eval/byte_text.hpp"
#include "recurformer/eval/task.hpp"
#include "recurformer/model/loss.hpp"
#include "recurformer/model/model.hpp"

namespace rf {

struct TextScore {
  double bits_per_byte = 0;
  std::int64_t bytes = 0;  ///< predicted
};

/// Bits per byte over the first `rows` rows of `length` held-out bytes (all there are, if fewer).
template <class M>
TextScore evaluate_text(M& model, const ByteText& text_data, std::int64_t length, std::int64_t rows) {
  const std::int64_t available = std::min(rows, text_data.held_out_rows(length));
  check(available >= 1, "the held-out text has ", text_data.held_out().size(), " bytes; rows of ", length,
        " tokens need more");
  const std::int64_t per_call = std::max<std::int64_t>(1, 4096 / length);
  NextTokenLoss loss;
  LossSums sums;
  for (std::int64_t first = 0; first < available; first += per_call) {
    Batch batch;
    for (std::int64_t r = first; r < std::min(available, first + per_call); ++r)
      text_data.append_held_out_row(batch, length, r);
    sums += loss.forward(model, model.forward(batch.tokens, batch.sequences), batch.targets);
  }
  return {sums.mean_cross_entropy() / std::numbers::ln2, sums.counted};
}

/// How a task's answers are counted.
enum class Scoring { per_token, whole_answers };

/// Greedy accuracy on the first `rows` rows that the seed gives of a task's split (CopyTask, HashHopTask,
/// MqarTask): held-out rows for a result, training rows for a decision that results must not have seen.
template <class M, class Task>
TaskScore evaluate_task(M& model, Task task, Split split, std::int64_t rows, std::uint64_t seed,
                        Scoring scoring = Scoring::per_token) {
  task.split = split;
  const std::int64_t per_call = std::max<std::int64_t>(1, 4096 / task.length());
  NextTokenLoss loss;
  TaskScore score;
  for (std::int64_t first = 0; first < rows; first += per_call) {
    Batch batch;
    std::vector<TaskRow> task_rows;
    for (std::int64_t r = first; r < std::min(rows, first + per_call); ++r) {
      Random random = task_random(seed, split, static_cast<std::uint64_t>(r));
      const TaskRow& row = task_rows.emplace_back(task.row(random));
      batch.append(row.tokens, row.targets);
    }
    std::vector<Token> predicted(batch.tokens.size());
    loss.forward(model, model.forward(batch.tokens, batch.sequences), batch.targets, predicted);
    for (std::size_t r = 0; r < task_rows.size(); ++r) {
      const auto of_row = std::span<const Token>(predicted).subspan(
          static_cast<std::size_t>(batch.sequences[r].first_row), task_rows[r].tokens.size());
      score += scoring == Scoring::per_token ? score_tokens(task_rows[r], of_row)
                                             : score_answers(task_rows[r], of_row);
    }
  }
  return score;
}

}  // namespace rf

#endif  // RECURFORMER_EVAL_EVALUATE_HPP
