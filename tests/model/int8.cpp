// Models whose weights, keys and values are 8-bit integers.

#include "recurformer/cpu/int8.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "recurformer/checkpoint/cache_file.hpp"
#include "recurformer/core/memory.hpp"
#include "recurformer/core/parallel.hpp"
#include "recurformer/cpu/attention_mixer.hpp"
#include "recurformer/cpu/mamba_mixer.hpp"
#include "recurformer/model/model.hpp"
#include "recurformer/model/reference_model.hpp"
#include "recurformer/reference/attention.hpp"
#include "recurformer/reference/mamba.hpp"
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/mamba.hpp"
#include "recurformer/spec/streaming_attention.hpp"
#include "support/temporary_folder.hpp"

namespace {

/// Nothing but weights is rounded.
struct Weights8 : rf::Fp32 {
  using Packed = std::int8_t;
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

/// The same numbers; what pack() makes integers of becomes what these stand for.
template <class Set, class P>
Plain rounded(rf::ModelWeights<Set, P>& from) {
  Plain to(shape(false), plan<rf::Fp32>());
  const auto copy = [](auto& source, auto& target) {
    std::copy_n(source.data(), source.size(), target.data());
  };
  const auto round = [](auto& source, auto& target) {
    for (std::int64_t row = 0; row < source.out(); ++row)
      for (std::int64_t first = 0; first < source.in(); first += 64) {
        const std::int64_t at = row * source.in() + first,
                           count = std::min<std::int64_t>(64, source.in() - first);
        float numbers[64] = {};
        std::int8_t integers[64];
        std::copy_n(source.data() + at, count, numbers);
        const float scale = rf::cpu::quantise<64>(numbers, integers);
        for (std::int64_t i = 0; i < count; ++i)
          target.data()[at + i] = scale * static_cast<float>(integers[i]);
      }
  };
  copy(from.embedding, to.embedding);
  round(from.logits(), to.head);
  to.final_norm = from.final_norm;
  for (std::size_t l = 0; l < from.layers.size(); ++l) {
    auto& source = from.layers[l];
    auto& target = to.layers[l];
    target.mixer_norm = source.mixer_norm;
    target.mlp_norm = source.mlp_norm;
    round(std::get<0>(source.runs).projection, std::get<0>(target.runs).projection);
    copy(std::get<1>(source.runs).projection, std::get<1>(target.runs).projection);
    std::get<1>(target.runs).bias = std::get<1>(source.runs).bias;
    std::get<1>(target.runs).local = std::get<1>(source.runs).local;
    round(source.output, target.output);
    round(source.gate_up, target.gate_up);
    round(source.down, target.down);
  }
  return to;
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
    rf::initialise(model.weights(), 3);
    const auto exact = rf::reference::logits(model.weights(), sequence);
    CHECK(size(exact, logits(model, sequence, 45)).difference < 1e-5 * size(exact, exact).of);

    const auto expected = rf::reference::logits(rounded(model.weights()), sequence);
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

TEST_CASE("int8 cache: side by side with another one, at most twice as far from exact as a plain version") {
  rf::Model<ThreeCaches> model(shape(false), rf::BoundPlan<ThreeCaches::Kinds>{{}, {{1, 0, 2}, {2, 1, 1}}});
  rf::initialise(model.weights(), 3);
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
  rf::initialise(model.weights(), 3);
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
