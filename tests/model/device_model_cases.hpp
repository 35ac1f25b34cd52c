#ifndef TESTS_MODEL_DEVICE_MODEL_CASES_HPP
#define TESTS_MODEL_DEVICE_MODEL_CASES_HPP

// A whole small hybrid model, all four mixers in every layer, on a device: as close to its definition as a
// plain implementation in the same precision, whatever the prompt is cut into. The checks run on the
// simulated device (device_model.cpp) and on a GPU (device_model.cu).

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <vector>

#include "recurformer/model/generate.hpp"
#include "recurformer/model/reference_model.hpp"
#include "recurformer/reference/attention.hpp"
#include "recurformer/reference/mamba.hpp"
#include "recurformer/reference/mamba2.hpp"
#include "support/device_model.hpp"

namespace device_model {

/// What storing it in T makes of a number.
template <class T>
double rounded_to(double value) {
  return rf::convert<double>(rf::convert<T>(value));
}

/// The last row of logits by definition, and how far one may be from it.
struct Expected {
  template <class Set, class Precision>
  Expected(const rf::ModelWeights<Set, Precision>& weights, std::span<const rf::Token> tokens)
      : exact(last(rf::reference::logits(weights, tokens))) {
    using T = typename Precision::Weight;
    double largest = 0;
    for (const double x : exact) largest = std::max(largest, std::abs(x));
    const double two_units = largest * (rf::dtype_of<T> == rf::DType::BF16 ? 0x1p-7 : 0x1p-10);
    allowance = 2 * error(last(rf::reference::logits(weights, tokens, rounded_to<T>))) + two_units;
  }
  bool allows(std::span<const float> logits) const {
    return error({logits.begin(), logits.end()}) <= allowance;
  }
  /// True if the best token leads by more than twice what is allowed, so that rounding cannot change it.
  bool is_clear() const {
    std::vector<double> sorted = exact;
    std::sort(sorted.rbegin(), sorted.rend());
    return sorted[0] - sorted[1] > 2 * allowance;
  }
  rf::Token best() const {
    return static_cast<rf::Token>(std::max_element(exact.begin(), exact.end()) - exact.begin());
  }

  std::vector<double> exact;
  /// The two-times rule: twice the worst error of a plain implementation in the same precision, and two units
  /// in its last place at the largest logit.
  double allowance;

 private:
  static std::vector<double> last(const std::vector<double>& logits) {
    return {logits.end() - vocabulary, logits.end()};
  }
  double error(const std::vector<double>& logits) const {
    double worst = 0;
    for (std::size_t i = 0; i < exact.size(); ++i) {
      const double difference = std::abs(logits[i] - exact[i]);
      if (!(difference <= worst)) worst = difference;  // NaN, too
    }
    return worst;
  }
};

/// The same text fed in chunks of these lengths, one chunking after the other.
template <class SpecType, class Device, class AnyWeights>
void check_chunks(Device& device, const AnyWeights& host,
                  const std::vector<std::vector<std::int64_t>>& chunkings) {
  const std::int64_t length = std::accumulate(chunkings[0].begin(), chunkings[0].end(), std::int64_t{0});
  const auto tokens = random_tokens(length, 7);
  const Expected expected(host, tokens);
  rf::Model<SpecType, Device> model(device, host);
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
    CHECK(cache.length() == length);
    CHECK(expected.allows(logits));
  }
}

/// Prefill at once, in chunks and token by token.
template <class Device>
void check_chunks(Device& device) {
  check_chunks<Spec>(device, host_weights(),
                     {{45}, {1, 44}, {20, 1, 1, 9, 14}, {40, 1, 1, 1, 1, 1}, {33, 12}});
}

/// Prefill and decode across the border between two pages of the cache.
template <class Device>
void check_pages(Device& device) {
  check_chunks<Spec>(device, host_weights(), {{270}, {250, 5, 1, 2, 12}});
}

/// Heads with biases, as in Qwen2, in one layer and heads without in the other, which share the kernels.
template <class Device>
void check_biases(Device& device) {
  const rf::Plan plan{.kinds = {{"attention_qkv_bias", "bf16", {}},
                                {"streaming_qkv_bias", "bf16", {{"sink", 2}, {"window", 5}}},
                                {"mamba", "bf16", {}},
                                {"mamba2", "bf16", {}},
                                {"attention", "bf16", {}},
                                {"streaming", "bf16", {{"sink", 1}, {"window", 9}}}},
                      .kind_of_group = {{0, 2, 1, 3}, {5, 4, 2, 4}}};
  check_chunks<Spec>(device, random_weights<Spec>(host_shape, plan), {{45}, {20, 1, 1, 9, 14}});
}

