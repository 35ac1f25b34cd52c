#ifndef RECURFORMER_TRAIN_SCHEDULE_HPP
#define RECURFORMER_TRAIN_SCHEDULE_HPP

#include <cmath>
#include <cstdint>
#include <numbers>

namespace rf {

/// Learning-rate factor: linear warm-up to 1, then half a cosine down to `floor`.
struct WarmupCosine {
  std::int64_t steps = 1;   ///< of the whole run
  std::int64_t warmup = 0;  ///< steps of the rise
  double floor = 0.05;      ///< factor at the end

  /// Factor of step 0 <= step < steps.
  double operator()(std::int64_t step) const {
    if (step < warmup) return static_cast<double>(step + 1) / static_cast<double>(warmup);
    if (steps <= warmup + 1) return 1.0;
    const double progress = static_cast<double>(step - warmup) / static_cast<double>(steps - 1 - warmup);
    return floor + (1.0 - floor) * 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
  }
};

}  // namespace rf

#endif  // RECURFORMER_TRAIN_SCHEDULE_HPP
