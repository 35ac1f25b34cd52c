#include "recurformer/cpu/attention_mixer.hpp"

#include <doctest/doctest.h>

#include "recurformer/reference/attention.hpp"
#include "support/mixer_harness.hpp"

namespace {

using Widths = std::integer_sequence<int, 16, 64>;
template <class Mixer, class Precision = rf::Fp32>
using Harness = rf::test::MixerHarness<Mixer, Precision, Widths>;

using Attention = rf::Attention<>;
using Streaming = rf::StreamingAttention<>;

Streaming streaming(std::int64_t sink, std::int64_t window) {
  Streaming mixer;
  mixer.sink = sink;
  mixer.window = window;
  return mixer;
}

rf::HeadShape shape(int d_head, int queries_per_group) {
  return {.d_model = 8, .d_head = d_head, .queries_per_group = queries_per_group};
}

}  // namespace

TEST_CASE("attention: every way of cutting sequences, ragged batch, scattered groups") {
  Harness<Attention>({}, {.shape = shape(16, 2)}).check_forward();
  Harness<Attention>({}, {.shape = shape(16, 1), .lengths = {1}}).check_forward();
  Harness<Attention>({}, {.shape = shape(64, 3), .groups = {4}, .lengths = {67, 0, 5, 33}}).check_forward();
}

TEST_CASE("a layer of one KV group with several queries (MQA)") {
  const rf::test::MixerCase what{.shape = shape(16, 5), .layer_groups = 1, .groups = {0}};
  Harness<Attention>({}, what).check_forward();
  Harness<Streaming>(streaming(2, 9), what).check_forward();
  const rf::test::MixerCase tiny{.shape = shape(16, 5), .layer_groups = 1, .groups = {0}, .lengths = {7, 2}};
  Harness<Attention>({}, tiny).check_backward();
  Harness<Streaming>(streaming(1, 3), tiny).check_backward();
}

TEST_CASE("attention: more keys than a tile and than a page") {
  Harness<Attention> harness({}, {.shape = shape(16, 2), .groups = {1}, .lengths = {0, 301, 48, 129}});
  harness.check_chunks({256});
  harness.check_chunks({1, 255, 257, 300});
  harness.check_chunks({});
}

TEST_CASE("attention: heads 128 wide") {
  rf::test::MixerHarness<Attention, rf::Fp32, std::integer_sequence<int, 128>>(
      {}, {.shape = shape(128, 2), .groups = {2}, .lengths = {67, 0, 5, 33}})
      .check_forward();
}

TEST_CASE("attention: huge and tiny activations") {
  // scores of some thousands: the weights are 0 and 1, and an error of one part in 10^7 of a score counts
  Harness<Attention>({}, {.shape = shape(64, 1), .scale = 30.0, .tolerance = 2e-3}).check_forward();
  Harness<Attention>({}, {.shape = shape(64, 1), .scale = 1e-18}).check_forward();
}

TEST_CASE("attention: 16-bit caches") {
  Harness<Attention, rf::Bf16>({}, {.shape = shape(16, 2)}).check_forward();
  Harness<Attention, rf::Fp16>({}, {.shape = shape(64, 1), .lengths = {70, 3}}).check_forward();
}

TEST_CASE("attention: caches of 8-bit integers, with a scale for every row") {
  Harness<Attention, rf::Int8Cache>({}, {.shape = shape(16, 2)}).check_forward();
  Harness<Attention, rf::Int8Cache> wide({}, {.shape = shape(64, 3), .groups = {4}, .lengths = {300, 0, 3}});
  wide.check_chunks({255, 257, 258});
  wide.check_threads();
  wide.check_nan_isolation();
  Harness<Attention, rf::Int8Cache>({}, {.shape = shape(16, 1), .scale = 1e-18}).check_forward();
  Harness<Streaming, rf::Int8Cache>(streaming(2, 9), {.shape = shape(16, 2), .ring_extra = 3})
      .check_forward();
  Harness<Streaming, rf::Int8Cache>(streaming(0, 1), {.shape = shape(16, 1)}).check_forward();
}

TEST_CASE("attention: bits do not depend on the number of threads, nor on NaN in another sequence") {
  Harness<Attention> harness({}, {.shape = shape(16, 2), .lengths = {50, 0, 131, 7}});
  harness.check_threads();
  harness.check_nan_isolation();
}

TEST_CASE("attention: norms of queries and keys, and scaled rotary positions") {
  const auto normed = [](int d_head, int queries) {
    rf::HeadShape out = shape(d_head, queries);
    out.qk_norm = true;
    out.norm_epsilon = 1e-3;
    out.rope_scaling = {.rule = rf::RopeRule::yarn, .factor = 4, .original_positions = 24, .magnitude = 1.2};
    return out;
  };
  Harness<Attention>({}, {.shape = normed(16, 2)}).check_forward();
  Harness<Attention, rf::Bf16>({}, {.shape = normed(64, 1), .lengths = {70, 3}}).check_forward();
  Harness<Streaming>(streaming(2, 9), {.shape = normed(16, 3)}).check_forward();
  Harness<Attention>({}, {.shape = normed(16, 2), .lengths = {9, 0, 1, 5}}).check_backward();
  Harness<Streaming>(streaming(1, 3), {.shape = normed(16, 1), .lengths = {23}}).check_backward();
  Harness<Attention> harness({}, {.shape = normed(16, 2), .lengths = {50, 0, 131, 7}});
  harness.check_threads();
  harness.check_nan_isolation();
}

TEST_CASE("attention: gradients") {
  Harness<Attention>({}, {.shape = shape(16, 2), .lengths = {9, 0, 1, 5}}).check_backward();
  Harness<Attention>({}, {.shape = shape(16, 3), .layer_groups = 3, .groups = {2}, .lengths = {23}})
      .check_backward();
}

TEST_CASE("streaming attention: every way of cutting sequences") {
  Harness<Streaming>(streaming(4, 8), {.shape = shape(16, 2)}).check_forward();
  Harness<Streaming>(streaming(0, 1), {.shape = shape(16, 1), .ring_extra = 3}).check_forward();
  Harness<Streaming>(streaming(3, 20), {.shape = shape(64, 1), .lengths = {130, 0, 2}, .ring_extra = 5})
      .check_forward();
  Harness<Streaming>(streaming(50, 5), {.shape = shape(16, 1), .lengths = {90, 20}}).check_forward();
  Harness<Streaming>(streaming(4, 1000), {.shape = shape(16, 1)}).check_forward();
}

TEST_CASE("streaming attention: rings in 16 bits, wrapped several times") {
  Harness<Streaming, rf::Bf16> harness(
      streaming(4, 16), {.shape = shape(16, 2), .groups = {2}, .lengths = {140, 31}, .ring_extra = 2});
  harness.check_forward();
  harness.check_chunks({3, 5, 60, 61, 62, 100});
}

TEST_CASE("streaming attention: bits do not depend on the number of threads, nor on NaN elsewhere") {
  Harness<Streaming> harness(streaming(4, 24), {.shape = shape(16, 2), .lengths = {50, 0, 131, 7}});
  harness.check_threads();
  harness.check_nan_isolation();
}

TEST_CASE("streaming attention: gradients") {
  Harness<Streaming>(streaming(2, 5), {.shape = shape(16, 2), .lengths = {17, 0, 1, 6}}).check_backward();
}
