#include "recurformer/model/layer.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <string_view>

#include "recurformer/core/memory.hpp"
#include "recurformer/core/tensor_ops.hpp"
#include "recurformer/cpu/attention_mixer.hpp"
#include "recurformer/cpu/mamba_mixer.hpp"
#include "recurformer/model/model.hpp"
#include "recurformer/model/reference_model.hpp"
#include "recurformer/reference/attention.hpp"
#include "recurformer/reference/mamba.hpp"
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/mamba.hpp"

namespace {

template <class AttentionPrecision, class MambaPrecision, class LayerPrecision>
struct Hybrid {
  static constexpr rf::LayerShape shape{
      .d_model = 40, .d_head = 16, .kv_groups = 3, .queries_per_group = 2, .d_ff = 52};
  using Precision = LayerPrecision;
  using Runs = rf::Runs<rf::Run<1, rf::Attention<rf::AttentionPolicy{.qkv_bias = true}>, AttentionPrecision>,
                        rf::Run<2, rf::Mamba<>, MambaPrecision>>;
  static constexpr std::array order{2, 0, 1};
};
using Plain = Hybrid<rf::Fp32, rf::Fp32, rf::Fp32>;

/// States in 16 bits, too.
struct Half : rf::Fp16 {
  using State = rf::fp16;
  static constexpr std::string_view name = "half";
};
using Mixed = Hybrid<rf::Bf16, Half, rf::Bf16>;

/// Plain's sizes and kinds, with the first run fixed or not, and the second one known at run time.
template <std::int64_t Groups>
struct RunTime {
  static constexpr rf::LayerShape shape = Plain::shape;
  using Precision = rf::Fp32;
  using Runs = rf::Runs<rf::Run<Groups, rf::Attention<rf::AttentionPolicy{.qkv_bias = true}>, rf::Fp32>,
                        rf::Run<rf::dynamic, rf::Mamba<>, rf::Fp32>>;
};

template <class Spec>
struct Static {
  static constexpr rf::ModelShape shape{.vocabulary = 20, .tied_embeddings = false};
  using Layers = rf::Layers<Spec, Spec>;
};
struct Dynamic {
  using Kinds = Plain::Runs::Kinds;
  using Precision = rf::Fp32;
  using Widths = std::integer_sequence<int, 16>;
};

std::vector<rf::Token> tokens(std::size_t count) {
  std::vector<rf::Token> out;
  rf::Random random(2);
  for (std::size_t i = 0; i < count; ++i) out.push_back(static_cast<rf::Token>(random.below(20)));
  return out;
}

/// The last row of logits (rows, 20).
std::vector<double> last(const std::vector<double>& logits) { return {logits.end() - 20, logits.end()}; }

/// The largest difference.
double distance(const std::vector<double>& a, const std::vector<double>& b) {
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
  return worst;
}

/// Parameters of Plain's sizes, all of them random.
template <class Weights>
Weights random_weights(Weights weights) {
  rf::Random random(5);
  weights.for_each_run([&](std::size_t, auto& run) {
    rf::for_each_group_slice(run, Plain::shape.head_shape(),
                             [&](const rf::ParameterSpec& spec, std::size_t, float* data) {
                               for (std::int64_t i = 0; i < spec.group_size(Plain::shape.head_shape()); ++i)
                                 data[i] = static_cast<float>(0.2 * random.normal());
                             });
  });
  for (auto* matrix : {&weights.output, &weights.gate_up, &weights.down})
    for (std::int64_t i = 0; i < matrix->size(); ++i)
      matrix->data()[i] = static_cast<float>(0.2 * random.normal());
  return weights;
}

/// x (23, 40): what goes through a layer.
rf::Tensor<float, rf::Dims<2>> random_rows() {
  rf::Random random(6);
  rf::Tensor<float, rf::Dims<2>> x(rf::Dims<2>(23, 40));
  for (std::int64_t i = 0; i < 23 * 40; ++i) x.data()[i] = static_cast<float>(random.normal());
  return x;
}

/// The rows through a layer: 20 at once, then one by one.
template <class Layer>
std::vector<float> run(Layer& layer, rf::Cache& cache) {
  auto x = random_rows();
  layer.prefill(x.view().slice(0, 0, 20), cache);
  for (std::int64_t row = 20; row < 23; ++row) layer.decode(x.view().slice(0, row, row + 1), cache);
  return {x.data(), x.data() + 23 * 40};
}

/// Their largest difference from the definition.
template <class Layer>
double error(Layer& layer, const std::vector<float>& rows) {
  const auto x = random_rows();
  std::vector<double> expected(x.data(), x.data() + 23 * 40);
  rf::reference::forward_layer(layer.weights(), Plain::shape, expected);
  double worst = 0;
  for (std::size_t i = 0; i < expected.size(); ++i)
    worst = std::max(worst, std::abs(expected[i] - static_cast<double>(rows[i])));
  return worst;
}

template <class M>
std::vector<float> last_logits(M& model, std::size_t count) {
  auto cache = model.make_cache();
  const auto logits = model.next_logits(tokens(count), cache);
  return {logits.begin(), logits.end()};
}

}  // namespace

