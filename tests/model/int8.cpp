// Models whose weights, keys and values are 8-bit integers.

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "recurformer/checkpoint/cache_file.hpp"
#include "recurformer/core/memory.hpp"
#include "recurformer/core/parallel.hpp"
#include "recurformer/cpu/attention_mixer.hpp"
#include "recurformer/cpu/mamba_mixer.hpp"
#include "recurformer/model/int8_weights.hpp"
#include "recurformer/model/model.hpp"
#include "recurformer/model/reference_model.hpp"
#include "recurformer/reference/attention.hpp"
#include "recurformer/reference/mamba.hpp"
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/mamba.hpp"
#include "recurformer/spec/streaming_attention.hpp"
#include "support/temporary_folder.hpp"

namespace {

/// Weights as in Int8Weights, all else in floats.
struct Weights8 : rf::Fp32 {
  using Weight = rf::Int8Weights::Weight;
  using Packed = rf::Int8Weights::Packed;
  static constexpr std::string_view name = "weights8";
};

/// Nothing but keys and values is.
struct Cache8 : rf::Fp32 {
  using Cache = std::int8_t;
  static constexpr std::string_view name = "cache8";
};

/// KV groups side by side: keys and values in floats, in integers, and in a ring of integers.
struct ThreeCaches {
  using Streaming = rf::StreamingAttention<rf::StreamingWindow{.sink = 2, .window = 7}>;
  using Kinds = rf::Kinds<rf::Kind<rf::Attention<>, rf::Fp32>, rf::Kind<rf::Attention<>, Cache8>,
                          rf::Kind<Streaming, Cache8>>;
  using Precision = rf::Fp32;
  using Widths = std::integer_sequence<int, 16>;
};

/// Heads of both precisions in one layer, whose own matrices are in P.
template <class P>
struct Spec {
  using Kinds = rf::Kinds<rf::Kind<rf::Attention<>, P>, rf::Kind<rf::Mamba<>, rf::Fp32>>;
  using Precision = P;
  using Widths = std::integer_sequence<int, 16>;
};
using Plain = rf::ModelWeights<Spec<rf::Fp32>::Kinds, rf::Fp32>;

constexpr int vocabulary = 50;

rf::ModelShape shape(bool tied_embeddings) {
  return {.vocabulary = vocabulary,
          .layers = 2,
          .layer = {.d_model = 72, .d_head = 16, .kv_groups = 3, .queries_per_group = 2, .d_ff = 136},
          .tied_embeddings = tied_embeddings};
}

template <class P>
rf::BoundPlan<typename Spec<P>::Kinds> plan() {
  return {{}, {{0, 1, 0}, {1, 0, 0}}};
}

std::vector<rf::Token> tokens(std::size_t count) {
  std::vector<rf::Token> out;
  rf::Random random(2);
  for (std::size_t i = 0; i < count; ++i) out.push_back(static_cast<rf::Token>(random.below(vocabulary)));
  return out;
}

constexpr std::uint64_t seed = 3;

/// What a model in Weights8, initialised with the seed, computes with when it is packed.
Plain rounded(bool tied_embeddings) {
  Plain out(shape(tied_embeddings), plan<rf::Fp32>());
  rf::initialise(out, seed);
  std::vector<rf::Linear<float>> in_floats;
  for (auto& layer : out.layers) in_floats.push_back(std::get<1>(layer.runs).projection.clone());
  rf::round_to_int8(out);
  for (std::size_t l = 0; l < out.layers.size(); ++l)
    std::get<1>(out.layers[l].runs).projection = std::move(in_floats[l]);
  float* const looked_up = out.embedding.data();
  for (std::int64_t i = 0; i < out.embedding.size(); ++i) looked_up[i] = float(rf::bf16(looked_up[i]));
  return out;
}

/// Whether products with unit vectors are the columns of these weights.
template <class Packed>
bool multiplies_by(const Packed& packed, const rf::Linear<float>& weights) {
  const std::int64_t in = weights.in(), out = weights.out();
  std::vector<float> units(static_cast<std::size_t>(in * in)), products(static_cast<std::size_t>(in * out));
  for (std::int64_t k = 0; k < in; ++k) units[static_cast<std::size_t>(k * (in + 1))] = 1;
  packed.forward(units.data(), in, in, products.data(), out);
  bool same = packed.is_packed() && packed.out() == out;
  for (std::int64_t k = 0; k < in; ++k)
    for (std::int64_t o = 0; o < out; ++o)
      same = same && products[static_cast<std::size_t>(k * out + o)] == weights.row(o)[k];
  return same;
}

/// Logits (tokens, vocabulary), `step` tokens at a time.
template <class M>
std::vector<float> logits(M& model, std::span<const rf::Token> sequence, std::size_t step, rf::Cache& cache) {
  std::vector<float> out(sequence.size() * vocabulary);
  for (std::size_t first = 0; first < sequence.size(); first += step) {
    const auto part = sequence.subspan(first, std::min(step, sequence.size() - first));
    const rf::SequenceTokens rows{0, static_cast<std::int64_t>(part.size())};
    model.logits(model.forward(part, {&rows, 1}, cache), rows.rows, out.data() + first * vocabulary);
  }
  return out;
}

template <class M>
std::vector<float> logits(M& model, std::span<const rf::Token> sequence, std::size_t step) {
  rf::Cache cache = model.make_cache();
  return logits(model, sequence, step, cache);
}

/// Root of the mean square of a and of a - b.
struct Size {
  double of = 0, difference = 0;
};
template <class B>
Size size(const std::vector<double>& a, const std::vector<B>& b) {
  Size sum;
  for (std::size_t i = 0; i < a.size(); ++i) {
    sum.of += a[i] * a[i];
    sum.difference += std::pow(a[i] - static_cast<double>(b[i]), 2);
  }
  const auto n = static_cast<double>(a.size());
  return {std::sqrt(sum.of / n), std::sqrt(sum.difference / n)};
}

}  // namespace

