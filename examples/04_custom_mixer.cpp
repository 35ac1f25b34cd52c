// 04  A mixer of your own, written outside the library: a head that looks back through a Gaussian window.
//
//   g++ -std=c++20 -O2 -march=native -pthread -I include examples/04_custom_mixer.cpp -o 04_custom_mixer
//   ./04_custom_mixer
//
//   y_t = Σ_{lag < 16} w_lag v_{t-lag},   w_lag = softmax over lags of -½ lag² e^p,   one learnt p per head
//
// A mixer declares its parameters and what decoding must remember. With a kernel, forward and backward, it
// takes the same path as those of the library: specs, layers, cache, snapshots, rollback, training, files.
// (Conversion takes a rf::Transfer more: tests/model/custom_mixer.cpp.) Next: 05_custom_precision.cpp.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <deque>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

#include "recurformer/cpu/attention_mixer.hpp"
#include "recurformer/model/loss.hpp"
#include "recurformer/model/model.hpp"
#include "recurformer/model/reference_model.hpp"
#include "recurformer/reference/attention.hpp"
#include "recurformer/spec/attention.hpp"

// --- The mixer: what it is --------------------------------------------------------------------------------

namespace user {

struct GaussianWindow {
  static constexpr std::string_view name = "gaussian", module = "gaussian";
  static constexpr std::int64_t window = 16;

  /// v of every head is projected from the layer's input; p is used as it is.
  constexpr std::array<rf::ParameterSpec, 2> parameters(const rf::HeadShape& shape) const {
    return {rf::ParameterSpec{.name = "v_proj.weight",
                              .role = rf::Role::projection,
                              .unit = rf::Unit::head,
                              .slice = rf::slice_of(shape.d_head, shape.d_model),
                              .initialise = rf::initial::projection},
            rf::ParameterSpec{
                .name = "log_precision",
                .unit = rf::Unit::head,
                .slice = rf::slice_of(1),
                .initialise = [](std::span<float> p, const rf::HeadShape&, rf::Random&) { p[0] = -3; },
                .weight_decay = false}};
  }
  /// The latest 16 rows of v.
  constexpr std::array<rf::CacheField, 1> cache_fields(const rf::HeadShape& shape) const {
    return {rf::CacheField{.name = "value",
                           .kind = rf::FieldKind::ring,
                           .unit = rf::Unit::head,
                           .slice = rf::slice_of(shape.d_head),
                           .window = window}};
  }
};

/// w of one head, and its derivative by p.
struct Weights {
  std::array<float, GaussianWindow::window> w{}, dw{};

  explicit Weights(float p) {
    const auto energy = [&](std::size_t lag) { return -0.5f * static_cast<float>(lag * lag) * std::exp(p); };
    float sum = 0, mean = 0;
    for (std::size_t lag = 0; lag < w.size(); ++lag) sum += w[lag] = std::exp(energy(lag));
    for (std::size_t lag = 0; lag < w.size(); ++lag) mean += (w[lag] /= sum) * energy(lag);
    for (std::size_t lag = 0; lag < w.size(); ++lag) dw[lag] = w[lag] * (energy(lag) - mean);
  }
};

}  // namespace user

// --- The plain version: its definition, one KV group of one sequence, in double ---------------------------

template <>
struct rf::reference::MixerReference<user::GaussianWindow> {
  struct State {
    std::deque<std::vector<double>> latest;  // v of the tokens before, the last one in front
  };
  static void forward(const user::GaussianWindow&, const HeadShape& shape, const GroupArguments& x,
                      State& state) {
    const auto width = static_cast<std::size_t>(shape.group_width()),
               head = static_cast<std::size_t>(shape.d_head);
    for (std::size_t t = 0; t < static_cast<std::size_t>(x.rows); ++t) {
      state.latest.emplace_front(x.projected + t * width, x.projected + (t + 1) * width);
      if (state.latest.size() > 16) state.latest.pop_back();
      for (std::size_t c = 0; c < width; ++c) {
        double sum = 0, out = 0;
        for (std::size_t lag = 0; lag < 16; ++lag) {
          const double w = std::exp(-0.5 * static_cast<double>(lag * lag) * std::exp(x.local[0][c / head]));
          sum += w;
          if (lag < state.latest.size()) out += w * state.latest[lag][c];
        }
        x.out[t * width + c] = out / sum;
      }
    }
  }
};