TEST_CASE("a layer of a user's own program computes its definition, prefilling and decoding") {
  rf::Layer<Plain> layer(random_weights(rf::Layer<Plain>::make_weights()));
  auto cache = layer.make_cache();
  CHECK(error(layer, run(layer, cache)) < 1e-4);
  CHECK(cache.length() == 23);
  rf::Tensor<float, rf::Dims<2>> wrong(rf::Dims<2>(2, 39));
  CHECK_THROWS_AS(layer.prefill(wrong.view(), cache), rf::ArgumentError);
}

TEST_CASE("a layer's own weights are initialised by a seed") {
  const auto output_of = [](std::uint64_t seed) {
    auto weights = rf::Layer<Plain>::make_weights();
    rf::initialise(weights, Plain::shape, seed);
    return std::vector<float>(weights.output.data(), weights.output.data() + weights.output.size());
  };
  const std::vector<float> once = output_of(1);
  CHECK(output_of(1) == once);
  CHECK(output_of(2) != once);
  double squares = 0;
  for (const float value : once) squares += static_cast<double>(value) * static_cast<double>(value);
  CHECK(squares / static_cast<double>(once.size()) ==
        doctest::Approx(0.5 / 96).epsilon(0.1));  // 1 / (2 · fan-in)
}

TEST_CASE("a layer takes rows of a wider matrix, and a cache takes memory of the caller's") {
  rf::Layer<Plain> layer(random_weights(rf::Layer<Plain>::make_weights()));
  auto cache = layer.make_cache();
  const std::vector<float> expected = run(layer, cache);
  const auto x = random_rows();
  std::vector<float> wide(23 * 50, -1);  // rows of 40 in the middle of rows of 50
  const rf::TensorView<float, rf::Dims<2>> rows(wide.data() + 5, {23, 40}, {50, 1});
  rf::copy(x, rows);
  rf::CountingMemory memory;
  {
    auto own = layer.make_cache({}, &memory);
    CHECK(memory.live_bytes() == own.bytes());
    layer.prefill(rows.slice(0, 0, 20), own);
    for (std::int64_t row = 20; row < 23; ++row) layer.decode(rows.slice(0, row, row + 1), own);
    CHECK(memory.live_bytes() == own.bytes());
  }
  CHECK(memory.live_bytes() == 0);
  for (std::size_t r = 0; r < 23; ++r)
    for (std::size_t i = 0; i < 50; ++i)
      CHECK(wide[r * 50 + i] == (i < 5 || i >= 45 ? -1 : expected[r * 40 + i - 5]));

  const auto refused = [&](std::int64_t row, std::int64_t element) {
    CHECK_THROWS_AS(layer.prefill({wide.data(), {2, 40}, {row, element}}, cache), rf::ArgumentError);
  };
  refused(39, 1);
  refused(80, 2);
  refused(1, 2);
}

