#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "recurformer/core/random.hpp"
#include "recurformer/cpu/attention_mixer.hpp"
#include "recurformer/reference/attention.hpp"
#include "support/mixer_memory.hpp"

namespace {

using Widths = std::integer_sequence<int, 16>;
using rf::test::nan_poison;

constexpr int d_head = 16, heads = 2, layer_groups = 3;
constexpr std::int64_t group_columns = (heads + 2) * d_head;

struct Probed {
  std::vector<float> out, recent, sink, both, log_sum_exp;
};

/// Runs groups 2 and 0 of a layer of three over sequences of 75, 0 and 9 tokens.
struct Fixture {
  std::vector<int> groups = {2, 0};
  std::vector<rf::SequenceRows> sequences = {{.first_row = 0, .rows = 75, .position = 0},
                                             {.first_row = 75, .rows = 0, .position = 0},
                                             {.first_row = 75, .rows = 9, .position = 0}};
  rf::HeadShape shape{.d_model = 8, .d_head = d_head, .queries_per_group = heads};
  std::vector<float> projected;
  rf::cpu::RopeTable rope{d_head, 10000.0};
  static constexpr std::int64_t rows = 84;

  Fixture() {
    rf::Random random(5);
    projected.resize(static_cast<std::size_t>(rows * 2 * group_columns));
    for (float& x : projected) x = static_cast<float>(1.5 * random.normal());
    rope.reserve(100);
  }

  template <class Mixer>
  Probed run(const Mixer& mixer, std::int64_t window, std::int64_t sink, bool probing) const {
    const auto count = static_cast<std::size_t>(rows * layer_groups * heads);
    Probed result{.out = std::vector<float>(count * d_head, nan_poison),
                  .recent = std::vector<float>(count, nan_poison),
                  .sink = std::vector<float>(count, nan_poison),
                  .both = std::vector<float>(count, nan_poison),
                  .log_sum_exp = std::vector<float>(count, nan_poison)};
    const rf::cpu::AttentionProbe probe{.stride = layer_groups * heads,
                                        .window = window,
                                        .sink = sink,
                                        .recent_mass = result.recent.data(),
                                        .sink_mass = result.sink.data(),
                                        .recent_sink_mass = result.both.data(),
                                        .log_sum_exp = result.log_sum_exp.data()};
    std::vector<float> input = projected;
    rf::cpu::MixerKernel<Mixer>::template forward<rf::Fp32, Widths>(
        mixer, {.shape = shape,
                .groups = groups,
                .sequences = sequences,
                .projected = {.data = input.data(), .stride = 2 * group_columns},
                .local = {},
                .rope = &rope,
                .cache = {},
                .out = {.data = result.out.data(), .stride = layer_groups * heads * d_head},
                .saved = nullptr,
                .probe = probing ? &probe : nullptr});
    return result;
  }

  /// `count` rows of D elements of one group, column `first`, rotated.
  std::vector<double> rotated(const rf::SequenceRows& sequence, std::size_t group, std::int64_t first) const {
    std::vector<double> result;
    for (std::int64_t t = 0; t < sequence.rows; ++t) {
      const auto from = projected.begin() +
                        ((sequence.first_row + t) * 2 + static_cast<std::int64_t>(group)) * group_columns +
                        first;
      result.insert(result.end(), from, from + d_head);
      rf::reference::rotate(result.data() + t * d_head, shape, t);
    }
    return result;
  }

  void check(const Probed& got, const rf::reference::AttentionMask& mask, std::int64_t window,
             std::int64_t sink) const {
    double worst = 0, worst_lse = 0;
    for (std::size_t g = 0; g < groups.size(); ++g)
      for (const rf::SequenceRows& sequence : sequences) {
        const auto keys = rotated(sequence, g, heads * d_head);
        for (int h = 0; h < heads; ++h) {
          const auto queries = rotated(sequence, g, h * d_head);
          for (std::int64_t i = 0; i < sequence.rows; ++i) {
            const auto row = rf::reference::attention_row(queries.data() + i * d_head, keys.data(),
                                                          sequence.rows, d_head, mask, i);
            double recent = 0, sinks = 0, both = 0;
            for (std::int64_t j = 0; j <= i; ++j) {
              const double weight = row.weights[static_cast<std::size_t>(j)];
              if (i - j < window) recent += weight;
              if (j < sink) sinks += weight;
              if (i - j < window && j < sink) both += weight;
            }
            const auto at = static_cast<std::size_t>((sequence.first_row + i) * layer_groups * heads +
                                                     groups[g] * heads + h);
            const auto off = [](float a, double b) {
              return std::isnan(a) ? 1e9 : std::abs(static_cast<double>(a) - b);
            };
            worst = std::max(
                {worst, off(got.recent[at], recent), off(got.sink[at], sinks), off(got.both[at], both)});
            worst_lse = std::max(worst_lse, off(got.log_sum_exp[at], row.log_sum_exp));
          }
        }
      }
    CHECK(worst <= 2e-6);
    CHECK(worst_lse <= 1e-5);
    // the group of another run
    for (std::int64_t row = 0; row < rows; ++row)
      for (int h = heads; h < 2 * heads; ++h)
        CHECK(std::isnan(got.recent[static_cast<std::size_t>(row * layer_groups * heads + h)]));
  }
};

}  // namespace

TEST_CASE("probe: recent mass, sink mass, both, and log-sum-exp of attention") {
  const Fixture fixture;
  for (const auto& [window, sink] : {std::pair{1, 0}, {16, 4}, {60, 30}, {1000, 1000}})
    fixture.check(fixture.run(rf::Attention<>{}, window, sink, true), {}, window, sink);
}

TEST_CASE("probe: a streaming head's own mask comes first") {
  const Fixture fixture;
  rf::StreamingAttention<> mixer;
  mixer.sink = 3;
  mixer.window = 10;
  for (const auto& [window, sink] : {std::pair{4, 2}, {20, 5}})
    fixture.check(fixture.run(mixer, window, sink, true), {.sink = 3, .window = 10}, window, sink);
}

TEST_CASE("probe: the output keeps its bits") {
  const Fixture fixture;
  const auto with = fixture.run(rf::Attention<>{}, 16, 4, true),
             without = fixture.run(rf::Attention<>{}, 16, 4, false);
  // sequences of few queries take another path without a probe
  constexpr std::size_t long_sequence = 75 * layer_groups * heads * d_head;
  CHECK(rf::test::same_bits({with.out.begin(), with.out.begin() + long_sequence},
                            {without.out.begin(), without.out.begin() + long_sequence}));
}
