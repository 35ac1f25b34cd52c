// Small checkpoints of every architecture that config.json may name, against what `transformers` computes
// with them (tests/golden/make_models.py): logits of a prefill and of 16 decoded tokens, loss and gradients.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "recurformer/checkpoint/model_files.hpp"
#include "recurformer/cpu/attention_mixer.hpp"
#include "recurformer/model/linear_products.hpp"
#include "recurformer/model/loss.hpp"
#include "recurformer/model/model.hpp"

namespace {

constexpr rf::AttentionPolicy biased{.qkv_bias = true};
template <class P>
using AllAttention = rf::Kinds<rf::Kind<rf::Attention<>, P>, rf::Kind<rf::StreamingAttention<>, P>,
                               rf::Kind<rf::Attention<biased>, P>,
                               rf::Kind<rf::StreamingAttention<rf::StreamingWindow{}, biased>, P>>;
struct Fp32Spec {
  using Kinds = AllAttention<rf::Fp32>;
  using Precision = rf::Fp32;
};
struct Bf16Spec {
  using Kinds = AllAttention<rf::Bf16>;
  using Precision = rf::Bf16;
  using Widths = std::integer_sequence<int, 16, 64>;
};

const std::string golden = RECURFORMER_TEST_DATA "/models/";
constexpr std::int64_t prompt = 24;

/// What make_models.py wrote beside a checkpoint.
struct Expected {
  explicit Expected(const std::string& name) : file(golden + name + "/expected.safetensors") {
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
template <class Spec>
rf::Model<Spec> load(const std::string& name) {
  rf::ModelConfig config = rf::read_model_config(golden + name);
  for (rf::KindChoice& kind : config.plan.kinds) kind.precision = Spec::Precision::name;
  rf::Model<Spec> model(config.shape, config.plan);
  rf::load_weights(model.weights(), golden + name);
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
    const float* hidden = model.forward(
        std::span(tokens).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(rows)),
        {&part, 1}, cache);
    model.logits(hidden, rows, out.data() + first * vocabulary);
  }
  return out;
}

double largest(const std::vector<float>& values) {
  double out = 0;
  for (const float value : values) out = std::max(out, std::abs(static_cast<double>(value)));
  return out;
}
double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double out = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (!(difference <= out)) out = difference;  // NaN too
  }
  return out;
}
double norm_of_difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double squares = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    squares += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
  return std::sqrt(squares);
}

}  // namespace

TEST_CASE("golden models: fp32 logits of every architecture") {
  for (const char* name : {"llama", "llama3_rope", "linear_rope", "yarn_rope", "llama_shards_fp16",
                           "mistral_window", "mistral", "qwen2", "qwen2_window", "qwen3", "qwen3_wide"}) {
    CAPTURE(name);
    const Expected expected(name);
    const auto logits = expected.values("logits");
    auto model = load<Fp32Spec>(name);
    const double tolerance = 1e-4 * largest(logits);
    CHECK(largest_difference(cached_logits(model, expected.tokens), logits) <= tolerance);

    const rf::SequenceRows whole{.rows = static_cast<std::int64_t>(expected.tokens.size())};
    std::vector<float> uncached(logits.size(), std::nanf(""));
    model.logits(model.forward(expected.tokens, {&whole, 1}), whole.rows, uncached.data());
    CHECK(largest_difference(uncached, logits) <= tolerance);
  }
}

TEST_CASE("golden models: bf16 is at most twice as far from fp32 as PyTorch's") {
  for (const char* name : {"llama", "linear_rope", "qwen2", "qwen2_window"}) {
    CAPTURE(name);
    const Expected expected(name);
    const auto logits = expected.values("logits");
    auto model = load<Bf16Spec>(name);
    const double theirs = norm_of_difference(expected.values("logits_bf16"), logits);
    CHECK(theirs > 0);
    CHECK(norm_of_difference(cached_logits(model, expected.tokens), logits) <= 2 * theirs);
  }
}

TEST_CASE("golden models: loss and all gradients") {
  for (const char* name : {"llama", "qwen2"}) {
    CAPTURE(name);
    const Expected expected(name);
    auto model = load<Fp32Spec>(name);
    const auto count = static_cast<std::int64_t>(expected.tokens.size());
    std::vector<rf::Token> targets(expected.tokens.begin() + 1, expected.tokens.end());
    targets.push_back(-1);
    const rf::SequenceRows whole{.rows = count};
    rf::ModelTape tape;
    rf::NextTokenLoss loss;
    auto gradients = model.make_gradients();
    model.forward(expected.tokens, {&whole, 1}, tape);
    std::vector<float> d_hidden(static_cast<std::size_t>(count * model.shape().layer.d_model));
    const auto sums = loss.backward(
        model, tape.hidden.data(), targets, {.gradient_scale = 1.0 / static_cast<double>(count - 1)},
        static_cast<const rf::Model<Fp32Spec>*>(nullptr), nullptr, d_hidden.data(), gradients);
    model.backward(tape, d_hidden.data(), gradients);
    CHECK(sums.mean_cross_entropy() ==
          doctest::Approx(static_cast<double>(expected.values("loss")[0])).epsilon(1e-5));

    std::size_t compared = 0;
    for (const rf::FileTensor& tensor : rf::file_tensors(gradients)) {
      CAPTURE(tensor.name);
      std::vector<float> got;
      for (const rf::FilePiece& piece : tensor.pieces) {
        const auto* values = static_cast<const float*>(piece.data);
        got.insert(got.end(), values, values + piece.size);
      }
      const auto want = expected.values("gradient." + tensor.name);
      CHECK(largest(want) > 0);
      CHECK(largest_difference(got, want) <= 1e-4 * largest(want));
      ++compared;
    }
    // Everything the file has, but for tokens, logits twice and the loss.
    CHECK(compared + 4 == expected.file.tensors().size());
  }
}
