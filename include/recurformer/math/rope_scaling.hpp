#ifndef RECURFORMER_MATH_ROPE_SCALING_HPP
#define RECURFORMER_MATH_ROPE_SCALING_HPP

// The frequencies of rotary positions, and the published ways to change them for contexts longer than those
// of pretraining. Pair i of d_head/2 turns by position · frequency_i; unscaled, frequency_i = base^(-2i/d).
//
//   linear   every frequency / factor (position interpolation, arXiv 2306.15595)
//   llama3   wavelengths above original / low_freq_factor as in linear, those below original /
//            high_freq_factor unchanged, a ramp between (Llama 3.1)
//   yarn     pairs that turn fewer than beta_slow times in the original context as in linear, those that turn
//            more than beta_fast times unchanged, a ramp between; queries and keys grow by `magnitude`
//            (arXiv 2309.00071)

#include <algorithm>
#include <cmath>
#include <numbers>

#include "recurformer/core/error.hpp"

namespace rf {

/// How rotary frequencies are changed.
enum class RopeRule { plain, linear, llama3, yarn };

/// A rule with its numbers; those that a rule does not name are not used by it.
struct RopeScaling {
  RopeRule rule = RopeRule::plain;
  double factor = 1;                 ///< how much longer contexts become, >= 1
  double original_positions = 8192;  ///< context of pretraining, >= 1 (llama3, yarn)
  double low_freq_factor = 1;        ///< > 0 (llama3)
  double high_freq_factor = 4;       ///< > low_freq_factor (llama3)
  double beta_fast = 32;             ///< > beta_slow (yarn)
  double beta_slow = 1;              ///< > 0 (yarn)
  bool whole_pairs = true;           ///< the ramp begins and ends at whole pairs (yarn)
  double magnitude = 1;              ///< of rotated queries and keys, > 0 (yarn)

  friend constexpr bool operator==(const RopeScaling&, const RopeScaling&) = default;
};

/// What C++ calls a rule.
constexpr const char* cpp_name(RopeRule rule) {
  switch (rule) {
    case RopeRule::linear:
      return "rf::RopeRule::linear";
    case RopeRule::llama3:
      return "rf::RopeRule::llama3";
    case RopeRule::yarn:
      return "rf::RopeRule::yarn";
    case RopeRule::plain:
      break;
  }
  return "rf::RopeRule::plain";
}

/// Throws ArgumentError, naming the field, unless frequencies can be computed.
inline void validate(const RopeScaling& scaling) {
  if (scaling.rule == RopeRule::plain) return;
  check(scaling.factor >= 1, "rope_scaling: factor is ", scaling.factor, "; it must be at least 1");
  check(scaling.original_positions >= 1, "rope_scaling: original_positions is ", scaling.original_positions,
        "; it must be at least 1");
  check(scaling.low_freq_factor > 0 && scaling.high_freq_factor > scaling.low_freq_factor,
        "rope_scaling: low_freq_factor is ", scaling.low_freq_factor, " and high_freq_factor ",
        scaling.high_freq_factor, "; the first must be positive and the second larger");
  check(scaling.beta_slow > 0 && scaling.beta_fast > scaling.beta_slow, "rope_scaling: beta_slow is ",
        scaling.beta_slow, " and beta_fast ", scaling.beta_fast,
        "; the first must be positive and the second larger");
  check(scaling.magnitude > 0, "rope_scaling: magnitude is ", scaling.magnitude, "; it must be positive");
}

/// YaRN's magnitude, 0.1 ln(factor) + 1 (section 3.4).
inline double yarn_magnitude(double factor) { return 0.1 * std::log(factor) + 1; }

namespace detail {

/// Share of llama3's ramp: 0 for long wavelengths, which are interpolated, 1 for short ones.
inline double llama3_kept(const RopeScaling& scaling, double frequency) {
  const double turns = scaling.original_positions * frequency / (2 * std::numbers::pi);
  return std::clamp((turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor),
                    0.0, 1.0);
}

/// The pair, fractional, that turns so often in the original context.
inline double yarn_pair(const RopeScaling& scaling, double turns, int d_head, double base) {
  return d_head * std::log(scaling.original_positions / (turns * 2 * std::numbers::pi)) /
         (2 * std::log(base));
}

/// Share of YaRN's ramp: 1 for the first, fast pairs, 0 for the last, which are interpolated.
inline double yarn_kept(const RopeScaling& scaling, int pair, int d_head, double base) {
  double first = yarn_pair(scaling, scaling.beta_fast, d_head, base);
  double last = yarn_pair(scaling, scaling.beta_slow, d_head, base);
  if (scaling.whole_pairs) {
    first = std::floor(first);
    last = std::ceil(last);
  }
  first = std::max(first, 0.0);
  last = std::min(last, d_head - 1.0);
  if (first == last) last += 0.001;
  return 1 - std::clamp((pair - first) / (last - first), 0.0, 1.0);
}

}  // namespace detail

/// Radians per position by which pair 0 <= pair < d_head/2 turns.
inline double rope_frequency(const RopeScaling& scaling, int pair, int d_head, double base) {
  const double plain = std::pow(base, -2.0 * pair / d_head);
  double kept = 1;  // share of the plain frequency; the rest is interpolated
  switch (scaling.rule) {
    case RopeRule::plain:
      return plain;
    case RopeRule::linear:
      kept = 0;
      break;
    case RopeRule::llama3:
      kept = detail::llama3_kept(scaling, plain);
      break;
    case RopeRule::yarn:
      kept = detail::yarn_kept(scaling, pair, d_head, base);
      break;
  }
  return plain * (kept + (1 - kept) / scaling.factor);
}

}  // namespace rf

#endif  // RECURFORMER_MATH_ROPE_SCALING_HPP
