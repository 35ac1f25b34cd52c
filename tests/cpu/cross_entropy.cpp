#include "recurformer/cpu/cross_entropy.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "recurformer/core/random.hpp"
#include "recurformer/reference/cross_entropy.hpp"

namespace {

constexpr float canary = 1234.5f;
constexpr float poison = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

std::vector<float> normals(std::size_t count, std::uint64_t stream, double scale = 2) {
  auto random = rf::Random::stream(51, stream);
  std::vector<float> out(count);
  for (float& value : out) value = static_cast<float>(scale * random.normal());
  return out;
}
std::vector<double> widen(const std::vector<float>& x) { return {x.begin(), x.end()}; }

/// Rows of logits with targets; every third row is ignored.
struct Batch {
  std::size_t rows, vocabulary;
  std::vector<float> logits = normals(rows * vocabulary, 1), teacher = normals(rows * vocabulary, 2);
  std::vector<std::int32_t> targets = std::vector<std::int32_t>(rows);

  Batch(std::size_t r, std::size_t v) : rows(r), vocabulary(v) {
    auto random = rf::Random::stream(51, 3);
    for (std::size_t i = 0; i < rows; ++i)
      targets[i] = i % 3 == 2 ? rf::cpu::ignored_target : static_cast<std::int32_t>(random.below(vocabulary));
  }
  rf::cpu::LossArguments arguments() const {
    return {.rows = static_cast<std::int64_t>(rows),
            .vocabulary = static_cast<std::int64_t>(vocabulary),
            .logits = logits.data(),
            .targets = targets.data()};
  }
};

/// Mean of ce_weight · CE + kl_weight · KL over the counted rows, in double.
double reference_loss(const Batch& batch, std::span<const double> logits, std::span<const double> teacher,
                      double ce_weight, double kl_weight) {
  double sum = 0;
  int counted = 0;
  for (std::size_t r = 0; r < batch.rows; ++r) {
    if (batch.targets[r] == rf::cpu::ignored_target) continue;
    const auto row = logits.subspan(r * batch.vocabulary, batch.vocabulary);
    ++counted;
    sum += ce_weight * rf::reference::negative_log_likelihood(row, batch.targets[r]);
    if (kl_weight != 0)
      sum +=
          kl_weight * rf::reference::divergence(row, teacher.subspan(r * batch.vocabulary, batch.vocabulary));
  }
  return counted == 0 ? 0 : sum / counted;
}

TEST_CASE("cross entropy: losses agree with the reference") {
  for (const std::size_t vocabulary : {1u, 2u, 17u, 256u, 5000u})
    for (const std::size_t rows : {1u, 2u, 70u}) {
      CAPTURE(vocabulary);
      CAPTURE(rows);
      const Batch batch(rows, vocabulary);
      auto arguments = batch.arguments();
      const auto logits = widen(batch.logits), teacher = widen(batch.teacher);
      const auto plain = rf::cpu::next_token_loss(arguments);
      const double want = reference_loss(batch, logits, teacher, 1, 0);
      CHECK(std::fabs(plain.cross_entropy - want) < 1e-6);
      CHECK(plain.divergence == 0);
      CHECK(plain.counted_rows == rf::cpu::counted_rows(batch.targets.data(), arguments.rows));
      arguments.teacher_logits = batch.teacher.data();
      const auto both = rf::cpu::next_token_loss(arguments);
      CHECK(both.cross_entropy == plain.cross_entropy);
      CHECK(std::fabs(both.divergence - reference_loss(batch, logits, teacher, 0, 1)) < 2e-6);
    }
}

TEST_CASE("cross entropy: gradients agree with finite differences of the reference") {
  const Batch batch(7, 19);
  const auto teacher = widen(batch.teacher);
  auto logits = widen(batch.logits);
  for (const auto& [ce_weight, kl_weight] : {std::pair{1.0, 0.0}, {0.0, 1.0}, {0.7, 0.4}}) {
    std::vector<float> gradient(batch.logits.size() + 1, poison);
    gradient.back() = canary;
    auto arguments = batch.arguments();
    arguments.cross_entropy_weight = ce_weight;
    arguments.divergence_weight = kl_weight;
    if (kl_weight != 0) arguments.teacher_logits = batch.teacher.data();
    arguments.d_logits = gradient.data();
    arguments.gradient_scale = 1.0 / 5;
    CHECK(rf::cpu::next_token_loss(arguments).counted_rows == 5);
    CHECK(gradient.back() == canary);
    for (std::size_t i = 0; i < logits.size(); ++i) {
      const double kept = logits[i], step = 1e-5;
      logits[i] = kept + step;
      const double above = reference_loss(batch, logits, teacher, ce_weight, kl_weight);
      logits[i] = kept - step;
      const double below = reference_loss(batch, logits, teacher, ce_weight, kl_weight);
      logits[i] = kept;
      CHECK(std::fabs(double(gradient[i]) - (above - below) / (2 * step)) < 1e-7);
    }
  }
}

TEST_CASE("cross entropy: the gradient may overwrite the logits") {
  const Batch batch(5, 100);
  std::vector<float> gradient(batch.logits.size(), poison), in_place = batch.logits;
  auto arguments = batch.arguments();
  arguments.teacher_logits = batch.teacher.data();
  arguments.divergence_weight = 0.5;
  arguments.d_logits = gradient.data();
  const auto apart = rf::cpu::next_token_loss(arguments);
  arguments.logits = arguments.d_logits = in_place.data();
  const auto together = rf::cpu::next_token_loss(arguments);
  CHECK(apart.cross_entropy == together.cross_entropy);
  CHECK(apart.divergence == together.divergence);
  CHECK(in_place == gradient);
}

TEST_CASE("cross entropy: huge logits, excluded tokens, equal distributions") {
  Batch batch(2, 40);
  for (float& value : batch.logits) value *= 1e4f;
  batch.targets = {3, 4};
  auto arguments = batch.arguments();
  const auto logits = widen(batch.logits);
  const double want = reference_loss(batch, logits, logits, 1, 0);
  CHECK(rf::cpu::next_token_loss(arguments).cross_entropy == doctest::Approx(want).epsilon(1e-6));

  arguments.teacher_logits = batch.logits.data();
  CHECK(rf::cpu::next_token_loss(arguments).divergence == 0);

  Batch masked(1, 40);
  masked.targets = {0};
  masked.logits[7] = masked.teacher[7] = -infinity;
  masked.teacher[8] = -infinity;
  std::vector<float> gradient(40, poison);
  arguments = masked.arguments();
  arguments.teacher_logits = masked.teacher.data();
  arguments.divergence_weight = 1;
  arguments.d_logits = gradient.data();
  const auto losses = rf::cpu::next_token_loss(arguments);
  const auto teacher = widen(masked.teacher);
  CHECK(losses.divergence ==
        doctest::Approx(rf::reference::divergence(widen(masked.logits), teacher)).epsilon(1e-5));
  CHECK(gradient[7] == 0.0f);
  double sum = 0;
  for (const float g : gradient) sum += double(g);
  CHECK(std::fabs(sum) < 1e-6);
}

TEST_CASE("cross entropy: ignored rows, NaN rows, no rows") {
  Batch batch(3, 20);
  batch.logits[2 * 20 + 5] = poison;  // row 2 is ignored
  std::vector<float> gradient(60, poison);
  auto arguments = batch.arguments();
  arguments.d_logits = gradient.data();
  CHECK(std::isfinite(rf::cpu::next_token_loss(arguments).cross_entropy));
  for (std::size_t i = 40; i < 60; ++i) CHECK(gradient[i] == 0.0f);
  batch.logits[5] = poison;
  CHECK(std::isnan(rf::cpu::next_token_loss(arguments).cross_entropy));
  CHECK(std::isfinite(gradient[20]));
  batch.targets = {-1, -1, -1};
  const auto none = rf::cpu::next_token_loss(arguments);
  CHECK(none.counted_rows == 0);
  CHECK(none.cross_entropy == 0);
  arguments.rows = 0;
  CHECK(rf::cpu::next_token_loss(arguments).counted_rows == 0);
}

TEST_CASE("cross entropy: the bits do not depend on the number of threads") {
  const int threads = rf::default_pool().threads();
  const Batch batch(200, 300);
  auto arguments = batch.arguments();
  arguments.teacher_logits = batch.teacher.data();
  rf::set_threads(1);
  const auto one = rf::cpu::next_token_loss(arguments);
  rf::set_threads(4);
  const auto four = rf::cpu::next_token_loss(arguments);
  rf::set_threads(threads);
  CHECK(one.cross_entropy == four.cross_entropy);
  CHECK(one.divergence == four.divergence);
}

TEST_CASE("cross entropy: likelihoods and argmax per row") {
  Batch batch(6, 3001);
  const auto logits = widen(batch.logits);
  std::vector<double> likelihoods(7, canary);
  rf::cpu::negative_log_likelihoods(batch.logits.data(), batch.targets.data(), 6, 3001, likelihoods.data());
  CHECK(likelihoods[6] == double(canary));
  for (std::size_t r = 0; r < 6; ++r) {
    const double want = r % 3 == 2 ? 0
                                   : rf::reference::negative_log_likelihood(
                                         std::span(logits).subspan(r * 3001, 3001), batch.targets[r]);
    CHECK(std::fabs(likelihoods[r] - want) < 1e-6);
  }
  const std::size_t places[] = {0, 3000, 1023, 1024, 2048, 17};
  for (std::size_t r = 0; r < 6; ++r) {
    batch.logits[r * 3001 + places[r]] = 1e9f;
    batch.logits[r * 3001 + 3000] = 1e9f;  // a tie: the lowest index wins
  }
  std::vector<std::int32_t> best(7, 77);
  rf::cpu::argmax(batch.logits.data(), 6, 3001, best.data());
  for (std::size_t r = 0; r < 6; ++r) CHECK(best[r] == static_cast<std::int32_t>(places[r]));
  CHECK(best[6] == 77);
}

TEST_CASE("cross entropy: targets outside the vocabulary are errors") {
  Batch batch(2, 10);
  batch.targets = {3, 10};
  CHECK_THROWS_WITH_AS(rf::cpu::next_token_loss(batch.arguments()),
                       "target 10 in row 1; allowed: 0 to 9, or -1 to ignore the row", rf::ArgumentError);
  auto arguments = batch.arguments();
  arguments.divergence_weight = 1;
  CHECK_THROWS_AS(rf::cpu::next_token_loss(arguments), rf::ArgumentError);
}

}  // namespace