/// As in Qwen2.
struct AttentionSpec {
  using Kinds = rf::Kinds<rf::Kind<rf::Attention<qkv_bias>, rf::Bf16>>;
  using Precision = rf::Bf16;
  using Widths = std::integer_sequence<int, 64>;
};

/// Layers of attention only, with biases, of a width for which some GPUs have a kernel of its own.
template <class Device>
void check_attention_only(Device& device) {
  const rf::ModelShape shape{
      .vocabulary = vocabulary,
      .layers = 1,
      .layer = {.d_model = 32, .d_head = 64, .kv_groups = 1, .queries_per_group = 2, .d_ff = 40},
      .tied_embeddings = true};
  const auto weights =
      random_weights<AttentionSpec>(shape, rf::uniform_plan({"attention_qkv_bias", "bf16", {}}, 1, 1));
  check_chunks<AttentionSpec>(device, weights, {{71}, {40, 30, 1}});
}

/// Several sequences at once are as each alone, and greedy tokens are the best ones.
template <class Device>
void check_batch(Device& device) {
  const Weights host = host_weights();
  rf::Model<Spec, Device> model(device, host);
  auto cache = model.make_cache({.sequences = 3});
  std::vector<std::vector<rf::Token>> texts = {random_tokens(19, 1), random_tokens(1, 2),
                                               random_tokens(34, 3)};

  const auto call = [&](const std::vector<std::size_t>& from) {
    std::vector<rf::Token> tokens;
    std::vector<rf::SequenceTokens> parts;
    for (std::size_t s = 0; s < texts.size(); ++s) {
      const auto length = static_cast<std::int64_t>(texts[s].size() - from[s]);
      if (length == 0) continue;
      parts.push_back({static_cast<std::int64_t>(s), length});
      tokens.insert(tokens.end(), texts[s].begin() + static_cast<std::ptrdiff_t>(from[s]), texts[s].end());
    }
    return std::pair(tokens, parts);
  };

  std::vector<std::size_t> done(3, 0);
  for (int step = 0; step < 4; ++step) {
    const auto [tokens, parts] = call(done);
    const auto snapshot = cache.snapshot();
    const auto logits = model.forward(tokens, parts, cache);
    const std::vector<float> kept(logits.begin(), logits.end());
    cache.restore(snapshot);
    const std::vector<rf::Token> next = model.greedy(tokens, parts, cache);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      CAPTURE(step);
      CAPTURE(i);
      const auto s = static_cast<std::size_t>(parts[i].sequence);
      const Expected expected(host, texts[s]);
      CHECK(expected.allows(std::span(kept).subspan(i * vocabulary, vocabulary)));
      if (expected.is_clear()) CHECK(next[i] == expected.best());
      done[s] = texts[s].size();
      if (step < 3 && s != static_cast<std::size_t>(step)) texts[s].push_back(next[i]);
    }
  }
}

/// A snapshot is a moment, and shared pages are copied when written.
template <class Device>
void check_snapshot(Device& device) {
  const Weights host = host_weights();
  rf::Model<Spec, Device> model(device, host);
  auto cache = model.make_cache();
  const auto prompt = random_tokens(20, 4), left = random_tokens(3, 5), right = random_tokens(3, 6);
  model.next_logits(prompt, cache);
  const auto moment = cache.snapshot();
  const auto continued = [&](const std::vector<rf::Token>& tokens) {
    const auto logits = model.next_logits(tokens, cache);
    return std::vector<float>(logits.begin(), logits.end());
  };
  const auto first = continued(left);
  cache.restore(moment);
  CHECK(cache.length() == 20);
  CHECK(continued(right) != first);
  cache.restore(moment);
  CHECK(continued(left) == first);  // the same calls give the same bits
  cache.reset();
  CHECK(cache.length() == 0);
  model.next_logits(prompt, cache);
  CHECK(continued(left) == first);
}

