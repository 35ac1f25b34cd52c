#ifndef RECURFORMER_EVAL_EVALUATE_HPP
#define RECURFORMER_EVAL_EVALUATE_HPP

// What a model is worth: its loss on held-out text, and recall on synthetic tasks (eval/copy.hpp,
// hash_hop.hpp, mqar.hpp). Everything is a function of the seed; held-out rows are disjoint from training
// rows by construction.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <numbers>
#include <span>
#include <vector>

#include "recurformer/eval/task.hpp"
#include "recurformer/eval/token_text.hpp"
#include "recurformer/model/loss.hpp"
#include "recurformer/model/model.hpp"

namespace rf {

/// Told how many rows are done, and of how many.
using EvaluationProgress = std::function<void(std::int64_t done, std::int64_t of)>;

struct TextScore {
  double loss = 0;          ///< nats per token
  std::int64_t tokens = 0;  ///< predicted: those of the held-out part from its second one on

  double perplexity() const { return std::exp(loss); }
  /// Bits per byte of the text that the predicted tokens stand for, which has this many bytes (>= 1): with
  /// bytes as tokens, `tokens`. It compares models of different vocabularies.
  double bits_per_byte(std::int64_t bytes) const {
    return loss / std::numbers::ln2 * (static_cast<double>(tokens) / static_cast<double>(bytes));
  }
};

/// Mean loss over the first `rows` rows of `length` held-out tokens (all there are, if fewer).
/// progress(done, of) is called after every batch of rows.
template <class M>
TextScore evaluate_text(M& model, const TokenText& text_data, std::int64_t length, std::int64_t rows,
                        const EvaluationProgress& progress = {}) {
  const std::int64_t available = std::min(rows, text_data.held_out_rows(length));
  check(available >= 1, "the held-out text has ", text_data.held_out().size(), " tokens; rows of ", length,
        " need more");
  const std::int64_t per_call = std::max<std::int64_t>(1, 4096 / length);
  NextTokenLoss loss;
  LossSums sums;
  for (std::int64_t first = 0; first < available; first += per_call) {
    Batch batch;
    for (std::int64_t r = first; r < std::min(available, first + per_call); ++r)
      text_data.append_held_out_row(batch, length, r);
    sums += loss.forward(model, model.forward(batch.tokens, batch.sequences), batch.targets);
    if (progress) progress(std::min(available, first + per_call), available);
  }
  return {sums.mean_cross_entropy(), sums.counted};
}

/// How a task's answers are counted.
enum class Scoring { per_token, whole_answers };

/// Greedy accuracy on the first `rows` rows that the seed gives of a task's split (CopyTask, HashHopTask,
/// MqarTask): held-out rows for a result, training rows for a decision that results must not have seen.
template <class M, class Task>
TaskScore evaluate_task(M& model, Task task, Split split, std::int64_t rows, std::uint64_t seed,
                        Scoring scoring = Scoring::per_token, const EvaluationProgress& progress = {}) {
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
    if (progress) progress(std::min(rows, first + per_call), rows);
  }
  return score;
}

}  // namespace rf

#endif  // RECURFORMER_EVAL_EVALUATE_HPP