TEST_CASE(
    "int8 weights: a packed model computes with the rounded weights, and an unpacked one with its own") {
  const auto sequence = tokens(45);
  for (const bool tied : {false, true}) {
    CAPTURE(tied);
    rf::Model<Spec<Weights8>> model(shape(tied), plan<Weights8>());
    rf::initialise(model.weights(), seed);
    const auto exact = rf::reference::logits(model.weights(), sequence);
    CHECK(size(exact, logits(model, sequence, 45)).difference < 1e-5 * size(exact, exact).of);

    const auto expected = rf::reference::logits(rounded(tied), sequence);
    model.pack();
    const std::vector<float> whole = logits(model, sequence, 45);
    for (const auto& some : {whole, logits(model, sequence, 1), logits(model, sequence, 7)})
      CHECK(size(expected, some).difference < 1e-5 * size(expected, expected).of);
    const int threads = rf::default_pool().threads();
    rf::set_threads(3);
    CHECK(logits(model, sequence, 45) == whole);
    rf::set_threads(threads);

    // Normal weights have a largest of about 2.5 deviations in 64: a step of 2.5 / 127, of which rounding
    // loses 1 / √12 in the mean, 0.6 % of the product. A logit has gone through four products a layer and one
    // more, whose errors are independent.
    const Size error = size(exact, whole);
    CHECK(error.difference < 2 * 0.006 * std::sqrt(4 * 2 + 1) * error.of);
    CHECK(error.difference > 0.002 * error.of);
  }
}

TEST_CASE("int8 weights: floats are rounded to the very numbers that a packed model multiplies by") {
  for (const bool tied : {false, true}) {
    CAPTURE(tied);
    rf::ModelWeights<Spec<Weights8>::Kinds, Weights8> packed(shape(tied), plan<Weights8>());
    Plain weights(shape(tied), plan<rf::Fp32>());
    rf::initialise(packed, seed);
    rf::initialise(weights, seed);
    const rf::Linear<float> embedding = weights.embedding.clone();
    rf::pack(packed);
    rf::round_to_int8(weights);
    CHECK(multiplies_by(packed.logits(), weights.logits()));
    CHECK(std::equal(embedding.data(), embedding.row(vocabulary), weights.embedding.data()));
    for (std::size_t l = 0; l < weights.layers.size(); ++l) {
      const auto& layer = packed.layers[l];
      CHECK(
          multiplies_by(std::get<0>(layer.runs).projection, std::get<0>(weights.layers[l].runs).projection));
      CHECK(multiplies_by(layer.output, weights.layers[l].output));
      CHECK(multiplies_by(layer.gate_up, weights.layers[l].gate_up));
      CHECK(multiplies_by(layer.down, weights.layers[l].down));
    }
  }
}

