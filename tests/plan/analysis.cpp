#include "recurformer/plan/analysis.hpp"

#include <doctest/doctest.h>

#include <cmath>

#include "recurformer/plan/analysis_file.hpp"
#include "recurformer/plan/swap.hpp"
#include "support/small_model.hpp"
#include "support/temporary_folder.hpp"

namespace {

constexpr std::int64_t window = 4, sink = 2;

rf::Batch batch(std::uint64_t seed) {
  rf::Batch out;
  for (const std::int64_t length : {40, 7, 33}) {  // the second is too short to count
    const auto tokens = small::tokens(length + 1, seed + static_cast<std::uint64_t>(length));
    out.append(std::span(tokens).first(static_cast<std::size_t>(length)), std::span(tokens).subspan(1));
  }
  return out;
}

/// The attention matrix of one head of one sequence, from the rotated queries and keys of a tape.
std::vector<std::vector<double>> matrix(const rf::ModelTape& tape, std::size_t layer, int head,
                                        const rf::SequenceRows& sequence) {
  const float* projected =
      tape.layers[layer].heads.projected[0].data();  // four groups of q (2·16) | k (16) | v (16)
  const auto element = [&](std::int64_t row, std::int64_t column) {
    return static_cast<double>(projected[(sequence.first_row + row) * 256 + head / 2 * 64 + column]);
  };
  std::vector<std::vector<double>> p;
  for (std::int64_t i = 0; i < sequence.rows; ++i) {
    auto& row = p.emplace_back();
    double sum = 0;
    for (std::int64_t j = 0; j <= i; ++j) {
      double score = 0;
      for (std::int64_t c = 0; c < 16; ++c) score += element(i, head % 2 * 16 + c) * element(j, 32 + c);
      row.push_back(std::exp(score / 4.0));
      sum += row.back();
    }
    for (double& value : row) value /= sum;
  }
  return p;
}

}  // namespace

TEST_CASE("recency, sinks and profiles agree with those of the attention matrix") {
  auto model = small::model(small::attention_plan());
  rf::Analyser<small::Model> analyser(model, {.window = window, .sink = sink});
  const std::vector<rf::Batch> batches = {batch(1), batch(2)};
  for (const auto& one : batches) analyser.add(one);
  const auto analysis = analyser.result();
  CHECK(analysis.sequences == 6);
  REQUIRE(analysis.heads.size() == 2);

  for (std::size_t layer = 0; layer < 2; ++layer)
    for (int head = 0; head < 8; ++head) {
      std::vector<double> recency, free_recency, sinks;
      rf::DistanceSums distances;
      std::int64_t queries = 0;
      for (const auto& one : batches) {
        rf::ModelTape tape;
        model.forward(one.tokens, one.sequences, tape);
        for (const auto& sequence : one.sequences) {
          const auto p = matrix(tape, layer, head, sequence);
          std::vector<double> mass(p.size());
          for (std::size_t i = 0; i < p.size(); ++i)
            for (std::size_t j = 0; j <= i; ++j) mass[i - j] += p[i][j];
          distances.add(mass);
          if (sequence.rows <= 4 * window) continue;
          double recent = 0, outside = 0, in_sink = 0, count = 0;
          for (std::size_t i = 4 * window; i < p.size(); ++i) {
            double now = 0, now_outside = 0, sink_mass = 0;
            for (std::size_t j = 0; j <= i; ++j) {
              if (i - j < window) now += p[i][j];
              if (i - j < window && j >= sink) now_outside += p[i][j];
              if (j < sink) sink_mass += p[i][j];
            }
            recent += now;
            outside += now_outside / (1 - sink_mass);
            in_sink += sink_mass;
            count += 1;
          }
          recency.push_back(recent / count);
          free_recency.push_back(outside / count);
          sinks.push_back(in_sink / count);
          queries += static_cast<std::int64_t>(count);
        }
      }
      const auto check = [](const rf::MeanAndError& measured, const std::vector<double>& values) {
        double mean = 0, squares = 0;
        for (const double value : values) mean += value / static_cast<double>(values.size());
        for (const double value : values) squares += (value - mean) * (value - mean);
        CHECK(measured.mean == doctest::Approx(mean).epsilon(1e-4));
        CHECK(measured.error == doctest::Approx(std::sqrt(squares / 3 / 4)).epsilon(1e-2));
      };
      const auto& measured = analysis.heads[layer][static_cast<std::size_t>(head)];
      check(measured.recency, recency);
      check(measured.sink_free_recency, free_recency);
      check(measured.sink_mass, sinks);
      CHECK(measured.queries == queries);
      CHECK(measured.skipped_queries == 0);
      const auto expected = distances.profile();
      REQUIRE(measured.profile.probability.size() == expected.probability.size());
      for (std::size_t i = 0; i < expected.probability.size(); ++i)
        CHECK(measured.profile.probability[i] == doctest::Approx(expected.probability[i]).epsilon(1e-3));
    }

  const auto mean = rf::group_scores(analysis, rf::GroupScore::mean,
                                     [](const rf::HeadAnalysis& head) { return head.recency.mean; });
  const auto least = rf::group_scores(analysis, rf::GroupScore::minimum,
                                      [](const rf::HeadAnalysis& head) { return head.recency.mean; });
  const double a = analysis.heads[1][4].recency.mean, b = analysis.heads[1][5].recency.mean;
  CHECK(mean[1][2] == doctest::Approx((a + b) / 2));
  CHECK(least[1][2] == std::min(a, b));
}