/// Tokens drawn on the device are those that the host draws from the same logits.
template <class Device>
void check_sampling(Device& device) {
  const Weights host = host_weights();
  rf::Model<Spec, Device> model(device, host);
  const rf::SamplingOptions options{.temperature = 1.5, .top_k = 30, .top_p = 0.95, .seed = 3};
  const auto prompt = random_tokens(12, 5);
  auto cache = model.make_cache(), followed = model.make_cache();
  const auto drawn = rf::generate(model, cache, prompt, 5, options, [](rf::Token) { return true; });
  rf::Sampler sampler(options);
  std::span<const rf::Token> next = prompt;
  for (std::size_t step = 0; step < drawn.size(); ++step) {
    CHECK(drawn[step] == sampler.sample(model.next_logits(next, followed), 0, step));
    next = std::span(drawn).subspan(step, 1);
  }
  CHECK(cache.length() == followed.length());
  CHECK_THROWS_AS(model.next_token(prompt, cache, {.temperature = -1}, 0), rf::ArgumentError);
}

/// What it refuses.
template <class Device>
void check_refusals(Device& device) {
  const Weights host = host_weights();
  rf::Model<Spec, Device> model(device, host);
  auto cache = model.make_cache();
  const std::vector<rf::Token> tokens = {1, 2};
  const rf::SequenceTokens other{1, 2}, wrong_count{0, 3};
  CHECK_THROWS_AS(model.forward(tokens, {&other, 1}, cache), rf::ArgumentError);
  CHECK_THROWS_AS(model.forward(tokens, {&wrong_count, 1}, cache), rf::ArgumentError);
  CHECK_THROWS_AS(model.next_logits(std::vector<rf::Token>{vocabulary}, cache), rf::ArgumentError);
  CHECK_THROWS_AS(model.next_logits(std::vector<rf::Token>{}, cache), rf::ArgumentError);
  CHECK(cache.length() == 0);

  rf::Plan mixed = host_plan;
  mixed.kinds.push_back({"attention_qkv_bias", "bf16", {}});
  mixed.kind_of_group[1] = {3, 0, 4, 2};
  CHECK_THROWS_WITH_AS(
      (rf::Model<Spec, Device>(device, random_weights<Spec>(host_shape, mixed))),
      "a layer has heads of the kinds attention and attention_qkv_bias; on a device it can have only one of "
      "these, as the same part of a kernel computes them",
      rf::ArgumentError);
}

/// Two models on two devices, here two streams, take turns and do not notice each other.
template <class Device>
void check_two_models(Device& left_device, Device& right_device) {
  const Weights left_host = host_weights();
  Weights right_host = host_weights();
  rf::initialise(right_host, 77);
  rf::Model<Spec, Device> left(left_device, left_host), right(right_device, right_host);
  auto left_cache = left.make_cache(), right_cache = right.make_cache();
  const auto text = random_tokens(24, 9);
  const auto part = [&](std::size_t first, std::size_t count) {
    return std::span(text).subspan(first, count);
  };
  left.next_logits(part(0, 20), left_cache);
  right.next_logits(part(0, 18), right_cache);
  const auto last = left.next_logits(part(20, 4), left_cache);
  const std::vector<float> of_left(last.begin(), last.end());
  CHECK(Expected(right_host, text).allows(right.next_logits(part(18, 6), right_cache)));
  CHECK(Expected(left_host, text).allows(of_left));
  CHECK_THROWS_AS(left.next_logits(part(0, 2), right_cache), rf::ArgumentError);
  CHECK(right_cache.length() == 24);
}

