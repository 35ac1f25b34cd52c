// Models of standard Mamba-2: a norm across the heads and no MLP. The mixer by itself is tested in
// tests/cpu/standard_mamba2_mixer.cpp, against other implementations in tests/checkpoint/golden_mamba2.cpp.

#include "recurformer/reference/standard_mamba2.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "recurformer/cpu/standard_mamba2_mixer.hpp"
#include "recurformer/model/linear_products.hpp"
#include "recurformer/model/reference_model.hpp"
#include "support/small_model.hpp"

namespace {

struct Spec {
  using Kinds = rf::Kinds<rf::Kind<rf::StandardMamba2<rf::SsdShape{.d_state = 32}>, rf::Fp32>>;
  using Precision = rf::Fp32;
  using Widths = std::integer_sequence<int, 16>;
};
using Model = rf::Model<Spec>;

rf::ModelShape shape() {
  return {.vocabulary = 40,
          .layers = 2,
          .layer = {.d_model = 24, .d_head = 16, .kv_groups = 2, .queries_per_group = 3, .heads_norm = true},
          .tied_embeddings = true};
}
Model model() {
  Model out(shape(), rf::uniform_plan({"mamba2_standard", "fp32", {}}, 2, 2));
  small::randomise(out);
  return out;
}

/// max |a - b| / max |b|.
template <class A, class B>
double relative_error(std::span<const A> a, std::span<const B> b) {
  REQUIRE(a.size() == b.size());
  double worst = 0, scale = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    worst = std::max(worst, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
    scale = std::max(scale, std::abs(static_cast<double>(b[i])));
  }
  return worst / scale;
}

/// Logits of new tokens of one sequence.
std::vector<float> logits(Model& of, std::span<const rf::Token> tokens, rf::Cache& cache) {
  const rf::SequenceTokens part{0, static_cast<std::int64_t>(tokens.size())};
  std::vector<float> out(tokens.size() * 40);
  of.logits(of.forward(tokens, {&part, 1}, cache), part.rows, out.data());
  return out;
}

}  // namespace

TEST_CASE("standard Mamba-2 as a model: logits equal the definition's, however tokens come in") {
  Model of = model();
  const auto tokens = small::tokens(45);
  const auto want = rf::reference::logits(of.weights(), tokens);
  for (const std::size_t step : {45u, 9u, 1u}) {
    CAPTURE(step);
    rf::Cache cache = of.make_cache();
    std::vector<float> got;
    for (std::size_t first = 0; first < tokens.size(); first += step) {
      const auto part = logits(of, std::span(tokens).subspan(first, step), cache);
      got.insert(got.end(), part.begin(), part.end());
    }
    CHECK(relative_error(std::span<const float>(got), std::span<const double>(want)) < 1e-5);
  }
}

TEST_CASE("standard Mamba-2 as a model: tokens can be taken back") {
  Model of = model();
  const auto tokens = small::tokens(30), others = small::tokens(8, 5);
  rf::Cache plain = of.make_cache(), taken_back = of.make_cache({.max_rollback = 8});
  (void)logits(of, std::span(tokens).first(20), plain);
  (void)logits(of, std::span(tokens).first(20), taken_back);
  (void)logits(of, others, taken_back);
  taken_back.rollback(8);
  const auto rest = std::span(tokens).subspan(20);
  const auto got = logits(of, rest, taken_back), want = logits(of, rest, plain);
  CHECK(relative_error(std::span<const float>(got), std::span<const float>(want)) < 1e-5);
}