TEST_CASE("analyses survive their file, and files of other models are refused") {
  auto model = small::model(small::attention_plan());
  rf::Analyser<small::Model> analyser(model, {.window = window, .sink = sink});
  CHECK_THROWS_AS((void)analyser.result(), rf::ArgumentError);
  analyser.add(batch(3));
  rf::AnalysisDocument document{
      .analysis = analyser.result(),
      .swap = rf::SwapScores{{{1, 2, 3, 4}, {5, 6, 7, 8}}, {{0, 0, 0, 1}, {0, 0, 0, 0}}},
      .swap_replacement = "mamba:fp32"};
  const rf::test::TemporaryFolder folder;
  rf::write_analysis(document, folder / "analysis.json");
  const auto read = rf::read_analysis(folder / "analysis.json", small::shape());
  CHECK(rf::analysis_json(read) == rf::analysis_json(document));
  auto other = small::shape();
  other.layers = 3;
  CHECK_THROWS_AS(rf::read_analysis(folder / "analysis.json", other), rf::FileError);
  folder.write("broken.json", "{\"recurformer_analysis\": 1, \"window\": \"wide\"}");
  CHECK_THROWS_AS(rf::read_analysis(folder / "broken.json", small::shape()), rf::FileError);
}

TEST_CASE("sequences that are too short to measure are an error") {
  auto model = small::model(small::attention_plan());
  rf::Analyser<small::Model> analyser(model, {.window = 50, .sink = sink});
  analyser.add(batch(4));
  CHECK_THROWS_AS((void)analyser.result(), rf::ArgumentError);
}

TEST_CASE("swapping a group for itself costs nothing, for a head that forgets it costs something") {
  auto model = small::model(small::attention_plan());
  const std::vector<rf::Batch> batches = {batch(5)};
  rf::SwapOptions options{.replacement = {"streaming", "fp32", {{"sink", 0}, {"window", 64}}},
                          .copy = {.row_length = 30, .lag = 10, .letters = 2},
                          .copy_rows = 2};
  // The small vocabulary has no letters: recall is not what this test is about.
  model =
      small::Model({.vocabulary = 256, .layers = 2, .layer = small::shape().layer, .tied_embeddings = true},
                   small::attention_plan());
  rf::initialise(model.weights(), 4);
  const auto same = rf::swap_scores(model, {}, batches, options);
  options.replacement.options = {{"sink", 0}, {"window", 1}};
  const auto forgetful = rf::swap_scores(model, {}, batches, options);
  for (std::size_t l = 0; l < 2; ++l)
    for (std::size_t g = 0; g < 4; ++g) {
      CHECK(std::abs(same.divergence[l][g]) < 1e-5);
      CHECK(forgetful.divergence[l][g] > 1e-7);
    }
  CHECK(rf::swap_group_scores({{{0.5, 0.1}}, {{0.0, 1.0}}}) == rf::GroupScores{{-0.5, -1.1}});
}
