#include "recurformer/plan/analysis.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

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

/// Attention, and beside it in both layers heads that see little.
rf::Plan streaming_plan() {
  return {.kinds = {{"attention", "fp32", {}}, {"streaming", "fp32", {{"sink", 1}, {"window", 6}}}},
          .kind_of_group = {{0, 1, 1, 0}, {1, 0, 0, 0}}};
}

/// The attention matrix of one head of one sequence, from the rotated queries and keys of a tape. Kinds of
/// small::Model: 0 is attention, 1 streaming.
std::vector<std::vector<double>> matrix(const small::Model& model, const rf::ModelTape& tape,
                                        std::size_t layer, int head, const rf::SequenceRows& sequence) {
  const std::vector<int>& kinds = model.plan().kind_of_group[layer];
  const auto group = kinds.begin() + head / 2;
  const std::int64_t groups = std::count(kinds.begin(), kinds.end(), *group),
                     before = std::count(kinds.begin(), group, *group);
  // the run's groups side by side, each q (2·16) | k (16) | v (16)
  const float* projected = tape.layers[layer].heads.projected[static_cast<std::size_t>(*group)].data();
  const auto element = [&](std::int64_t row, std::int64_t column) {
    return static_cast<double>(projected[((sequence.first_row + row) * groups + before) * 64 + column]);
  };
  const auto& streaming = std::get<1>(model.plan().mixers);
  std::vector<std::vector<double>> p;
  for (std::int64_t i = 0; i < sequence.rows; ++i) {
    auto& row = p.emplace_back();
    double sum = 0;
    for (std::int64_t j = 0; j <= i; ++j) {
      double score = 0;
      for (std::int64_t c = 0; c < 16; ++c) score += element(i, head % 2 * 16 + c) * element(j, 32 + c);
      const bool seen = *group == 0 || j < streaming.sink || i - j < streaming.window;
      row.push_back(seen ? std::exp(score / 4.0) : 0.0);
      sum += row.back();
    }
    for (double& value : row) value /= sum;
  }
  return p;
}

void check_mean(const rf::MeanAndError& measured, const std::vector<double>& per_sequence) {
  const auto n = static_cast<double>(per_sequence.size());
  double mean = 0, squares = 0;
  for (const double value : per_sequence) mean += value / n;
  for (const double value : per_sequence) squares += (value - mean) * (value - mean);
  CHECK(measured.mean == doctest::Approx(mean).epsilon(1e-4));
  CHECK(measured.error == doctest::Approx(std::sqrt(squares / (n - 1) / n)).epsilon(1e-2));
}

