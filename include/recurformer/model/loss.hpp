#ifndef RECURFORMER_MODEL_LOSS_HPP
#define RECURFORMER_MODEL_LOSS_HPP

// Next-token losses of a whole model. Logits are the largest activation, so they exist for a block of rows at
// a time: logits of the block, loss and its gradient in place, then the gradient of the hidden states and of
// the matrix.

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "recurformer/cpu/cross_entropy.hpp"
#include "recurformer/model/model.hpp"

namespace rf {

/// loss = cross entropy + divergence_weight · KL(teacher ‖ model), means over the counted tokens.
struct LossOptions {
  double divergence_weight = 0;
  double gradient_scale =
      1;  ///< multiplies the gradient: 1 / counted tokens of everything that is accumulated
};

namespace detail {

/// Rows whose logits fit in a few megabytes.
inline std::int64_t logit_block_rows(std::int64_t vocabulary) {
  return std::clamp<std::int64_t>((std::int64_t{1} << 20) / vocabulary, 16, 4096);
}

}  // namespace detail

/// Sums over rows, so that blocks and batches can be added; the means are sums / counted.
struct LossSums {
  double cross_entropy = 0;
  double divergence = 0;
  std::int64_t counted = 0;

  double mean_cross_entropy() const {
    return counted == 0 ? 0.0 : cross_entropy / static_cast<double>(counted);
  }
  double mean_divergence() const { return counted == 0 ? 0.0 : divergence / static_cast<double>(counted); }
  LossSums& operator+=(const cpu::Losses& block) {
    cross_entropy += block.cross_entropy * static_cast<double>(block.counted_rows);
    divergence += block.divergence * static_cast<double>(block.counted_rows);
    counted += block.counted_rows;
    return *this;
  }
  LossSums& operator+=(const LossSums& other) {
    cross_entropy += other.cross_entropy;
    divergence += other.divergence;
    counted += other.counted;
    return *this;
  }
};

/// Losses from hidden states, with their gradients.
class NextTokenLoss {
 public:
  /// hidden (rows, d_model) -> losses; adds to the gradient of the model's logit matrix and writes d_hidden
  /// (rows, d_model). targets: one per row, -1 for rows that do not count. teacher_hidden (rows, teacher's
  /// d_model) may be null.
  template <class M, class Teacher>
  LossSums backward(const M& model, const float* hidden, std::span<const Token> targets,
                    const LossOptions& options, const Teacher* teacher, const float* teacher_hidden,
                    float* d_hidden, typename M::Gradients& gradients) {
    const std::int64_t d = model.shape().layer.d_model, vocabulary = model.shape().vocabulary;
    return in_blocks(vocabulary, targets, [&](std::int64_t first, std::int64_t rows) {
      model.logits(hidden + first * d, rows, logits_.data());
      cpu::LossArguments arguments{.rows = rows,
                                   .vocabulary = vocabulary,
                                   .logits = logits_.data(),
                                   .targets = targets.data() + first,
                                   .d_logits = logits_.data(),
                                   .gradient_scale = options.gradient_scale};
      if (teacher_hidden) {
        teacher_logits_.reserve(static_cast<std::size_t>(rows * vocabulary));
        teacher->logits(teacher_hidden + first * teacher->shape().layer.d_model, rows,
                        teacher_logits_.data());
        arguments.teacher_logits = teacher_logits_.data();
        arguments.divergence_weight = options.divergence_weight;
      }
      const cpu::Losses losses = cpu::next_token_loss(arguments);
      model.weights().logits().backward(logits_.data(), vocabulary, rows, d_hidden + first * d, d);
      gradients.logits().add_gradient(logits_.data(), vocabulary, hidden + first * d, d, rows);
      return losses;
    });
  }

  /// Losses only; where `predicted` is given, also the most likely token after every row.
  template <class M>
  LossSums forward(const M& model, const float* hidden, std::span<const Token> targets,
                   std::span<Token> predicted = {}) {
    const std::int64_t d = model.shape().layer.d_model, vocabulary = model.shape().vocabulary;
    return in_blocks(vocabulary, targets, [&](std::int64_t first, std::int64_t rows) {
      model.logits(hidden + first * d, rows, logits_.data());
      if (!predicted.empty()) cpu::argmax(logits_.data(), rows, vocabulary, predicted.data() + first);
      return cpu::next_token_loss({.rows = rows,
                                   .vocabulary = vocabulary,
                                   .logits = logits_.data(),
                                   .targets = targets.data() + first});
    });
  }

  /// Losses and KL(teacher ‖ model), without gradients.
  template <class M, class Teacher>
  LossSums compare(const M& model, const float* hidden, const Teacher& teacher, const float* teacher_hidden,
                   std::span<const Token> targets) {
    const std::int64_t d = model.shape().layer.d_model, vocabulary = model.shape().vocabulary;
    return in_blocks(vocabulary, targets, [&](std::int64_t first, std::int64_t rows) {
      model.logits(hidden + first * d, rows, logits_.data());
      teacher_logits_.reserve(static_cast<std::size_t>(rows * vocabulary));
      teacher.logits(teacher_hidden + first * teacher.shape().layer.d_model, rows, teacher_logits_.data());
      return cpu::next_token_loss({.rows = rows,
                                   .vocabulary = vocabulary,
                                   .logits = logits_.data(),
                                   .targets = targets.data() + first,
                                   .teacher_logits = teacher_logits_.data()});
    });
  }

 private:
  template <class Block>
  LossSums in_blocks(std::int64_t vocabulary, std::span<const Token> targets, Block&& block) {
    const std::int64_t most = detail::logit_block_rows(vocabulary),
                       rows = static_cast<std::int64_t>(targets.size());
    logits_.reserve(static_cast<std::size_t>(std::min(most, rows) * vocabulary));
    LossSums sums;
    for (std::int64_t first = 0; first < rows; first += most)
      sums += block(first, std::min(most, rows - first));
    return sums;
  }

  FloatBuffer logits_, teacher_logits_;
};

}  // namespace rf

#endif  // RECURFORMER_MODEL_LOSS_HPP