TEST_CASE("int8 cache: side by side with another one, at most twice as far from exact as a plain version") {
  rf::Model<ThreeCaches> model(shape(false), rf::BoundPlan<ThreeCaches::Kinds>{{}, {{1, 0, 2}, {2, 1, 1}}});
  rf::initialise(model.weights(), seed);
  const auto sequence = tokens(45);
  const auto exact = rf::reference::logits(model.weights(), sequence);
  const auto stored =
      rf::reference::logits(model.weights(), sequence, rf::reference::exact, std::vector<std::int64_t>{45});
  const double plain_error = size(exact, stored).difference;
  CHECK(plain_error > 1e-4 * size(exact, exact).of);
  for (const std::size_t step : {45u, 7u, 1u}) {
    const std::vector<float> found = logits(model, sequence, step);
    CHECK(size(exact, found).difference < 2 * plain_error);
    CHECK(size(stored, found).difference <
          0.2 * plain_error);  // a number in the middle may be rounded otherwise
  }

  const int threads = rf::default_pool().threads();
  const std::vector<float> once = logits(model, sequence, 7);
  rf::set_threads(3);
  CHECK(logits(model, sequence, 7) == once);
  rf::set_threads(threads);
}

TEST_CASE("int8 cache: bytes, snapshots, rollback and files have the scales, too") {
  rf::Model<ThreeCaches> model(shape(false), rf::BoundPlan<ThreeCaches::Kinds>{{}, {{1, 0, 2}, {2, 1, 1}}});
  rf::initialise(model.weights(), seed);
  rf::CountingMemory memory;
  rf::Cache cache = model.make_cache({.max_rollback = 5}, &memory);
  const auto sequence = tokens(60);
  const std::span<const rf::Token> past = std::span(sequence).first(40),
                                   future = std::span(sequence).subspan(40);
  logits(model, past, 13, cache);
  CHECK(cache.bytes() == memory.live_bytes());
  // Layer 0: a group each. Rows in pages of 256, rings of 2 + 7 + 5 slots, 16 elements wide.
  std::vector<std::string> items;
  for (const rf::CacheItem& item : cache.items())
    if (item.layer == 0) items.push_back(rf::text(item.kind, " ", item.field, " ", item.bytes));
  CHECK(items == std::vector<std::string>{"attention:fp32 key 16384", "attention:fp32 value 16384",
                                          "attention:cache8 key 4096", "attention:cache8 value 4096",
                                          "attention:cache8 key_scale 1024",
                                          "attention:cache8 value_scale 1024", "streaming:cache8 key 224",
                                          "streaming:cache8 value 224", "streaming:cache8 key_scale 56",
                                          "streaming:cache8 value_scale 56"});

  const rf::test::TemporaryFolder folder;
  rf::save_cache(cache, folder / "cache");
  const rf::CacheSnapshot moment = cache.snapshot();
  const std::vector<float> expected = logits(model, future, 1, cache);
  cache.restore(moment);
  CHECK(logits(model, future, 1, cache) == expected);
  cache.restore(moment);
  const auto other = tokens(5);  // of the sequence's start
  logits(model, other, 5, cache);
  cache.rollback(5);
  CHECK(logits(model, future, 1, cache) == expected);
  rf::Cache loaded = model.make_cache({.max_rollback = 5});
  rf::load_cache(loaded, folder / "cache");
  CHECK(logits(model, future, 1, loaded) == expected);
}

namespace {

/// Keeps rows that it cannot read as integers.
struct Rows : rf::Attention<> {
  static constexpr std::string_view name = "rows";
  std::array<rf::CacheField, 1> cache_fields(const rf::HeadShape& shape) const {
    return {rf::CacheField{.name = "row", .slice = rf::slice_of(shape.d_head)}};
  }
};

}  // namespace

TEST_CASE("int8 cache: a mixer that keeps none says so") {
  const rf::HeadShape heads{.d_model = 8, .d_head = 16};
  CHECK(rf::run_layout<rf::Kind<Rows, rf::Bf16>>({}, heads, 1).fields.size() == 1);
  CHECK_THROWS_WITH_AS(
      (rf::run_layout<rf::Kind<Rows, rf::Int8Cache>>({}, heads, 1)),
      "the mixer rows does not keep its cache in 8-bit integers, as int8_cache asks for; give "
      "it another precision",
      rf::ArgumentError);
  // States are in floats anyway.
  for (const auto& field : rf::run_layout<rf::Kind<rf::Mamba<>, rf::Int8>>({}, heads, 1).fields)
    CHECK(field.dtype == rf::DType::F32);
}
