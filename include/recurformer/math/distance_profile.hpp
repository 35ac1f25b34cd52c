#ifndef RECURFORMER_MATH_DISTANCE_PROFILE_HPP
#define RECURFORMER_MATH_DISTANCE_PROFILE_HPP

// Where a head looks, as a function of the distance i - j between query and key: lags 0 … 255 one by one,
// then bins that grow by 2^(1/4), four to an octave.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace rf {

/// Mean probability at each lag. Entry i covers lags [lag[i], lag[i] + lags[i]); probability is that of a
/// single lag, averaged over the entry.
struct DistanceProfile {
  std::vector<double> lag;
  std::vector<double> lags;
  std::vector<double> probability;
};

/// Lags that have an entry of their own.
inline constexpr std::int64_t exact_lags = 256;

/// First lags of all entries that cover [0, length), and length itself at the end.
inline std::vector<std::int64_t> distance_bin_borders(std::int64_t length) {
  std::vector<std::int64_t> borders;
  for (std::int64_t lag = 0; lag < std::min(length, exact_lags); ++lag) borders.push_back(lag);
  for (int step = 0;; ++step) {
    const auto border =
        static_cast<std::int64_t>(std::llround(static_cast<double>(exact_lags) * std::exp2(0.25 * step)));
    if (border >= length) break;
    borders.push_back(border);
  }
  borders.push_back(length);
  return borders;
}

/// Sums from which a profile is made: probability and number of (query, key) pairs per lag.
class DistanceSums {
 public:
  /// Adds one sequence: mass[lag] is the probability that its queries put on that lag altogether. A sequence
  /// of n tokens has n - lag pairs at each lag.
  void add(std::span<const double> mass) {
    if (mass.size() > mass_.size()) {
      mass_.resize(mass.size());
      pairs_.resize(mass.size());
    }
    for (std::size_t lag = 0; lag < mass.size(); ++lag) {
      mass_[lag] += mass[lag];
      pairs_[lag] += static_cast<double>(mass.size() - lag);
    }
  }

  /// The profile of everything added.
  DistanceProfile profile() const {
    DistanceProfile out;
    const auto borders = distance_bin_borders(static_cast<std::int64_t>(mass_.size()));
    for (std::size_t bin = 0; bin + 1 < borders.size(); ++bin) {
      double sum = 0;
      for (auto lag = static_cast<std::size_t>(borders[bin]);
           lag < static_cast<std::size_t>(borders[bin + 1]); ++lag)
        sum += mass_[lag] / pairs_[lag];
      const auto lags = static_cast<double>(borders[bin + 1] - borders[bin]);
      out.lag.push_back(static_cast<double>(borders[bin]));
      out.lags.push_back(lags);
      out.probability.push_back(sum / lags);
    }
    return out;
  }

 private:
  std::vector<double> mass_, pairs_;
};

}  // namespace rf

#endif  // RECURFORMER_MATH_DISTANCE_PROFILE_HPP
