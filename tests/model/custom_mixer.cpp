// A mixer written outside the library: an exponential moving average of values, one learnt decay per head. It
// declares itself, brings a definition, a kernel and a transfer rule, and everything else works: specs,
// layers, cache, rollback, training, plans, conversion, files.

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "recurformer/checkpoint/cache_file.hpp"
#include "recurformer/checkpoint/model_files.hpp"
#include "recurformer/checkpoint/plan_file.hpp"
#include "recurformer/cpu/attention_mixer.hpp"
#include "recurformer/model/loss.hpp"
#include "recurformer/model/model.hpp"
#include "recurformer/model/reference_model.hpp"
#include "recurformer/plan/convert.hpp"
#include "recurformer/plan/emit_header.hpp"
#include "recurformer/reference/attention.hpp"
#include "recurformer/spec/attention.hpp"
#include "support/temporary_folder.hpp"

namespace user {

/// s_t = a s_{t-1} + (1 - a) v_t with a = sigmoid(decay); the head's output is s_t. One v per query head.
struct MovingAverage {
  static constexpr std::string_view name = "moving_average";
  static constexpr std::string_view module = "moving_average";
  static constexpr std::string_view header = "user/moving_average.hpp";
  static std::string type_name() { return "user::MovingAverage"; }

  constexpr std::array<rf::ParameterSpec, 2> parameters(const rf::HeadShape& shape) const {
    return {rf::ParameterSpec{.name = "v_proj.weight",
                              .role = rf::Role::projection,
                              .unit = rf::Unit::head,
                              .slice = rf::slice_of(shape.d_head, shape.d_model),
                              .initialise = rf::initial::projection},
            rf::ParameterSpec{.name = "decay",
                              .unit = rf::Unit::head,
                              .slice = rf::slice_of(1),
                              .initialise = rf::initial::ones,
                              .weight_decay = false}};
  }
  constexpr std::array<rf::CacheField, 1> cache_fields(const rf::HeadShape& shape) const {
    return {rf::CacheField{.name = "average",
                           .kind = rf::FieldKind::state,
                           .unit = rf::Unit::head,
                           .slice = rf::slice_of(shape.d_head)}};
  }
};

}  // namespace user

template <>
struct rf::reference::MixerReference<user::MovingAverage> {
  struct State {
    std::vector<double> average;
  };
  static void forward(const user::MovingAverage&, const HeadShape& shape, const GroupArguments& arguments,
                      State& state) {
    const auto width = static_cast<std::size_t>(shape.group_width());
    state.average.resize(width);
    for (std::size_t t = 0; t < static_cast<std::size_t>(arguments.rows); ++t)
      for (std::size_t c = 0; c < width; ++c) {
        const double a = 1 / (1 + std::exp(-arguments.local[0][c / static_cast<std::size_t>(shape.d_head)]));
        state.average[c] = a * state.average[c] + (1 - a) * arguments.projected[t * width + c];
        arguments.out[t * width + c] = state.average[c];
      }
  }
};

template <>
struct rf::cpu::MixerKernel<user::MovingAverage> {
  template <class Precision, class Widths>
  static void forward(const user::MovingAverage&, const ForwardArguments& x) {
    static_assert(std::is_same_v<typename Precision::State, float>);
    const std::int64_t width = x.shape.group_width();
    for (std::size_t s = 0; s < x.sequences.size(); ++s)
      for (std::size_t g = 0; g < x.groups.size(); ++g)
        for (std::int64_t c = 0; c < width; ++c) {
          const std::int64_t column = static_cast<std::int64_t>(g) * width + c;
          const float a = decay(x.local[0], x.shape, g, c);
          float* state = x.cache.empty() ? nullptr : static_cast<float*>(x.cache.field(s, 0).data) + column;
          float average = state ? *state : 0.0f;
          for (std::int64_t r = x.sequences[s].first_row; r < x.sequences[s].first_row + x.sequences[s].rows;
               ++r) {
            average = a * average + (1 - a) * x.projected.row(r)[column];
            x.out.row(r)[x.groups[g] * width + c] = average;
          }
          if (state) *state = average;
        }
  }
  static std::int64_t saved_size(const user::MovingAverage&, const HeadShape&, std::int64_t,
                                 std::span<const SequenceRows>) {
    return 0;
  }

