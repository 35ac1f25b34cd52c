#ifndef TESTS_SUPPORT_GOLDEN_MODEL_HPP
#define TESTS_SUPPORT_GOLDEN_MODEL_HPP

// Checkpoints of tests/golden/models, and what another implementation computed with them.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "recurformer/checkpoint/model_files.hpp"
#include "recurformer/model/loss.hpp"
#include "recurformer/model/model.hpp"

namespace golden {

inline const std::string folder = RECURFORMER_TEST_DATA "/models/";
inline constexpr std::int64_t prompt = 24;

/// What make_models.py wrote beside a checkpoint.
struct Expected {
  explicit Expected(const std::string& name) : file(folder + name + "/expected.safetensors") {
    const rf::TensorEntry& entry = file.tensor("tokens");
    std::vector<std::int64_t> wide(entry.bytes.size() / sizeof(std::int64_t));
    std::memcpy(wide.data(), entry.bytes.data(), entry.bytes.size());
    tokens.assign(wide.begin(), wide.end());
  }
  std::vector<float> values(const std::string& tensor) const {
    const rf::TensorEntry& entry = file.tensor(tensor);
    std::vector<float> out(entry.bytes.size() / sizeof(float));
    rf::read_tensor(file, tensor, entry.shape, out.data());
    return out;
  }

  rf::SafetensorsFile file;
  std::vector<rf::Token> tokens;
};

/// A checkpoint in a program's precision, whatever it is stored in.
template <class M>
M load(const std::string& name) {
  rf::ModelConfig config = rf::read_model_config(folder + name);
  for (rf::KindChoice& kind : config.plan.kinds) kind.precision = M::Precision::name;
  M model(config.shape, config.plan);
  rf::load_weights(model.weights(), folder + name);
  return model;
}

/// Logits of all tokens: a prefill, then one token at a time.
template <class M>
std::vector<float> cached_logits(M& model, const std::vector<rf::Token>& tokens) {
  const std::int64_t vocabulary = model.shape().vocabulary;
  std::vector<float> out(tokens.size() * static_cast<std::size_t>(vocabulary), std::nanf(""));
  rf::Cache cache = model.make_cache();
  const auto count = static_cast<std::int64_t>(tokens.size());
  for (std::int64_t first = 0, rows = prompt; first < count; first += rows, rows = 1) {
    const rf::SequenceTokens part{0, rows};
    const auto some =
        std::span(tokens).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(rows));
    model.logits(model.forward(some, {&part, 1}, cache), rows, out.data() + first * vocabulary);
  }
  return out;
}

/// The same without a cache, all at once.
template <class M>
std::vector<float> uncached_logits(M& model, const std::vector<rf::Token>& tokens) {
  const rf::SequenceRows whole{.rows = static_cast<std::int64_t>(tokens.size())};
  std::vector<float> out(tokens.size() * static_cast<std::size_t>(model.shape().vocabulary), std::nanf(""));
  model.logits(model.forward(tokens, {&whole, 1}), whole.rows, out.data());
  return out;
}

inline double largest(const std::vector<float>& values) {
  double out = 0;
  for (const float value : values) out = std::max(out, std::abs(static_cast<double>(value)));
  return out;
}
inline double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double out = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (!(difference <= out)) out = difference;  // NaN too
  }
  return out;
}
inline double norm_of_difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double squares = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    squares += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
  return std::sqrt(squares);
}

/// fp32 logits with a cache and without.
template <class M>
void check_logits(const std::string& name) {
  CAPTURE(name);
  const Expected expected(name);
  const auto logits = expected.values("logits");
  auto model = load<M>(name);
  const double tolerance = 1e-4 * largest(logits);
  CHECK(largest_difference(cached_logits(model, expected.tokens), logits) <= tolerance);
  CHECK(largest_difference(uncached_logits(model, expected.tokens), logits) <= tolerance);
}

/// bf16 logits: at most twice as far from fp32 as PyTorch's.
template <class M>
void check_bf16_logits(const std::string& name) {
  CAPTURE(name);
  const Expected expected(name);
  const auto logits = expected.values("logits");
  auto model = load<M>(name);
  const double theirs = norm_of_difference(expected.values("logits_bf16"), logits);
  CHECK(theirs > 0);
  CHECK(norm_of_difference(cached_logits(model, expected.tokens), logits) <= 2 * theirs);
}

/// Loss and gradients of the mean cross entropy of tokens[1:].
template <class M>
void check_gradients(const std::string& name) {
  const Expected expected(name);
  auto model = load<M>(name);
  const auto count = static_cast<std::int64_t>(expected.tokens.size());
  std::vector<rf::Token> targets(expected.tokens.begin() + 1, expected.tokens.end());
  targets.push_back(-1);
  const rf::SequenceRows whole{.rows = count};
  rf::ModelTape tape;
  rf::NextTokenLoss loss;
  auto gradients = model.make_gradients();
  model.forward(expected.tokens, {&whole, 1}, tape);
  std::vector<float> d_hidden(static_cast<std::size_t>(count * model.shape().layer.d_model));
  const auto sums = loss.backward(model, tape.hidden.data(), targets,
                                  {.gradient_scale = 1.0 / static_cast<double>(count - 1)},
                                  static_cast<const M*>(nullptr), nullptr, d_hidden.data(), gradients);
  model.backward(tape, d_hidden.data(), gradients);
  CHECK(sums.mean_cross_entropy() ==
        doctest::Approx(static_cast<double>(expected.values("loss")[0])).epsilon(1e-5));

  std::size_t compared = 0;
  const auto form = rf::detail::read_form(rf::ModelTensors(folder + name), model.shape(), model.named_plan());
  for (const rf::FileTensor& tensor : rf::detail::checkpoint_tensors(gradients, form)) {
    CAPTURE(tensor.name);
    std::vector<float> got;
    for (const rf::FilePiece& piece : tensor.pieces) {  // of what was copied: the sum
      const auto size = static_cast<std::size_t>(piece.size);
      if (!piece.again) got.resize(got.size() + size);
      for (std::size_t i = 0; i < size; ++i)
        got[got.size() - size + i] += piece.factor * static_cast<const float*>(piece.data)[i];
    }
    const auto want = expected.values("gradient." + tensor.name);
    CHECK(largest(want) > 0);
    CHECK(largest_difference(got, want) <= 1e-4 * largest(want));
    ++compared;
  }
  // Everything the file has, but for tokens, logits twice and the loss.
  CHECK(compared + 4 == expected.file.tensors().size());
}

}  // namespace golden

#endif  // TESTS_SUPPORT_GOLDEN_MODEL_HPP