/// Ratios, errors and profiles of a model's heads and groups against those of the attention matrices.
void check_analysis(small::Model model) {
  rf::Analyser<small::Model> analyser(model, {.window = window, .sink = sink});
  const std::vector<rf::Batch> batches = {batch(1), batch(2)};
  for (const auto& one : batches) analyser.add(one);
  const auto analysis = analyser.result();
  CHECK(analysis.sequences == 4);
  CHECK(analysis.short_sequences == 2);
  CHECK(analysis.tokens == 160);
  REQUIRE(analysis.heads.size() == 2);

  for (std::size_t layer = 0; layer < 2; ++layer) {
    std::vector<std::vector<double>> recency_of, free_recency_of;  // head by head
    for (int head = 0; head < 8; ++head) {
      std::vector<double> recency, free_recency, sinks;
      rf::DistanceSums distances;
      std::int64_t queries = 0;
      for (const auto& one : batches) {
        rf::ModelTape tape;
        model.forward(one.tokens, one.sequences, tape);
        for (const auto& sequence : one.sequences) {
          const auto p = matrix(model, tape, layer, head, sequence);
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
      const auto& measured = analysis.heads[layer][static_cast<std::size_t>(head)];
      check_mean(measured.recency, recency);
      check_mean(measured.sink_free_recency, free_recency);
      check_mean(measured.sink_mass, sinks);
      CHECK(measured.queries == queries);
      CHECK(measured.skipped_queries == 0);
      const auto expected = distances.profile();
      REQUIRE(measured.profile.probability.size() == expected.probability.size());
      for (std::size_t i = 0; i < expected.probability.size(); ++i)
        CHECK(measured.profile.probability[i] == doctest::Approx(expected.probability[i]).epsilon(1e-3));
      recency_of.push_back(recency);
      free_recency_of.push_back(free_recency);
    }
    REQUIRE(analysis.groups[layer].size() == 4);
    for (std::size_t group = 0; group < 4; ++group) {
      const auto of_group = [&](const std::vector<std::vector<double>>& of_head) {
        std::vector<double> out;
        for (std::size_t s = 0; s < 4; ++s)
          out.push_back((of_head[2 * group][s] + of_head[2 * group + 1][s]) / 2);
        return out;
      };
      check_mean(analysis.groups[layer][group].recency, of_group(recency_of));
      check_mean(analysis.groups[layer][group].sink_free_recency, of_group(free_recency_of));
    }
  }
}

}  // namespace

TEST_CASE("recency, sinks and profiles agree with those of the attention matrix") {
  check_analysis(small::model(small::attention_plan()));
}

TEST_CASE("streaming heads are measured by what they see") { check_analysis(small::model(streaming_plan())); }

TEST_CASE("a group's score is the mean of its heads, or that of the head with the least") {
  const auto head = [](double mean, double error) {
    rf::HeadAnalysis out;
    out.recency = {mean, error};
    return out;
  };
  const rf::ModelAnalysis analysis{.options = {},
                                   .queries_per_group = 2,
                                   .heads = {{head(0.5, 0.1), head(0.25, 0.2), head(0, 0), head(1, 0.3)}},
                                   .groups = {{{{0.375, 0.05}, {}}, {{0.5, 0.15}, {}}}}};
  const auto recency = [](const auto& head_or_group) { return head_or_group.recency; };
  CHECK(rf::group_scores(analysis, rf::GroupScore::mean, recency) == rf::GroupScores{{0.375, 0.5}});
  CHECK(rf::group_scores(analysis, rf::GroupScore::minimum, recency) == rf::GroupScores{{0.25, 0}});
  CHECK(rf::group_ratios(analysis, rf::GroupScore::mean, recency)[0][1].error == 0.15);
  CHECK(rf::group_ratios(analysis, rf::GroupScore::minimum, recency)[0][0].error == 0.2);
}

TEST_CASE("sequences in which a head sees only sinks have no sink-free ratio") {
  const rf::ModelShape shape{
      .vocabulary = 2,
      .layers = 1,
      .layer = {.d_model = 16, .d_head = 16, .kv_groups = 1, .queries_per_group = 2, .d_ff = 0},
      .tied_embeddings = true};
  rf::AnalysisSums sums(shape, {.window = 1, .sink = 1});
  const std::vector<float> all(6, 1.0f), none(6, 0.0f), half(6, 0.5f), quarter(6, 0.25f);
  const auto add = [&](std::size_t head, const std::vector<float>& recent, const std::vector<float>& sinks) {
    sums.add_masses(0, head, 6, {recent.data(), sinks.data(), none.data(), 1});
  };
  add(0, none, all);
  add(0, half, half);
  add(1, quarter, half);
  add(1, quarter, none);
  const std::vector<rf::SequenceRows> sequences = {{.rows = 6}, {.first_row = 6, .rows = 6}};
  sums.count(sequences);
  const auto analysis = sums.result();
  CHECK(analysis.heads[0][0].skipped_queries == 2);
  CHECK(analysis.heads[0][0].sink_free_recency.mean == 1.0);  // the second sequence alone
  CHECK(analysis.heads[0][1].sink_free_recency.mean == 0.375);
  CHECK(analysis.groups[0][0].sink_free_recency.mean == 0.5625);  // (0.5 + (1 + 0.25) / 2) / 2
  CHECK(analysis.groups[0][0].recency.mean == 0.25);
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

namespace {

/// A model over bytes whose every prediction is one of two letters, as its heads decide: its recall of copies
/// of these is neither 0 nor 1.
small::Model two_letter_model() {
  auto shape = small::shape(false);
  shape.vocabulary = 256;
  small::Model out(shape, small::attention_plan());
  rf::initialise(out.weights(), 4);
  for (auto& layer : out.weights().layers)
    for (std::int64_t i = 0; i < layer.output.size(); ++i) layer.output.data()[i] *= 8;
  const std::int64_t d = shape.layer.d_model;
  float* const head = out.weights().head.data();
  std::fill_n(head, out.weights().head.size(), 0.0f);
  rf::Random random(6);
  for (std::int64_t i = 0; i < d; ++i) {
    head['a' * d + i] = static_cast<float>(random.normal());
    head['b' * d + i] = -head['a' * d + i];
  }
  return out;
}

}  // namespace

TEST_CASE("swapping a group for itself costs nothing, for a head that forgets it costs something") {
  auto model = two_letter_model();
  const std::vector<rf::Batch> batches = {batch(5)};
  rf::SwapOptions options{.replacement = {"streaming", "fp32", {{"sink", 0}, {"window", 64}}},
                          .copy = {.row_length = 30, .lag = 10, .letters = 2},
                          .copy_rows = 2};
  const auto same = rf::swap_scores(model, {}, batches, options);
  options.replacement.options = {{"sink", 0}, {"window", 1}};
  const auto forgetful = rf::swap_scores(model, {}, batches, options);
  for (std::size_t l = 0; l < 2; ++l)
    for (std::size_t g = 0; g < 4; ++g) {
      CHECK(std::abs(same.divergence[l][g]) < 1e-5);
      CHECK(same.recall_drop[l][g] == 0);
      CHECK(forgetful.divergence[l][g] > 1e-7);
    }
  CHECK(rf::swap_group_scores({{{0.5, 0.1}}, {{0.0, 1.0}}}) == rf::GroupScores{{-0.5, -1.1}});
}

TEST_CASE("swapping for recurrent heads: what the converted model loses on training rows") {
  auto model = two_letter_model();
  const std::vector<rf::Batch> batches = {batch(5)};
  rf::Analyser<small::Model> analyser(model, {.window = window, .sink = sink});
  analyser.add(batches[0]);
  const auto profiles = rf::profiles_of(analyser.result());
  rf::SwapOptions options{
      .replacement = {}, .copy = {.row_length = 30, .lag = 10, .letters = 2}, .copy_rows = 8, .seed = 3};
  const auto recall = [&](small::Model& of, rf::Split split) {
    return rf::evaluate_task(of, options.copy, split, options.copy_rows, options.seed).accuracy();
  };
  const double before = recall(model, rf::Split::train);
  REQUIRE(before != recall(model, rf::Split::held_out));
  for (const char* mixer : {"mamba", "mamba2"}) {
    CAPTURE(mixer);
    options.replacement = {mixer, "fp32", {}};
    std::int64_t last = 0;
    const auto scores =
        rf::swap_scores(model, profiles, batches, options, [&](std::int64_t done, std::int64_t total) {
          CHECK(done == ++last);
          CHECK(total == 8);
        });
    CHECK(last == 8);
    bool any_drop = false;
    for (std::size_t l = 0; l < 2; ++l)
      for (std::size_t g = 0; g < 4; ++g) {
        CHECK(scores.divergence[l][g] > 0);
        rf::Plan plan = small::attention_plan();
        plan.kind_of_group[l][g] = rf::with_kind(plan, options.replacement);
        auto swapped = rf::convert_model(model, plan, profiles, options.seed);
        CHECK(scores.recall_drop[l][g] == before - recall(swapped, rf::Split::train));
        any_drop = any_drop || scores.recall_drop[l][g] != 0;
      }
    CHECK(any_drop);
  }
}
