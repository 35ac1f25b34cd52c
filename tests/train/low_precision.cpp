// Training with parameters stored in bf16 and fp16: gradients and master weights are float.

#include <doctest/doctest.h>

#include <cmath>
#include <utility>

#include "recurformer/cpu/attention_mixer.hpp"
#include "recurformer/cpu/mamba_mixer.hpp"
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/mamba.hpp"
#include "recurformer/train/trainer.hpp"

namespace {

struct Spec {
  using Kinds = rf::Kinds<rf::Kind<rf::Attention<>, rf::Bf16>, rf::Kind<rf::Mamba<>, rf::Fp16>>;
  using Precision = rf::Bf16;
  using Widths = std::integer_sequence<int, 16>;
};
using Model = rf::Model<Spec>;

rf::Batch batch(std::int64_t step) {
  rf::Batch out;
  rf::Random random(static_cast<std::uint64_t>(step % 4));
  const auto first = static_cast<rf::Token>(random.below(20));
  std::vector<rf::Token> tokens, targets;
  for (int i = 0; i < 24; ++i) {
    tokens.push_back((first + i) % 20);
    targets.push_back((first + i + 1) % 20);
  }
  out.append(tokens, targets);
  return out;
}

}  // namespace

TEST_CASE("a hybrid model in bf16 and fp16 learns, and its stored weights are its masters rounded") {
  const rf::ModelShape shape{
      .vocabulary = 20,
      .layers = 1,
      .layer = {.d_model = 32, .d_head = 16, .kv_groups = 2, .queries_per_group = 1, .d_ff = 40}};
  Model model(shape,
              {.kinds = {{"attention", "bf16", {}}, {"mamba", "fp16", {}}}, .kind_of_group = {{0, 1}}});
  rf::initialise(model.weights(), 1);
  rf::Trainer<Model> trainer(model, {.steps = 80, .rate = 5e-3, .new_rate = 5e-3, .warmup = 5});
  const double first = trainer.step(batch).loss;
  double last = 0;
  while (!trainer.done()) last = trainer.step(batch).loss;
  CHECK(first > 2.5);
  CHECK(last < 0.3 * first);

  auto state = trainer.optimizer().state();
  const auto parameters = rf::parameter_refs(model.weights());
  REQUIRE(state.size() == 3 * parameters.size());
  int narrow = 0;
  for (std::size_t p = 0; p < parameters.size(); ++p) {
    const auto masters = state[3 * p].values;
    REQUIRE(static_cast<std::int64_t>(masters.size()) == parameters[p].size);
    rf::with_elements(parameters[p].dtype, parameters[p].data, [&]<class T>(const T* stored) {
      narrow += sizeof(T) == 2 ? 1 : 0;
      for (std::size_t i = 0; i < masters.size(); ++i)
        CHECK(rf::convert<float>(stored[i]) == rf::convert<float>(rf::convert<T>(masters[i])));
    });
  }
  CHECK(narrow >= 6);
}