  template <class Precision, class Widths>
  static void backward(const user::MovingAverage&, const BackwardArguments& x) {
    const std::int64_t width = x.shape.group_width();
    for (const SequenceRows& sequence : x.sequences)
      for (std::size_t g = 0; g < x.groups.size(); ++g)
        for (std::int64_t c = 0; c < width; ++c) {
          const std::int64_t column = static_cast<std::int64_t>(g) * width + c, out = x.groups[g] * width + c;
          const float a = decay(x.local[0], x.shape, g, c);
          float d_state = 0, d_a = 0;
          for (std::int64_t r = sequence.first_row + sequence.rows; r-- > sequence.first_row;) {
            d_state = a * d_state + x.d_out.row(r)[out];
            const float before = r > sequence.first_row ? x.out.row(r - 1)[out] : 0.0f;
            d_a += d_state * (before - x.projected.row(r)[column]);
            x.d_projected.row(r)[column] = (1 - a) * d_state;
          }
          x.d_local[0][static_cast<std::int64_t>(g) * x.shape.queries_per_group + c / x.shape.d_head] +=
              d_a * a * (1 - a);
        }
  }

 private:
  static float decay(const float* local, const HeadShape& shape, std::size_t g, std::int64_t c) {
    return 1 /
           (1 + std::exp(-local[static_cast<std::int64_t>(g) * shape.queries_per_group + c / shape.d_head]));
  }
};

/// A converted head averages its group's values.
template <>
struct rf::Transfer<user::MovingAverage> {
  static void apply(const user::MovingAverage&, const AttentionGroup& group,
                    std::span<ParameterSlices> parameters) {
    for (int head = 0; head < group.shape.queries_per_group; ++head)
      std::copy(group.value.begin(), group.value.end(), parameters[0].unit(head).begin());
  }
};

namespace {

struct MyLayer {
  static constexpr rf::LayerShape shape{
      .d_model = 24, .d_head = 16, .kv_groups = 3, .queries_per_group = 2, .d_ff = 20};
  using Precision = rf::Fp32;
  using Runs = rf::Runs<rf::Run<1, rf::Attention<>, rf::Fp32>, rf::Run<2, user::MovingAverage, rf::Fp32>>;
  static constexpr std::array order{1, 0, 2};
};
struct MyModel {
  static constexpr rf::ModelShape shape{.vocabulary = 30, .tied_embeddings = true};
  using Layers = rf::Layers<MyLayer, MyLayer>;
};
/// The same kinds with the plan as data.
struct AnyPlan {
  using Kinds = rf::Model<MyModel>::Kinds;
  using Precision = rf::Fp32;
  using Widths = std::integer_sequence<int, 16>;
};

}  // namespace

TEST_CASE(
    "a mixer from outside the library runs, is cached, rolled back, trained and named like one of its own") {
  rf::Model<MyModel> model;
  rf::initialise(model.weights(), 3);
  CHECK(model.plan().kind_of_group == std::vector<std::vector<int>>{{1, 0, 1}, {1, 0, 1}});
  std::vector<rf::Token> tokens, targets;
  rf::Random random(1);
  for (int i = 0; i < 14; ++i) tokens.push_back(static_cast<rf::Token>(random.below(30)));
  for (int i = 0; i < 14; ++i) targets.push_back(static_cast<rf::Token>(random.below(30)));
  const auto expected = rf::reference::logits(model.weights(), tokens);
  const auto check_last = [&](std::span<const float> logits) {
    for (std::size_t i = 0; i < 30; ++i)
      CHECK(logits[i] == doctest::Approx(expected[13 * 30 + i]).epsilon(1e-4));
  };

  auto cache = model.make_cache({.max_rollback = 3});
  model.next_logits(std::span(tokens).first(9), cache);
  model.next_logits(std::vector<rf::Token>{5, 6, 7}, cache);
  cache.rollback(3);
  check_last(model.next_logits(std::span(tokens).subspan(9), cache));
  CHECK(cache.items()[2].field == "average");

  bool found = false;
  for (const auto& tensor : rf::file_tensors(model.weights()))
    if (tensor.name == "model.layers.1.moving_average.decay")
      found = tensor.shape == std::vector<std::int64_t>{4};
  CHECK(found);

  rf::ModelTape tape;
  rf::NextTokenLoss loss;
  auto gradients = model.make_gradients();
  const rf::SequenceRows sequence{.rows = 14};
  model.forward(tokens, {&sequence, 1}, tape);
  std::vector<float> d_hidden(14 * 24);
  loss.backward(model, tape.hidden.data(), targets, {.gradient_scale = 1.0 / 14},
                static_cast<const rf::Model<MyModel>*>(nullptr), nullptr, d_hidden.data(), gradients);
  model.backward(tape, d_hidden.data(), gradients);
  const auto parameters = rf::parameter_refs(model.weights()), gradient_refs = rf::parameter_refs(gradients);
  for (std::size_t p = 0; p < parameters.size(); ++p) {
    if (parameters[p].kind != 1) continue;
    CAPTURE(parameters[p].name);
    auto* values = static_cast<float*>(parameters[p].data);
    const float kept = values[1];
    const auto loss_at = [&](float value) {
      values[1] = value;
      return rf::reference::cross_entropy_of(rf::reference::logits(model.weights(), tokens), targets);
    };
    const double slope = (loss_at(kept + 1e-2f) - loss_at(kept - 1e-2f)) /
                         (static_cast<double>(kept + 1e-2f) - static_cast<double>(kept - 1e-2f));
    values[1] = kept;
    CHECK(static_cast<const float*>(gradient_refs[p].data)[1] == doctest::Approx(slope).epsilon(5e-3));
  }
}

