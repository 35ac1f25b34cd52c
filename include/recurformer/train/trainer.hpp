#ifndef RECURFORMER_TRAIN_TRAINER_HPP
#define RECURFORMER_TRAIN_TRAINER_HPP

// Training of any model, plain or hybrid, in one of two objectives:
//   next_token   cross entropy + divergence_weight · KL(teacher ‖ model): training, and stage 2 of continual
//   training match_heads  stage 1: every replaced head's output is fitted to the teacher's, from the
//   teacher's inputs; per layer
//                Σ (u - u_teacher)² / Σ u_teacher² over the replaced heads' columns. Only their parameters
//                move.
// Each step is a function of the parameters, the optimizer's state and the batch: a run that is stopped and
// resumed (train/checkpointing.hpp) ends with the same bits as one that was not.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "recurformer/model/loss.hpp"
#include "recurformer/model/model.hpp"
#include "recurformer/spec/attention.hpp"
#include "recurformer/train/adamw.hpp"
#include "recurformer/train/data.hpp"
#include "recurformer/train/schedule.hpp"

namespace rf {

enum class Objective { next_token, match_heads };

struct TrainOptions {
  Objective objective = Objective::next_token;
  std::int64_t steps = 1000;
  double rate = 2e-3;              ///< peak learning rate of pretrained parameters
  double new_rate = 2e-3;          ///< of parameters of replaced heads
  std::int64_t warmup = 30;        ///< steps
  double rate_floor = 0.05;        ///< cosine's end as a share of the peak
  double divergence_weight = 0.0;  ///< of KL to the teacher
  std::int64_t accumulate = 1;     ///< micro-batches per step, their gradients added
  /// Recomputed: less memory, more time, the same result.
  Activations activations = Activations::kept;
  AdamwOptions adamw = {};
};

/// Throws ArgumentError, naming the option, unless training with them makes sense.
inline void validate(const TrainOptions& options) {
  check(options.steps >= 1, "steps is ", options.steps, "; it must be at least 1");
  check(options.rate >= 0 && options.new_rate >= 0, "learning rates are ", options.rate, " and ",
        options.new_rate, "; they must not be negative");
  check(options.warmup >= 0, "warmup is ", options.warmup, " steps; it must not be negative");
  check(options.rate_floor >= 0 && options.rate_floor <= 1, "rate_floor is ", options.rate_floor,
        "; allowed: 0 to 1");
  check(options.divergence_weight >= 0, "divergence_weight is ", options.divergence_weight,
        "; it must not be negative");
  check(options.accumulate >= 1, "accumulate is ", options.accumulate, "; it must be at least 1");
}

/// What one step did.
struct StepReport {
  std::int64_t step = 0;  ///< steps done, this one included
  double loss = 0;  ///< cross entropy in nats per token, or the mean relative error of the heads per layer
  double divergence = 0;     ///< KL to the teacher in nats per token; 0 without a teacher
  double gradient_norm = 0;  ///< before clipping
  std::int64_t tokens = 0;   ///< of this step
};

/// True for kinds whose heads have parameters of their own.
template <class... K>
std::vector<bool> kinds_with_own_parameters(Kinds<K...>) {
  return {!reuses_attention_weights<typename K::Mixer>...};
}

template <class M>
class Trainer {
 public:
  /// Trains `model`, which must outlive the trainer; so must the teacher, which match_heads and divergences
  /// need.
  Trainer(M& model, TrainOptions options, M* teacher = nullptr)
      : model_(model),
        teacher_(teacher),
        options_(options),
        gradients_(model.make_gradients()),
        gradient_refs_(parameter_refs(gradients_)),
        optimizer_(parameter_refs(model.weights()), options.adamw),
        own_(kinds_with_own_parameters(typename M::Kinds{})) {
    validate(options);
    tape_.activations = teacher_tape_.activations = options.activations;
    check(teacher || (options.objective == Objective::next_token && options.divergence_weight == 0),
          "this training compares with an original model, but none was given");
    if (teacher)
      check(teacher->shape() == model.shape(),
            "the original model and the trained one have different shapes");
  }

  const TrainOptions& options() const { return options_; }
  Adamw& optimizer() { return optimizer_; }
  /// Steps done so far.
  std::int64_t steps() const { return optimizer_.steps(); }
  bool done() const { return steps() >= options_.steps; }

  /// One step; batch_of(i) gives the run's i-th micro-batch.
  template <class Batches>
  StepReport step(Batches&& batch_of) {
    std::vector<Batch> batches;
    std::int64_t counted = 0;
    StepReport report;
    for (std::int64_t i = 0; i < options_.accumulate; ++i) {
      const Batch& batch = batches.emplace_back(batch_of(steps() * options_.accumulate + i));
      counted += cpu::counted_rows(batch.targets.data(), batch.rows());
      report.tokens += batch.rows();
    }
    clear(gradients_);
    const double factor = WarmupCosine{options_.steps, options_.warmup, options_.rate_floor}(steps());
    if (options_.objective == Objective::next_token) {
      LossSums sums;
      for (const Batch& batch : batches)
        sums += next_token(batch, counted == 0 ? 0.0 : 1.0 / static_cast<double>(counted));
      report.loss = sums.mean_cross_entropy();
      report.divergence = sums.mean_divergence();
    } else {
      for (const Batch& batch : batches)
        report.loss += match_heads(batch) / static_cast<double>(batches.size());
    }
    report.gradient_norm = optimizer_.step(gradient_refs_, rates(factor));
    report.step = steps();
    return report;
  }

