#ifndef RECURFORMER_MATH_ROPE_TABLE_HPP
#define RECURFORMER_MATH_ROPE_TABLE_HPP

// The angles of rotary positions (arXiv 2104.09864) in the convention of Hugging Face's Llama: the pair
// (x[i], x[i + d/2]) turns by the angle position · frequency_i (see rope_scaling.hpp).

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "recurformer/core/error.hpp"
#include "recurformer/math/rope_scaling.hpp"

namespace rf {

/// Cosines and sines, times the scaling's magnitude, of every position below a reserved bound; computed in
/// double.
class RopeTable {
 public:
  RopeTable(int d_head, double base, const RopeScaling& scaling = {})
      : half_(d_head / 2), base_(base), scaling_(scaling) {
    check(d_head >= 2 && d_head % 2 == 0, "rotary positions need an even d_head, got ", d_head);
    check(base > 1, "rope_base is ", base, "; it must be larger than 1");
    validate(scaling);
  }

  /// Makes positions [0, positions) available; grows geometrically.
  void reserve(std::int64_t positions) {
    if (positions <= positions_) return;
    const std::int64_t grown = positions > 2 * positions_ ? positions : 2 * positions_;
    table_.resize(static_cast<std::size_t>(grown * 2 * half_));
    for (std::int64_t i = 0; i < half_; ++i) {
      const double frequency = rope_frequency(scaling_, static_cast<int>(i), d_head(), base_);
      for (std::int64_t p = positions_; p < grown; ++p) {
        const double angle = static_cast<double>(p) * frequency;
        table_[static_cast<std::size_t>(p * 2 * half_ + i)] =
            static_cast<float>(scaling_.magnitude * std::cos(angle));
        table_[static_cast<std::size_t>((p * 2 + 1) * half_ + i)] =
            static_cast<float>(scaling_.magnitude * std::sin(angle));
      }
    }
    positions_ = grown;
  }

  std::int64_t positions() const { return positions_; }
  int d_head() const { return static_cast<int>(2 * half_); }
  /// d_head/2 cosines (sines) of one reserved position.
  const float* cosines(std::int64_t position) const { return table_.data() + position * 2 * half_; }
  const float* sines(std::int64_t position) const { return table_.data() + (position * 2 + 1) * half_; }

 private:
  std::int64_t half_;
  double base_;
  RopeScaling scaling_;
  std::int64_t positions_ = 0;
  std::vector<float> table_;
};

}  // namespace rf

#endif  // RECURFORMER_MATH_ROPE_TABLE_HPP