/// A layer of a user's own program: two sequences, prefilled, then continued together and alone.
template <class Device>
void check_layer(Device& device) {
  using Layer = rf::Layer<OneLayer, Device>;
  constexpr std::int64_t d = OneLayer::shape.d_model, lengths[] = {23, 12};
  auto weights = Layer::make_weights();
  rf::Random random(5);
  const auto fill = [&](auto* data, std::int64_t size) {
    for (std::int64_t i = 0; i < size; ++i)
      data[i] =
          rf::convert<std::remove_reference_t<decltype(*data)>>(static_cast<float>(0.2 * random.normal()));
  };
  weights.for_each_run([&](std::size_t, auto& run) {
    rf::for_each_group_slice(run, OneLayer::shape.head_shape(),
                             [&](const rf::ParameterSpec& spec, std::size_t, auto* data) {
                               fill(data, spec.group_size(OneLayer::shape.head_shape()));
                             });
  });
  for (auto* matrix : {&weights.output, &weights.gate_up, &weights.down})
    fill(matrix->data(), matrix->size());
  Layer layer(device, weights);
  auto cache = layer.make_cache({.sequences = 2});

  std::vector<rf::bf16> x[2];
  std::vector<double> exact[2], plain[2];
  for (int s = 0; s < 2; ++s) {
    x[s].resize(static_cast<std::size_t>(lengths[s] * d));
    for (auto& value : x[s]) value = rf::convert<rf::bf16>(static_cast<float>(random.normal()));
    for (const auto value : x[s]) exact[s].push_back(rf::convert<double>(value));
    plain[s] = exact[s];
    rf::reference::forward_layer(weights, OneLayer::shape, exact[s]);
    rf::reference::forward_layer(weights, OneLayer::shape, plain[s], rounded_to<rf::bf16>);
  }

  const auto part_of = [&](int s, std::int64_t first, std::int64_t rows) {
    return std::span<const rf::bf16>(x[s]).subspan(static_cast<std::size_t>(first * d),
                                                   static_cast<std::size_t>(rows * d));
  };
  std::vector<double> result[2];
  // Rows are `stride` elements apart; what is between them stays as it is.
  const auto feed = [&](std::vector<rf::SequenceTokens> parts, std::int64_t stride) {
    const auto between = rf::convert<rf::bf16>(7.0f);
    std::vector<rf::bf16> rows;
    for (const rf::SequenceTokens& part : parts)
      for (std::int64_t r = 0; r < part.rows; ++r) {
        const auto own = part_of(static_cast<int>(part.sequence), cache.length(part.sequence) + r, 1);
        rows.insert(rows.end(), own.begin(), own.end());
        rows.insert(rows.end(), static_cast<std::size_t>(stride - d), between);
      }
    const rf::cuda::DeviceArray<rf::bf16, Device> there(device, std::span<const rf::bf16>(rows));
    if (stride == d)
      layer.forward(there.data(), parts, cache);
    else
      layer.forward({there.data(), stride}, parts, cache);
    const std::vector<rf::bf16> back = there.to_host();
    std::size_t next = 0;
    for (const rf::SequenceTokens& part : parts)
      for (std::int64_t i = 0; i < part.rows * stride; ++i, ++next)
        if (i % stride < d)
          result[part.sequence].push_back(rf::convert<double>(back[next]));
        else
          CHECK(back[next] == between);
  };
  feed({{0, 10}, {1, 9}}, d + 8);
  feed({{1, 1}, {0, 2}}, d + 16);
  feed({{0, 10}}, d);
  feed({{0, 1}}, d + 8);
  feed({{1, 2}}, d);

  for (int s = 0; s < 2; ++s) {
    CHECK(cache.length(s) == lengths[s]);
    REQUIRE(result[s].size() == exact[s].size());
    double worst = 0, plain_worst = 0, largest = 0;
    for (std::size_t i = 0; i < exact[s].size(); ++i) {
      const double difference = std::abs(result[s][i] - exact[s][i]);
      if (!(difference <= worst)) worst = difference;  // NaN, too
      plain_worst = std::max(plain_worst, std::abs(plain[s][i] - exact[s][i]));
      largest = std::max(largest, std::abs(exact[s][i]));
    }
    CHECK(worst <= 2 * plain_worst + largest * 0x1p-7);
  }
  const rf::cuda::DeviceArray<rf::bf16, Device> two_rows(device, static_cast<std::size_t>(2 * d + 8));
  const rf::SequenceTokens twice[] = {{0, 1}, {0, 1}}, none{0, 0}, one{0, 1};
  CHECK_THROWS_AS(layer.forward(two_rows.data(), twice, cache), rf::ArgumentError);
  CHECK_THROWS_AS(layer.forward(two_rows.data(), {&none, 1}, cache), rf::ArgumentError);
  CHECK_THROWS_AS(layer.forward(nullptr, {&one, 1}, cache), rf::ArgumentError);
  CHECK_THROWS_AS(layer.forward(two_rows.data() + 1, {&one, 1}, cache), rf::ArgumentError);
  CHECK_THROWS_AS(layer.forward({two_rows.data(), d - 8}, {&one, 1}, cache), rf::ArgumentError);
  CHECK_THROWS_AS(layer.forward({two_rows.data(), d + 4}, {&one, 1}, cache), rf::ArgumentError);
}

}  // namespace device_model

#endif  // TESTS_MODEL_DEVICE_MODEL_CASES_HPP