 private:
  std::vector<double> rates(double factor) const {
    std::vector<double> out;
    for (const ParameterRef& gradient : gradient_refs_) {
      const bool own = gradient.kind >= 0 && own_[static_cast<std::size_t>(gradient.kind)];
      const double shared_rate = options_.objective == Objective::match_heads ? 0.0 : options_.rate;
      out.push_back(factor * (own ? options_.new_rate : shared_rate));
    }
    return out;
  }

  LossSums next_token(const Batch& batch, double scale);

  /// Adds the gradients of the heads' relative errors; returns their mean over layers with replaced heads.
  double match_heads(const Batch& batch);

  /// Relative squared error of the given groups' columns of heads_.out; its gradient goes to d_out_.
  double head_error(std::int64_t rows, const std::vector<int>& groups, const float* target);

  M& model_;
  M* teacher_;
  TrainOptions options_;
  typename M::Gradients gradients_;
  std::vector<ParameterRef> gradient_refs_;
  Adamw optimizer_;
  std::vector<bool> own_;
  NextTokenLoss loss_;
  ModelTape tape_, teacher_tape_;
  HeadsTape heads_;
  FloatBuffer d_hidden_, d_out_, scratch_;
};

// Not in the class, for `extern template`, as in model/model.hpp.

template <class M>
LossSums Trainer<M>::next_token(const Batch& batch, double scale) {
  const float* teacher_hidden = nullptr;
  const bool compare = teacher_ && options_.divergence_weight > 0;
  if (compare) teacher_hidden = teacher_->forward(batch.tokens, batch.sequences);
  model_.forward(batch.tokens, batch.sequences, tape_);
  d_hidden_.reserve(static_cast<std::size_t>(batch.rows() * model_.shape().layer.d_model));
  const LossSums sums =
      loss_.backward(model_, tape_.hidden.data(), batch.targets,
                     {.divergence_weight = options_.divergence_weight, .gradient_scale = scale}, teacher_,
                     teacher_hidden, d_hidden_.data(), gradients_);
  model_.backward(tape_, d_hidden_.data(), gradients_);
  return sums;
}

template <class M>
double Trainer<M>::match_heads(const Batch& batch) {
  const LayerShape& shape = model_.shape().layer;
  teacher_->forward(batch.tokens, batch.sequences, teacher_tape_);
  std::int64_t longest = 0;
  for (const SequenceRows& s : batch.sequences) longest = std::max(longest, s.rows);
  const ForwardCall call{.rows = batch.rows(), .sequences = batch.sequences, .rope = &model_.rope(longest)};
  const auto replaced = [&](std::size_t kind) { return bool(own_[kind]); };
  double error = 0;
  int layers = 0;
  for (std::size_t l = 0; l < model_.weights().layers.size(); ++l) {
    const auto& layer = model_.weights().layers[l];
    std::vector<int> groups;
    layer.for_each_run([&](std::size_t kind, const auto& run) {
      if (replaced(kind)) groups.insert(groups.end(), run.groups.begin(), run.groups.end());
    });
    if (groups.empty()) continue;
    const LayerTape& target = teacher_->layer_tape(teacher_tape_, l);
    forward_heads<typename M::Widths>(layer, shape, call, l, target.h.data(), heads_, true, replaced);
    error += head_error(batch.rows(), groups, target.heads.out.data());
    ++layers;
    backward_heads<typename M::Widths>(layer, gradients_.layers[l], shape, call, target.h.data(), heads_,
                                       d_out_.data(), nullptr, scratch_, replaced);
  }
  return layers == 0 ? 0.0 : error / layers;
}

template <class M>
double Trainer<M>::head_error(std::int64_t rows, const std::vector<int>& groups, const float* target) {
  const LayerShape& shape = model_.shape().layer;
  const std::int64_t width = shape.heads_width(), columns = shape.head_shape().group_width();
  d_out_.reserve(static_cast<std::size_t>(rows * width));
  double power = 0, error = 0;
  const auto for_each_element = [&](auto&& f) {
    for (std::int64_t r = 0; r < rows; ++r)
      for (const int group : groups)
        for (std::int64_t i = 0; i < columns; ++i) f(r * width + group * columns + i);
  };
  for_each_element(
      [&](std::int64_t i) { power += static_cast<double>(target[i]) * static_cast<double>(target[i]); });
  const float scale =
      static_cast<float>(2.0 / (std::max(power, 1e-30) * static_cast<double>(options_.accumulate)));
  for_each_element([&](std::int64_t i) {
    const float difference = heads_.out.data()[i] - target[i];
    error += static_cast<double>(difference) * static_cast<double>(difference);
    d_out_.data()[i] = scale * difference;
  });
  return error / std::max(power, 1e-30);
}

}  // namespace rf

#endif  // RECURFORMER_TRAIN_TRAINER_HPP