// --- The kernel: all groups of a run at once, from the cached past ----------------------------------------

template <>
struct rf::cpu::MixerKernel<user::GaussianWindow> {
  /// Calls f(sequence's index, group, head's first column in the run, in the layer's output, w).
  template <class Arguments, class F>
  static void for_each_head(const Arguments& x, F&& f) {
    for (std::size_t s = 0; s < x.sequences.size(); ++s)
      for (std::size_t g = 0; g < x.groups.size(); ++g)
        for (int query = 0; query < x.shape.queries_per_group; ++query) {
          const std::int64_t head = static_cast<std::int64_t>(g) * x.shape.queries_per_group + query;
          const std::int64_t out = x.groups[g] * x.shape.group_width() + query * x.shape.d_head;
          f(s, head, head * x.shape.d_head, out, user::Weights(x.local[0][head]));
        }
  }

  template <class Precision, class Widths>
  static void forward(const user::GaussianWindow& mixer, const ForwardArguments& x) {
    static_assert(std::is_same_v<typename Precision::Cache, float>, "this kernel keeps its cache in float");
    for_each_head(x, [&](std::size_t s, std::int64_t head, std::int64_t column, std::int64_t out,
                         const user::Weights& weights) {
      const SequenceRows& rows = x.sequences[s];
      const auto v = [&](std::int64_t row) { return x.projected.row(rows.first_row + row) + column; };
      const FieldView ring = x.cache.empty() ? FieldView{} : x.cache.field(s, 0);
      const auto past = [&](std::int64_t position) {
        return static_cast<float*>(ring.data) +
               (head * ring.capacity + position % ring.capacity) * x.shape.d_head;
      };
      for (std::int64_t r = 0; r < rows.rows; ++r) {
        float* y = x.out.row(rows.first_row + r) + out;
        std::fill_n(y, x.shape.d_head, 0.0f);
        for (std::int64_t lag = 0; lag < mixer.window && lag <= rows.position + r; ++lag) {
          const float* from = lag <= r ? v(r - lag) : past(rows.position + r - lag);
          for (int i = 0; i < x.shape.d_head; ++i) y[i] += weights.w[static_cast<std::size_t>(lag)] * from[i];
        }
      }
      if (ring.data == nullptr) return;
      for (std::int64_t r = 0; r < rows.rows; ++r) std::copy_n(v(r), x.shape.d_head, past(rows.position + r));
    });
  }

  /// Nothing is kept for backward but v and p, which it gets anyway.
  static std::int64_t saved_size(const user::GaussianWindow&, const HeadShape&, std::int64_t,
                                 std::span<const SequenceRows>) {
    return 0;
  }

  template <class Precision, class Widths>
  static void backward(const user::GaussianWindow& mixer, const BackwardArguments& x) {
    for_each_head(x, [&](std::size_t s, std::int64_t head, std::int64_t column, std::int64_t out,
                         const user::Weights& weights) {
      const std::int64_t first = x.sequences[s].first_row, end = first + x.sequences[s].rows;
      for (std::int64_t r = first; r < end; ++r)
        std::fill_n(x.d_projected.row(r) + column, x.shape.d_head, 0.0f);
      for (std::int64_t r = first; r < end; ++r)
        for (std::int64_t lag = 0; lag < mixer.window && r - lag >= first; ++lag) {
          const float* dy = x.d_out.row(r) + out;
          const float* v = x.projected.row(r - lag) + column;
          float* dv = x.d_projected.row(r - lag) + column;
          float along = 0;
          for (int i = 0; i < x.shape.d_head; ++i) {
            dv[i] += weights.w[static_cast<std::size_t>(lag)] * dy[i];
            along += dy[i] * v[i];
          }
          x.d_local[0][head] += weights.dw[static_cast<std::size_t>(lag)] * along;
        }
    });
  }
};

