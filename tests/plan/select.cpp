#include "recurformer/plan/select.hpp"

#include <doctest/doctest.h>

#include <limits>

namespace {

const rf::GroupScores scores = {{0.9, 0.1, 0.5}, {0.8, 0.9, 0.2}};
const rf::Plan original = rf::uniform_plan({"attention", "fp32", {}}, 2, 3);
const rf::KindChoice mamba{"mamba", "fp32", {}};

using Groups = std::vector<std::vector<int>>;

Groups chosen(const rf::Selection& selection, const rf::GroupScores& by = scores) {
  return rf::select_groups(original, mamba, by, selection).kind_of_group;
}

}  // namespace

TEST_CASE("a fraction of the model takes the highest scores; ties go to the lower layer") {
  CHECK(chosen({.fraction = 0.0}) == original.kind_of_group);
  CHECK(chosen({.fraction = 0.17}) == Groups{{1, 0, 0}, {0, 0, 0}});
  CHECK(chosen({.fraction = 0.5}) == Groups{{1, 0, 0}, {1, 1, 0}});
  CHECK(chosen({.fraction = 1.0}) == Groups{{1, 1, 1}, {1, 1, 1}});
}

TEST_CASE("a fraction of each layer, thresholds, and what must stay") {
  CHECK(chosen({.fraction = 0.34, .fraction_per_layer = true}) == Groups{{1, 0, 0}, {0, 1, 0}});
  CHECK(chosen({.threshold = 0.5}) == Groups{{1, 0, 1}, {1, 1, 0}});
  CHECK(chosen({.threshold = 0.5, .fraction = 0.34}) == Groups{{1, 0, 0}, {0, 1, 0}});
  CHECK(chosen({.fraction = 0.5, .kept_layers = {1}}) == Groups{{1, 1, 1}, {0, 0, 0}});
  CHECK(chosen({.fraction = 0.34, .kept_groups = {{0, 0}}}) == Groups{{0, 0, 0}, {1, 1, 0}});
}

TEST_CASE("a byte budget stops as soon as the cache fits, and says when it cannot") {
  const auto bytes = [](const rf::Plan& plan) {
    std::int64_t total = 0;
    for (const auto& layer : plan.kind_of_group)
      for (const int kind : layer) total += kind == 0 ? 100 : 7;
    return total;
  };
  const auto plan = rf::select_groups(original, mamba, scores, {.cache_bytes = 420}, bytes);
  CHECK(plan.kind_of_group == Groups{{1, 0, 0}, {0, 1, 0}});
  CHECK(rf::select_groups(original, mamba, scores, {.cache_bytes = 600}, bytes).kind_of_group ==
        original.kind_of_group);
  CHECK_THROWS_WITH_AS(
      rf::select_groups(original, mamba, scores, {.fraction = 0.5, .cache_bytes = 300, .context = 99}, bytes),
      "no plan within the other limits fits 300 bytes of cache at 99 tokens: with 3 of 6 groups replaced it "
      "is 321 bytes",
      rf::ArgumentError);
}

TEST_CASE("reverse and random orders") {
  CHECK(chosen({.fraction = 0.34}, rf::reversed(scores)) == Groups{{0, 1, 0}, {0, 0, 1}});
  const auto random = rf::random_scores(2, 3, 5);
  CHECK(random == rf::random_scores(2, 3, 5));
  CHECK(random != rf::random_scores(2, 3, 6));
}

TEST_CASE("selections that make no sense are errors") {
  CHECK_THROWS_WITH_AS(chosen({}), "a plan needs a limit: a threshold, a fraction or a cache budget",
                       rf::ArgumentError);
  CHECK_THROWS_WITH_AS(chosen({.fraction = 1.5}), "fraction is 1.5; allowed: 0 to 1", rf::ArgumentError);
  CHECK_THROWS_AS(chosen({.fraction = 0.5, .kept_layers = {2}}), rf::ArgumentError);
  CHECK_THROWS_AS(chosen({.fraction = 0.5, .kept_groups = {{0, 3}}}), rf::ArgumentError);
  CHECK_THROWS_AS(chosen({.fraction = 0.5}, {{0.9, 0.1}, {0.8, 0.9}}), rf::ArgumentError);
  CHECK_THROWS_AS(
      chosen({.fraction = 0.5}, {{0.9, 0.1, std::numeric_limits<double>::quiet_NaN()}, {0.8, 0.9, 0.2}}),
      rf::ArgumentError);
}
