#include "recurformer/model/model.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "recurformer/model/reference_model.hpp"
#include "recurformer/reference/attention.hpp"
#include "recurformer/reference/mamba.hpp"
#include "recurformer/reference/mamba2.hpp"
#include "support/small_model.hpp"

namespace {

/// max |a - b| / max |b|.
double relative_error(const std::vector<float>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0, scale = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    worst = std::max(worst, std::abs(static_cast<double>(a[i]) - b[i]));
    scale = std::max(scale, std::abs(b[i]));
  }
  return worst / scale;
}

std::vector<float> logits_of(const small::Model& model, const float* hidden, std::int64_t rows) {
  std::vector<float> out(static_cast<std::size_t>(rows * model.shape().vocabulary));
  model.logits(hidden, rows, out.data());
  return out;
}

std::vector<double> tail(const std::vector<double>& values, std::size_t count) {
  return {values.end() - static_cast<std::ptrdiff_t>(count), values.end()};
}

}  // namespace

TEST_CASE("the whole model computes what its definition in double says, for every mixer, tied and untied") {
  const auto tokens = small::tokens(37);
  for (const bool tied : {true, false}) {
    CAPTURE(tied);
    auto model = small::model(small::hybrid_plan(), tied);
    const auto expected = rf::reference::logits(model.weights(), tokens);
    const rf::SequenceRows sequence{.rows = 37};
    CHECK(relative_error(logits_of(model, model.forward(tokens, {&sequence, 1}), 37), expected) < 1e-5);
  }
}

TEST_CASE("prefill at once, in chunks with any borders, and token by token agree") {
  const auto tokens = small::tokens(61);
  auto model = small::model();
  const auto expected = tail(rf::reference::logits(model.weights(), tokens), 40);
  const std::vector<std::vector<std::int64_t>> chunkings = {
      {61}, {1, 60}, {60, 1}, {7, 1, 1, 30, 22}, {31, 30}, std::vector<std::int64_t>(61, 1)};
  for (const auto& chunks : chunkings) {
    CAPTURE(chunks.size());
    auto cache = model.make_cache();
    std::size_t first = 0;
    std::vector<float> logits;
    for (const std::int64_t chunk : chunks) {
      const auto result =
          model.next_logits(std::span(tokens).subspan(first, static_cast<std::size_t>(chunk)), cache);
      logits.assign(result.begin(), result.end());
      first += static_cast<std::size_t>(chunk);
    }
    CHECK(cache.length() == 61);
    CHECK(relative_error(logits, expected) < 1e-5);
  }
}

TEST_CASE("packed weights compute the same") {
  const auto tokens = small::tokens(9);
  auto model = small::model();
  const auto expected = tail(rf::reference::logits(model.weights(), tokens), 40);
  model.pack();
  auto cache = model.make_cache();
  const auto logits = model.next_logits(tokens, cache);
  CHECK(relative_error({logits.begin(), logits.end()}, expected) < 1e-5);
  CHECK_THROWS_AS((void)model.weights().layers[0].output.data(), rf::ArgumentError);
}

TEST_CASE("sequences of different lengths share a call without touching each other, empty ones included") {
  auto model = small::model();
  const std::int64_t lengths[] = {5, 0, 19, 1};
  auto cache = model.make_cache({.sequences = 4});
  std::vector<std::vector<rf::Token>> fed(4);
  for (int round = 0; round < 3; ++round) {
    std::vector<rf::Token> packed;
    std::vector<rf::SequenceTokens> parts;
    for (std::int64_t s = 0; s < 4; ++s) {
      const auto more =
          small::tokens(lengths[s] + (s == 3 ? round : 0), static_cast<std::uint64_t>(10 * round + s));
      packed.insert(packed.end(), more.begin(), more.end());
      fed[static_cast<std::size_t>(s)].insert(fed[static_cast<std::size_t>(s)].end(), more.begin(),
                                              more.end());
      parts.push_back({s, static_cast<std::int64_t>(more.size())});
    }
    const float* hidden = model.forward(packed, parts, cache);
    std::int64_t end = 0;
    for (std::size_t s = 0; s < 4; ++s) {
      end += parts[s].rows;
      if (parts[s].rows == 0) continue;
      const auto expected = tail(rf::reference::logits(model.weights(), fed[s]), 40);
      CHECK(relative_error(logits_of(model, hidden + (end - 1) * 24, 1), expected) < 1e-5);
    }
  }
  CHECK(cache.length(1) == 0);
}

TEST_CASE("results do not depend on the number of threads") {
  const auto tokens = small::tokens(130);
  auto model = small::model();
  std::vector<std::vector<float>> results;
  for (const int threads : {1, 2, 3}) {
    rf::set_threads(threads);
    auto cache = model.make_cache();
    const auto logits = model.next_logits(tokens, cache);
    results.emplace_back(logits.begin(), logits.end());
  }
  rf::set_threads(2);
  CHECK(results[0] == results[1]);
  CHECK(results[0] == results[2]);
}

TEST_CASE("misuse is an error that says what was wrong") {
  auto model = small::model();
  auto cache = model.make_cache({.sequences = 2});
  const std::vector<rf::Token> bad = {3, 40};
  CHECK_THROWS_WITH_AS(model.next_logits(bad, cache),
                       "token 40 at position 1 of the call is outside the vocabulary of 40",
                       rf::ArgumentError);
  const auto tokens = small::tokens(3);
  const rf::SequenceTokens twice[] = {{0, 1}, {0, 2}}, short_parts[] = {{0, 1}, {1, 1}}, outside[] = {{2, 3}};
  CHECK_THROWS_WITH_AS(model.forward(tokens, twice, cache), "sequence 0 appears twice in one call",
                       rf::ArgumentError);
  CHECK_THROWS_WITH_AS(model.forward(tokens, short_parts, cache),
                       "the parts of this call have 2 tokens, but 3 were given", rf::ArgumentError);
  CHECK_THROWS_AS(model.forward(tokens, outside, cache), rf::ArgumentError);
  CHECK_THROWS_WITH_AS(small::Model(small::shape(), rf::uniform_plan({"retnet", "fp32", {}}, 2, 4)),
                       "plan: this program has no kernels for \"retnet:fp32\"; it has attention:fp32, "
                       "streaming:fp32, mamba:fp32, mamba2:fp32",
                       rf::ArgumentError);
  CHECK_THROWS_WITH_AS(small::Model(small::shape(), rf::uniform_plan({"mamba", "fp32", {}}, 3, 4)),
                       "the plan has 3 layers; the model has 2", rf::ArgumentError);
  CHECK_THROWS_WITH_AS(small::Model(small::shape(), rf::uniform_plan({"mamba", "fp32", {}}, 2, 5)),
                       "the plan of a layer names 5 KV groups; the layer has 4", rf::ArgumentError);
}