// --- Used like any other ----------------------------------------------------------------------------------

struct MyLayer {
  static constexpr rf::LayerShape shape{
      .d_model = 24, .d_head = 16, .kv_groups = 3, .queries_per_group = 2, .d_ff = 20};
  using Precision = rf::Fp32;
  using Runs = rf::Runs<rf::Run<1, rf::Attention<>, rf::Fp32>, rf::Run<2, user::GaussianWindow, rf::Fp32>>;
};
struct MyModel {
  static constexpr rf::ModelShape shape{.vocabulary = 30, .tied_embeddings = true};
  using Layers = rf::Layers<MyLayer, MyLayer>;
};
using Tokens = std::vector<rf::Token>;

Tokens random_tokens(std::uint64_t seed) {
  rf::Random random(seed);
  Tokens out;
  for (int i = 0; i < 40; ++i) out.push_back(static_cast<rf::Token>(random.below(30)));
  return out;
}

/// Largest difference of the logits after the last token, fed in pieces with four tokens taken back, from the
/// definition's.
double forward_error(rf::Model<MyModel>& model, const Tokens& tokens) {
  const std::vector<double> expected = rf::reference::logits(model.weights(), tokens);
  rf::Cache cache = model.make_cache({.max_rollback = 4});
  model.next_logits(std::span(tokens).first(25), cache);
  model.next_logits(Tokens{5, 6, 7, 8}, cache);
  cache.rollback(4);
  const auto logits = model.next_logits(std::span(tokens).subspan(25), cache);
  double worst = 0;
  for (std::size_t i = 0; i < 30; ++i)
    worst = std::max(worst, std::abs(static_cast<double>(logits[i]) - expected[39 * 30 + i]));
  return worst;
}

rf::Model<MyModel>::Gradients gradients_of(rf::Model<MyModel>& model, const Tokens& tokens,
                                           const Tokens& targets) {
  auto gradients = model.make_gradients();
  const rf::SequenceRows sequence{.rows = 40};
  rf::ModelTape tape;
  model.forward(tokens, {&sequence, 1}, tape);
  std::vector<float> d_hidden(40 * 24);
  rf::NextTokenLoss().backward(model, tape.hidden.data(), targets, {.gradient_scale = 1.0 / 40},
                               static_cast<const rf::Model<MyModel>*>(nullptr), nullptr, d_hidden.data(),
                               gradients);
  model.backward(tape, d_hidden.data(), gradients);
  return gradients;
}

/// The definition's slope along one parameter, by finite differences.
double slope_of(rf::Model<MyModel>& model, float& parameter, const Tokens& tokens, const Tokens& targets) {
  const float kept = parameter, step = 1e-2f;
  const auto loss_at = [&](float value) {
    parameter = value;
    return rf::reference::cross_entropy_of(rf::reference::logits(model.weights(), tokens), targets);
  };
  const double slope = (loss_at(kept + step) - loss_at(kept - step)) / (2 * static_cast<double>(step));
  parameter = kept;
  return slope;
}

int main() {
  rf::Model<MyModel> model;
  rf::initialise(model.weights(), 3);
  const Tokens tokens = random_tokens(1), targets = random_tokens(2);
  const double error = forward_error(model, tokens);
  std::printf("logits differ from the definition's by %.1e\n", error);
  int mistakes = error > 1e-4;

  auto gradients = gradients_of(model, tokens, targets);
  const auto parameters = rf::parameter_refs(model.weights()), computed = rf::parameter_refs(gradients);
  for (std::size_t p = 0; p < parameters.size(); ++p) {
    if (parameters[p].kind != 1) continue;  // the second kind of the spec: ours
    const double slope = slope_of(model, static_cast<float*>(parameters[p].data)[1], tokens, targets);
    const double gradient = static_cast<double>(static_cast<const float*>(computed[p].data)[1]);
    std::printf("%-45s slope %10.6f  gradient %10.6f\n", parameters[p].name.c_str(), slope, gradient);
    mistakes += std::abs(slope - gradient) > 5e-3 * std::abs(slope);
  }
  return mistakes == 0 ? 0 : 1;
}
