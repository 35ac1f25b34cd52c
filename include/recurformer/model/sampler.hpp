#ifndef RECURFORMER_MODEL_SAMPLER_HPP
#define RECURFORMER_MODEL_SAMPLER_HPP

// From a row of logits to a token. With temperature T > 0 token i has the weight exp((logit_i - max) / T);
// then
//   top-k   keeps the k most probable tokens,
//   top-p   keeps, of these, the fewest most probable whose weights reach the share p of their sum
//           (nucleus sampling, arXiv 1904.09751),
// and one of what is left is drawn by its weight. "More probable" is: larger logit, then lower index, so that
// ties never depend on the order in which a selection visits them.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "recurformer/core/error.hpp"
#include "recurformer/core/random.hpp"

namespace rf {

/// How to choose a token. The default is greedy: the most probable one.
struct SamplingOptions {
  double temperature = 0;  ///< >= 0 and finite; 0 is greedy
  int top_k = 0;           ///< >= 0; 0 is off
  double top_p = 1;        ///< above 0, up to 1; 1 is off
  std::uint64_t seed = 0;
};

/// Draws tokens; one per thread (it keeps scratch memory between calls).
class Sampler {
 public:
  /// Throws ArgumentError unless the options are in the ranges given there.
  explicit Sampler(const SamplingOptions& options) : options_(options) {
    check(options.temperature >= 0 && std::isfinite(options.temperature), "temperature is ",
          options.temperature, "; allowed: 0 (greedy) and finite positive numbers");
    check(options.top_k >= 0, "top_k is ", options.top_k, "; allowed: 0 (off) and positive numbers");
    check(options.top_p > 0 && options.top_p <= 1, "top_p is ", options.top_p,
          "; allowed: above 0, up to 1 (off)");
  }

  const SamplingOptions& options() const { return options_; }

  /// The next token of sequence `sequence` after `step` tokens were drawn for it, given its logits
  /// (vocabulary). The result depends on nothing but the options, the logits, `sequence` and `step`. A logit
  /// of -inf excludes a token; NaN, +inf and rows that exclude every token throw ArgumentError.
  std::int32_t sample(std::span<const float> logits, std::uint64_t sequence, std::uint64_t step) {
    const std::int32_t best = greedy(logits);
    if (options_.temperature == 0 || options_.top_k == 1) return best;

    candidates_.clear();
    for (std::size_t i = 0; i < logits.size(); ++i)
      if (logits[i] != -std::numeric_limits<float>::infinity())
        candidates_.push_back({logits[i], static_cast<std::int32_t>(i), 0.0});
    if (options_.top_k > 0) keep_top_k(static_cast<std::size_t>(options_.top_k));
    const double largest = static_cast<double>(logits[static_cast<std::size_t>(best)]);
    for (auto& candidate : candidates_)
      candidate.weight = std::exp((static_cast<double>(candidate.logit) - largest) / options_.temperature);
    if (options_.top_p < 1) keep_top_p(options_.top_p);
    return draw(uniform(options_, sequence, step));
  }

  /// The number in [0, 1) that sample() draws with.
  static double uniform(const SamplingOptions& options, std::uint64_t sequence, std::uint64_t step) {
    return Random::stream(Random::stream(options.seed, sequence).bits(), step).uniform();
  }

  /// The token with the largest logit, the first of equals. Errors as sample().
  static std::int32_t greedy(std::span<const float> logits) {
    check(!logits.empty(), "cannot choose a token: the row of logits is empty");
    std::size_t best = 0;
    for (std::size_t i = 0; i < logits.size(); ++i) {
      check(!std::isnan(logits[i]) && logits[i] != std::numeric_limits<float>::infinity(),
            "the logit of token ", i, " is ", logits[i],
            "; allowed: finite numbers and -inf. The model's arithmetic broke down");
      if (logits[i] > logits[best]) best = i;
    }
    check(logits[best] != -std::numeric_limits<float>::infinity(),
          "cannot choose a token: every logit is -inf; leave at least one token allowed");
    return static_cast<std::int32_t>(best);
  }

 private:
  struct Candidate {
    float logit;
    std::int32_t token;
    double weight;
  };

  static bool more_probable(const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
  }

  /// Drops what is less probable than `last`. candidates_ stays in the order of tokens: what a selection does
  /// to the order differs between standard libraries, and the draw must not.
  void keep_down_to(const Candidate& last) {
    std::erase_if(candidates_, [&](const Candidate& c) { return more_probable(last, c); });
  }

  void keep_top_k(std::size_t k) {
    if (k >= candidates_.size()) return;
    selection_ = candidates_;
    const auto last = selection_.begin() + static_cast<std::ptrdiff_t>(k - 1);
    std::nth_element(selection_.begin(), last, selection_.end(), more_probable);
    keep_down_to(*last);
  }

  /// Bisects the position of the nucleus' last token: each step partitions the half that contains it, so the
  /// whole costs as much as one selection, not a sort.
  void keep_top_p(double p) {
    selection_ = candidates_;
    const double target = p * sum_of_weights(selection_);
    std::span<Candidate> rest(selection_);  // what is before it is in the nucleus
    double before = 0;                      // weight of that
    while (rest.size() > 1) {
      const std::size_t half = rest.size() / 2;
      std::nth_element(rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(half), rest.end(),
                       more_probable);
      const double weight = sum_of_weights(rest.first(half));
      if (before + weight >= target) {
        rest = rest.first(half);
      } else {
        before += weight;
        rest = rest.subspan(half);
      }
    }
    keep_down_to(rest.front());
  }

  static double sum_of_weights(std::span<const Candidate> candidates) {
    double sum = 0;
    for (const auto& candidate : candidates) sum += candidate.weight;
    return sum;
  }

  /// uniform in [0, 1).
  std::int32_t draw(double uniform) const {
    const double target = uniform * sum_of_weights(candidates_);
    std::int32_t token = 0;
    double sum = 0;
    for (const auto& candidate : candidates_) {
      if (candidate.weight == 0) continue;  // underflowed: never drawn, not even through rounding at the end
      token = candidate.token;
      sum += candidate.weight;
      if (target < sum) break;
    }
    return token;
  }

  SamplingOptions options_;
  std::vector<Candidate> candidates_;  // ordered by token
  std::vector<Candidate> selection_;   // scratch of the selections
};

}  // namespace rf

#endif  // RECURFORMER_MODEL_SAMPLER_HPP