TEST_CASE(
    "a mixer from outside the library is planned, converted to, emitted, saved and loaded like one of its "
    "own") {
  rf::Model<AnyPlan> original(rf::Model<MyModel>().shape(),
                              rf::uniform_plan({"attention", "fp32", {}}, 2, 3));
  rf::initialise(original.weights(), 3);
  const rf::test::TemporaryFolder folder;
  rf::write_plan({.plan = {.kinds = {{"attention", "fp32", {}}, {"moving_average", "fp32", {}}},
                           .kind_of_group = {{1, 0, 1}, {1, 0, 1}}},
                  .method = {},
                  .parameters = {},
                  .scores = {},
                  .cache_bytes = {}},
                 original.shape(), folder / "plan.json");
  const rf::Plan plan = rf::read_plan(folder / "plan.json", original.shape()).plan;

  const rf::DistanceProfile profile{.lag = {0}, .lags = {1}, .probability = {1}};
  auto converted = rf::convert_model(original, plan, rf::ModelProfiles(2, std::vector(6, profile)));
  // Group 2 is the second of its run, and its two heads have the values of the attention group it was.
  const float* const before = std::get<0>(original.weights().layers[1].runs).projection.row(2 * 64 + 48);
  for (int head = 0; head < 2; ++head)
    CHECK(std::memcmp(before, std::get<1>(converted.weights().layers[1].runs).projection.row(32 + 16 * head),
                      16 * 24 * sizeof(float)) == 0);

  const std::string emitted = rf::emit_header<AnyPlan::Kinds>(original.shape(), plan);
  CHECK(emitted.find("#include \"user/moving_average.hpp\"") != emitted.npos);
  CHECK(emitted.find("rf::Run<2, user::MovingAverage, rf::Fp32>") != emitted.npos);

  rf::save_model(converted.weights(), rf::model_config(converted), folder / "model");
  auto loaded = rf::load_model<rf::Model<MyModel>>(folder / "model");  // whose plan this is
  CHECK(std::get<1>(loaded.weights().layers[1].runs).local ==
        std::get<1>(converted.weights().layers[1].runs).local);
  auto cache = loaded.make_cache({.max_rollback = 2}), again = loaded.make_cache({.max_rollback = 2});
  loaded.next_logits(std::vector<rf::Token>{1, 2, 3, 4, 5}, cache);
  rf::save_cache(cache, folder / "cache.safetensors");
  rf::load_cache(again, folder / "cache.safetensors");
  for (auto* one : {&cache, &again}) one->rollback(1);
  const std::vector<rf::Token> next = {6, 7};
  const auto logits_after = [&](rf::Cache& one) {
    const auto logits = loaded.next_logits(next, one);
    return std::vector<float>(logits.begin(), logits.end());
  };
  CHECK(logits_after(again) == logits_after(cache));
}