TEST_CASE("a layer whose runs get their numbers at run time: the same bits, and runs may be empty") {
  rf::Layer<Plain> fixed(random_weights(rf::Layer<Plain>::make_weights()));
  auto fixed_cache = fixed.make_cache();
  const std::vector<float> expected = run(fixed, fixed_cache);
  const auto check_same = [&]<std::int64_t Groups>(std::integral_constant<std::int64_t, Groups>) {
    using Layer = rf::Layer<RunTime<Groups>>;
    Layer layer(random_weights(Layer::make_weights({1, 1, 0})));  // Plain's order
    auto cache = layer.make_cache();
    CHECK(run(layer, cache) == expected);
    CHECK(cache.layout().bytes(23) == fixed_cache.layout().bytes(23));
  };
  check_same(std::integral_constant<std::int64_t, rf::dynamic>{});
  check_same(std::integral_constant<std::int64_t, 1>{});

  using Layer = rf::Layer<RunTime<rf::dynamic>>;
  for (const int only_run : {0, 1}) {
    Layer layer(random_weights(Layer::make_weights({only_run, only_run, only_run})));
    auto cache = layer.make_cache();
    CHECK(error(layer, run(layer, cache)) < 1e-4);
    for (const auto& item : cache.items())
      CHECK((item.field == "key" || item.field == "value") == (only_run == 0));
  }
  CHECK_THROWS_WITH_AS(Layer::make_weights({0, 1}), "the runs of 2 KV groups are given; the layer has 3",
                       rf::ArgumentError);
  CHECK_THROWS_WITH_AS(Layer::make_weights({0, 1, 2}),
                       "KV group 2 is given to run 2; the layer has runs 0 to 1", rf::ArgumentError);
  CHECK_THROWS_WITH_AS(rf::Layer<RunTime<1>>::make_weights({0, 0, 1}),
                       "run 0 is given 2 KV groups; its spec says 1", rf::ArgumentError);
}

TEST_CASE("counts known at compile time and counts known at run time give the same bits") {
  rf::Model<Static<Plain>> fixed;
  rf::initialise(fixed.weights(), 9);
  rf::Model<Dynamic> dynamic(fixed.shape(), fixed.named_plan());
  rf::initialise(dynamic.weights(), 9);
  CHECK(fixed.plan().kind_of_group == std::vector<std::vector<int>>{{1, 1, 0}, {1, 1, 0}});
  CHECK(last_logits(fixed, 40) == last_logits(dynamic, 40));
}

TEST_CASE("every run has its own precision, and the layer another") {
  rf::Model<Static<Mixed>> mixed;
  rf::initialise(mixed.weights(), 9);
  rf::Model<Static<Plain>> plain;
  rf::initialise(plain.weights(), 9);
  // The same numbers, rounded: the reference reads the rounded ones, so only caches and arithmetic differ.
  const auto sequence = tokens(40);
  const std::vector<double> expected = last(rf::reference::logits(mixed.weights(), sequence));
  std::vector<float> logits;
  const std::vector<std::vector<std::int64_t>> all_at_once_in_chunks_one_by_one = {
      {40}, {17, 1, 20, 2}, std::vector<std::int64_t>(40, 1)};
  for (const auto& calls : all_at_once_in_chunks_one_by_one) {
    CAPTURE(calls.size());
    const auto stored = last(rf::reference::logits(mixed.weights(), sequence, rf::reference::exact, calls));
    auto cache = mixed.make_cache();
    std::size_t first = 0;
    for (const std::int64_t call : calls) {
      const auto count = static_cast<std::size_t>(call);
      const auto out = mixed.next_logits(std::span(sequence).subspan(first, count), cache);
      logits.assign(out.begin(), out.end());
      first += count;
    }
    const double allowed = 2 * distance(stored, expected) + 1e-5 * distance(expected, std::vector(20, 0.0));
    CHECK(distance({logits.begin(), logits.end()}, expected) <= allowed);
  }
  CHECK(last_logits(plain, 40) != last_logits(mixed, 40));
  std::int64_t keys = 0;
  CHECK(mixed.cache_layout().bytes(256) < plain.cache_layout().bytes(256));
  for (const auto& item : mixed.cache_layout().items(256)) keys += item.field == "key" ? item.bytes : 0;
  CHECK(keys == 2 * 256 * 16 * 2);  // two layers, one group, bf16
}
