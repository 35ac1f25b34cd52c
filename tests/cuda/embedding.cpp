// The two ends of a model: tokens to the residual stream, and the residual stream to logits and tokens.
#include "recurformer/cuda/embedding.hpp"

#include <doctest/doctest.h>

#include "cuda/gemm_harness.hpp"
#include "recurformer/cuda/logits.hpp"
#include "recurformer/cuda/pack_rows.hpp"

namespace {

using namespace rf::test;

std::size_t size(int rows, int columns) {
  return static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns);
}

template <class T, class Device>
void check_embedding(Device& device, int rows, int width, int parts) {
  CAPTURE(rows);
  CAPTURE(width);
  rf::Random random(1);
  const int vocabulary = 13, stride = width + 8;
  const auto table = random_values<T>(random, size(vocabulary, width));
  std::vector<std::int32_t> tokens;
  for (int r = 0; r < rows; ++r) tokens.push_back((5 * r + 12) % vocabulary);
  const GuardedArray<T, Device> device_table(device, table), x(device, size(rows, stride));
  const GuardedArray<std::int32_t, Device> device_tokens(device, tokens);
  const GuardedArray<float, Device> sums(device, size(rows, parts));
  rf::cuda::embed<T>(device, {.tokens = device_tokens.data(),
                              .table = device_table.data(),
                              .x = {x.data(), stride},
                              .sums = {sums.data(), parts},
                              .rows = rows,
                              .width = width});
  const auto got = x.to_host();
  const auto written = sums.to_host();
  for (int r = 0; r < rows; ++r) {
    double squares = 0, sum = 0;
    for (int c = 0; c < stride; ++c) {
      const T value = got[size(r, stride) + static_cast<std::size_t>(c)];
      const T expected =
          c < width ? table[size(tokens[static_cast<std::size_t>(r)], width) + static_cast<std::size_t>(c)]
                    : T::from_bits(0xffff);
      CHECK(value.bits == expected.bits);
      if (c < width) squares += std::pow(static_cast<double>(static_cast<float>(value)), 2);
    }
    for (int part = 0; part < parts; ++part)
      sum += static_cast<double>(written[size(r, parts) + static_cast<std::size_t>(part)]);
    CHECK(std::abs(sum - squares) <= 1e-5 * squares);
  }
}

/// Logits and greedy tokens of every second row; `count` of them choose the tile.
template <class T, class Device>
void check_logits(Device& device, int count, int vocabulary, int d_model, bool keep_logits) {
  CAPTURE(count);
  CAPTURE(vocabulary);
  rf::Random random(2);
  const int rows = 2 * count, parts = 3;
  const auto x = random_values<T>(random, size(rows, d_model));
  auto head = random_values<T>(random, size(vocabulary, d_model));
  const auto gain = random_values<float>(random, size(1, d_model));
  for (int c : {vocabulary / 3, vocabulary - 3})  // ties: all but the first must lose
    std::copy_n(head.begin() + 2 * d_model, d_model, head.begin() + c * d_model);
  std::vector<int> index;
  std::vector<double> selected;
  for (int r = 0; r < count; ++r) {
    index.push_back(rows - 1 - 2 * r);
    for (int k = 0; k < d_model; ++k)
      selected.push_back(to_double(x)[size(index.back(), d_model) + static_cast<std::size_t>(k)]);
  }
  const GuardedArray<T, Device> device_x(device, x), device_head(device, head), packed(device, head.size());
  const GuardedArray<float, Device> device_gain(device, gain),
      sums(device, row_sums(to_double(x), static_cast<std::size_t>(d_model), parts)),
      logits(device, size(count, vocabulary));
  const GuardedArray<int, Device> device_index(device, index);
  const GuardedArray<rf::cuda::MaxPart, Device> largest(
      device, std::vector<rf::cuda::MaxPart>(size(count, rf::cuda::row_parts(count, vocabulary))));
  const GuardedArray<std::int32_t, Device> tokens(device, static_cast<std::size_t>(count));
  rf::cuda::pack_rows<T, T>(device, vocabulary,
                            {.weights = device_head.data(),
                             .gain = device_gain.data(),
                             .source = nullptr,
                             .out = packed.data(),
                             .inner = d_model});
  rf::cuda::logits(
      device, rf::cuda::LogitsArguments<T>{.rows = {{device_x.data(), d_model}, count, device_index.data()},
                                           .head = packed.data(),
                                           .vocabulary = vocabulary,
                                           .d_model = d_model,
                                           .norm = {.sums = {sums.data(), parts}, .epsilon = 1e-5f},
                                           .logits = {keep_logits ? logits.data() : nullptr, vocabulary},
                                           .largest = largest.data(),
                                           .tokens = tokens.data()});

  const auto inner = static_cast<std::size_t>(d_model);
  const auto exact = product(normalised<T>(selected, gain, 1e-5, false), to_double(head), inner);
  const auto plain = product(normalised<T>(selected, gain, 1e-5, true), to_double(head), inner);
  const auto got = logits.to_host();
  const auto chosen = tokens.to_host();
  if (keep_logits) check_as_good(got, plain, exact);
  for (int r = 0; r < count; ++r) {
    // the token of our own logits exactly; they are the largest of the exact ones to within rounding
    const auto first = static_cast<std::ptrdiff_t>(size(r, vocabulary));
    const int token = chosen[static_cast<std::size_t>(r)];
    REQUIRE(token >= 0);
    REQUIRE(token < vocabulary);
    if (keep_logits)
      CHECK(token ==
            std::max_element(got.begin() + first, got.begin() + first + vocabulary) - (got.begin() + first));
    const double best = *std::max_element(exact.begin() + first, exact.begin() + first + vocabulary);
    CHECK(exact[static_cast<std::size_t>(first + token)] >= best - 0.02 * std::abs(best));
    CHECK(token != vocabulary / 3);
    CHECK(token != vocabulary - 3);
  }
}

