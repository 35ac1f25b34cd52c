#ifndef RECURFORMER_CORE_RANDOM_HPP
#define RECURFORMER_CORE_RANDOM_HPP

// Random numbers that are the same on every machine and with every standard library (std:: distributions are
// not), and whose state is one integer, so that a training run can be resumed exactly.

#include <cmath>
#include <cstdint>
#include <numbers>

#include "recurformer/core/error.hpp"

namespace rf {

/// SplitMix64 (Steele, Lea, Flood 2014): a counter and a mixing function.
class Random {
 public:
  explicit Random(std::uint64_t seed = 0) : state_(mix(seed + golden)) {}

  /// A stream of its own for (seed, index), e.g. one per layer, row or step.
  static Random stream(std::uint64_t seed, std::uint64_t index) {
    return Random(mix(seed) ^ mix(index + golden));
  }

  /// 64 uniform bits.
  std::uint64_t bits() { return mix(state_ += golden); }
  /// Uniform in [0, 1).
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  /// Uniform in [low, high).
  double uniform(double low, double high) { return low + (high - low) * uniform(); }
  /// Uniform integer in [0, bound), 1 <= bound <= 2^32; the bias is below bound / 2^53.
  std::uint64_t below(std::uint64_t bound) {
    check(bound >= 1 && bound <= (std::uint64_t{1} << 32), "Random::below got a bound of ", bound,
          "; allowed: 1 to 2^32");
    return static_cast<std::uint64_t>(uniform() * static_cast<double>(bound));
  }
  /// Standard normal (Box-Muller; one of the pair is used, so that the state stays one counter).
  double normal() {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    return radius * std::cos(2.0 * std::numbers::pi * uniform());
  }

  /// The whole state; Random::from_state continues exactly here.
  std::uint64_t state() const { return state_; }
  static Random from_state(std::uint64_t state) {
    Random out;
    out.state_ = state;
    return out;
  }

 private:
  static constexpr std::uint64_t golden = 0x9e3779b97f4a7c15ull;
  static constexpr std::uint64_t mix(std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  std::uint64_t state_;
};

}  // namespace rf

#endif  // RECURFORMER_CORE_RANDOM_HPP
