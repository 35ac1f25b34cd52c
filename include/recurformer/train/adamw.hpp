#ifndef RECURFORMER_TRAIN_ADAMW_HPP
#define RECURFORMER_TRAIN_ADAMW_HPP

// AdamW over all parameters of a model, with a learning rate for each of them, gradient clipping by the
// global norm, and float master copies of parameters that are stored in bf16 or fp16.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "recurformer/core/error.hpp"
#include "recurformer/cpu/adamw.hpp"
#include "recurformer/model/parameters.hpp"

namespace rf {

struct AdamwOptions {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.1;  ///< of matrices; parameters declared without decay have none
  double clip = 1.0;          ///< largest norm of the whole gradient; 0 turns clipping off
};

class Adamw {
 public:
  /// Optimizer of these parameters, which must outlive it.
  Adamw(std::vector<ParameterRef> parameters, AdamwOptions options)
      : options_(options), parameters_(std::move(parameters)) {
    for (const ParameterRef& parameter : parameters_) {
      auto& state = states_.emplace_back();
      const auto size = static_cast<std::size_t>(parameter.size);
      state.first.resize(size);
      state.second.resize(size);
      if (parameter.dtype != DType::F32)
        with_elements(parameter.dtype, parameter.data, [&](const auto* stored) {
          state.master.resize(size);
          for (std::size_t i = 0; i < size; ++i) state.master[i] = convert<float>(stored[i]);
        });
    }
  }

  /// One update. gradients: float tensors in the order of the parameters. rates: one learning rate per
  /// parameter; 0 leaves the parameter and its moments alone. Returns the norm of the gradient (of parameters
  /// with a rate) before clipping; a norm that is not finite is an error, since the weights would be lost.
  double step(std::span<const ParameterRef> gradients, std::span<const double> rates) {
    check(gradients.size() == parameters_.size() && rates.size() == parameters_.size(), "Adamw::step got ",
          gradients.size(), " gradients and ", rates.size(), " rates for ", parameters_.size(),
          " parameters");
    double squares = 0;
    for (std::size_t i = 0; i < gradients.size(); ++i)
      if (rates[i] != 0)
        squares += cpu::sum_of_squares(static_cast<const float*>(gradients[i].data), gradients[i].size);
    const double norm = std::sqrt(squares);
    check(std::isfinite(norm), "the gradient's norm is not finite at step ", steps_ + 1,
          "; lower the learning rate");
    ++steps_;
    cpu::AdamwStep step{.beta1 = static_cast<float>(options_.beta1),
                        .beta2 = static_cast<float>(options_.beta2),
                        .epsilon = static_cast<float>(options_.epsilon)};
    step.gradient_scale =
        options_.clip > 0 && norm > options_.clip ? static_cast<float>(options_.clip / norm) : 1.0f;
    for (std::size_t i = 0; i < parameters_.size(); ++i)
      if (rates[i] != 0) update(i, step, rates[i], static_cast<const float*>(gradients[i].data));
    return norm;
  }

  /// Updates made so far.
  std::int64_t steps() const { return steps_; }

  /// A named float tensor of the optimizer's state.
  struct StateTensor {
    std::string name;
    std::span<float> values;
  };
  /// Everything a resumed run needs beside steps(): master weights and both moments, in a fixed order.
  std::vector<StateTensor> state() {
    std::vector<StateTensor> out;
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      const std::string& name = parameters_[i].name;
      out.push_back({name + ".weight", master(i)});
      out.push_back({name + ".first_moment", states_[i].first});
      out.push_back({name + ".second_moment", states_[i].second});
    }
    return out;
  }
  /// Call after state() was filled from a file: sets the step count and rounds masters to the stored
  /// parameters.
  void resume(std::int64_t steps) {
    steps_ = steps;
    for (std::size_t i = 0; i < parameters_.size(); ++i)
      with_elements(parameters_[i].dtype, parameters_[i].data, [&]<class T>(T* stored) {
        for (std::size_t k = 0; k < states_[i].master.size(); ++k)
          stored[k] = convert<T>(states_[i].master[k]);
      });
  }

 private:
  struct State {
    std::vector<float> first, second;
    std::vector<float> master;  // empty where the parameter itself is float
  };

  std::span<float> master(std::size_t i) {
    if (!states_[i].master.empty()) return states_[i].master;
    return {static_cast<float*>(parameters_[i].data), static_cast<std::size_t>(parameters_[i].size)};
  }

  void update(std::size_t i, cpu::AdamwStep step, double rate, const float* gradient) {
    const auto t = static_cast<double>(steps_);
    step.rate = static_cast<float>(rate);
    step.decay = parameters_[i].weight_decay ? static_cast<float>(options_.weight_decay) : 0.0f;
    step.correction1 = static_cast<float>(1.0 / (1.0 - std::pow(options_.beta1, t)));
    step.correction2 = static_cast<float>(1.0 / (1.0 - std::pow(options_.beta2, t)));
    with_elements(parameters_[i].dtype, parameters_[i].data, [&](auto* stored) {
      cpu::adamw(step, parameters_[i].size, gradient, master(i).data(), states_[i].first.data(),
                 states_[i].second.data(), stored);
    });
  }

  AdamwOptions options_;
  std::vector<ParameterRef> parameters_;
  std::vector<State> states_;
  std::int64_t steps_ = 0;
};

}  // namespace rf

#endif  // RECURFORMER_TRAIN_ADAMW_HPP
