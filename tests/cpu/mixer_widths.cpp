// Every mixer at every head width that its kernels are written for, forward and backward. The shapes that
// hurt are tested at a few widths, in the mixers' own files.

#include <doctest/doctest.h>

#include <utility>

#include "recurformer/core/precision.hpp"
#include "recurformer/cpu/attention_mixer.hpp"
#include "recurformer/cpu/mamba2_mixer.hpp"
#include "recurformer/cpu/mamba_mixer.hpp"
#include "recurformer/cpu/standard_mamba2_mixer.hpp"
#include "recurformer/reference/attention.hpp"
#include "recurformer/reference/mamba.hpp"
#include "recurformer/reference/mamba2.hpp"
#include "recurformer/reference/standard_mamba2.hpp"
#include "support/mixer_harness.hpp"

namespace {

template <class Mixer, int d_head>
using Harness = rf::test::MixerHarness<Mixer, rf::Fp32, std::integer_sequence<int, d_head>>;

/// Finite differences cost the square of the width, so backward gets few tokens.
template <int d_head, class Mixer>
void check_width(const Mixer& mixer) {
  CAPTURE(d_head);
  Harness<Mixer, d_head>(mixer, {.shape = {.d_model = 8, .d_head = d_head, .queries_per_group = 2},
                                 .layer_groups = 3,
                                 .groups = {2, 0},
                                 .lengths = {35, 0, 3}})
      .check_forward();
  Harness<Mixer, d_head>(
      mixer, {.shape = {.d_model = 8, .d_head = d_head}, .layer_groups = 1, .groups = {0}, .lengths = {3}})
      .check_backward();
}

/// A few tokens over a past that is split.
template <int d_head>
void check_decode() {
  CAPTURE(d_head);
  Harness<rf::Attention<>, d_head>({}, {.shape = {.d_model = 8, .d_head = d_head, .queries_per_group = 3},
                                        .layer_groups = 1,
                                        .groups = {0},
                                        .lengths = {1040}})
      .check_chunks({1036, 1039});
}

template <class Mixer, int... d_head>
void check_widths(const Mixer& mixer, std::integer_sequence<int, d_head...>) {
  (check_width<d_head>(mixer), ...);
}

}  // namespace

TEST_CASE("attention at every width") { check_widths(rf::Attention<>{}, rf::AllWidths{}); }

TEST_CASE("streaming attention at every width") {
  rf::StreamingAttention<> mixer;
  mixer.sink = 2;
  mixer.window = 9;
  check_widths(mixer, rf::AllWidths{});
}

TEST_CASE("attention over a long past at every width") {
  []<int... d_head>(std::integer_sequence<int, d_head...>) { (check_decode<d_head>(), ...); }
  (rf::AllWidths{});
}

TEST_CASE("Mamba at every width") { check_widths(rf::Mamba<>{}, rf::AllWidths{}); }

TEST_CASE("standard Mamba-2 at every width") {
  check_widths(rf::StandardMamba2<rf::SsdShape{.d_state = 32}>{}, rf::AllWidths{});
}

TEST_CASE("Mamba2 at every width") {
  check_widths(rf::Mamba2<rf::SsdPolicy{.rope = true, .norm = true}>{}, rf::AllWidths{});
}