/// One row of chosen values through the part and row reductions.
template <class Device>
std::int32_t greedy(Device& device, const std::vector<rf::cuda::MaxPart>& parts) {
  const GuardedArray<rf::cuda::MaxPart, Device> largest(device, parts);
  const GuardedArray<std::int32_t, Device> token(device, std::size_t{1});
  device.template launch<rf::cuda::GreedyTokenKernel>(
      {.blocks = {.x = 1}, .shared_bytes = rf::cuda::GreedyTokenKernel::shared_bytes},
      {.largest = largest.data(), .parts = static_cast<int>(parts.size()), .tokens = token.data()});
  return token.to_host()[0];
}

}  // namespace

TEST_CASE("embedding: rows and their sums of squares") {
  for (const auto& options : schedules()) {
    CAPTURE(options.seed);
    TestDevice device(options);
    check_embedding<rf::bf16>(device, 1, 8, 4);
    check_embedding<rf::bf16>(device, 9, 328, 6);
    check_embedding<rf::fp16>(device, 4, 64, 40);
    check_embedding<rf::fp16>(device, 0, 64, 1);
  }
}

TEST_CASE("logits: few and many rows, with and without keeping them") {
  for (const auto& options : schedules()) {
    CAPTURE(options.seed);
    TestDevice device(options);
    check_logits<rf::bf16>(device, 3, 200, 40, true);
  }
  TestDevice device({.seed = 9});
  check_logits<rf::bf16>(device, 1, 72, 24, false);
  check_logits<rf::fp16>(device, 12, 24, 64, true);
  check_logits<rf::bf16>(device, 35, 136, 40, true);
}

TEST_CASE("logits: the first of the largest, and NaN never") {
  TestDevice device({.seed = 4});
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::nanf("");
  std::vector<rf::cuda::MaxPart> parts;
  for (int i = 0; i < 700; ++i) parts.push_back({-infinity, 16 * i});
  CHECK(greedy(device, parts) == 0);
  parts[600].value = parts[300].value = parts[301].value = -2;
  CHECK(greedy(device, parts) == 16 * 300);
  parts[5].value = nan;
  CHECK(greedy(device, parts) == 16 * 300);
  parts[699].value = infinity;
  CHECK(greedy(device, parts) == 16 * 699);
  CHECK(greedy(device, {{3, 7}}) == 7);
}
