// Few queries over a long past: several splits of the cache, several new tokens, tiles against splits.
#include <doctest/doctest.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "recurformer/cpu/attention_mixer.hpp"
#include "recurformer/reference/attention.hpp"
#include "support/mixer_harness.hpp"

namespace {

using Widths = std::integer_sequence<int, 16>;
template <class Mixer, class Precision = rf::Fp32>
using Harness = rf::test::MixerHarness<Mixer, Precision, Widths>;

rf::test::MixerCase long_case(int queries_per_group, int d_head = 16) {
  return {.shape = {.d_model = 8, .d_head = d_head, .queries_per_group = queries_per_group},
          .layer_groups = 2,
          .groups = {1},
          .lengths = {1040, 0, 514}};
}

}  // namespace

TEST_CASE("decode: one token and a few over several splits") {
  Harness<rf::Attention<>> harness({}, long_case(3));
  harness.check_chunks({1030, 1031, 1034, 1039});  // 1, 3 and 5 tokens of three heads
  harness.check_chunks({511, 512, 513});
}

TEST_CASE("decode: 16-bit caches") {
  Harness<rf::Attention<>, rf::Bf16>({}, long_case(1)).check_chunks({1020, 1036, 1037});
  Harness<rf::Attention<>, rf::Fp16>({}, long_case(2)).check_chunks({1025, 1026});
}

TEST_CASE("decode: any number of queries that decodes, with bf16 in pairs") {
  using Wide = rf::test::MixerHarness<rf::Attention<>, rf::Bf16, std::integer_sequence<int, 32>>;
  const std::vector<std::int64_t> ends = {600, 601, 603, 606, 610, 615, 621};  // one more token every time
  for (const int heads : {1, 2, 3, 4, 5, 7, 8, 11, 13, 16}) {
    CAPTURE(heads);
    rf::test::MixerCase what = long_case(heads, 32);
    what.lengths = {625};
    Wide({}, what).check_chunks(ends);
  }
}

TEST_CASE("decode: caches of 8-bit integers") {
  Harness<rf::Attention<>, rf::Int8Cache> harness({}, long_case(3));
  harness.check_chunks({1030, 1031, 1034, 1039});
  harness.check_chunks({511, 512, 513});
}

TEST_CASE("decode: caches of 8-bit integers, any number of queries, rows longer than a vector") {
  using Wide = rf::test::MixerHarness<rf::Attention<>, rf::Int8Cache, std::integer_sequence<int, 128>>;
  for (const int heads : {1, 2, 3, 4, 7, 9, 16}) {
    CAPTURE(heads);
    rf::test::MixerCase what = long_case(heads, 128);
    what.lengths = {183};
    Wide({}, what).check_chunks({170, 171, 173, 174});
  }
}

TEST_CASE("decode: rings, sinks and window in splits of their own") {
  rf::StreamingAttention<> mixer;
  mixer.sink = 5;
  mixer.window = 700;
  rf::test::MixerCase what = long_case(2);
  what.ring_extra = 9;
  Harness<rf::StreamingAttention<>> harness(mixer, what);
  harness.check_chunks({600, 1030, 1031, 1037});
}

TEST_CASE("decode: bits do not depend on the number of threads") {
  Harness<rf::Attention<>> harness({}, long_case(2));
  const auto run = [&](int threads) {
    rf::set_threads(threads);
    return harness.run_chunks({1035, 1036});
  };
  const auto one = run(1), three = run(3);
  rf::set_threads(2);
  CHECK(rf::test::same_bits(one, three));
}

TEST_CASE("decode: huge scores") {
  rf::test::MixerCase what = long_case(1);
  what.scale = 12;
  what.tolerance = 2e-4;  // scores reach hundreds, an error of 1e-7 of one is an error of 1e-5 of a weight
  Harness<rf::Attention<>>({}, what).check_chunks({1037, 1038});
}
