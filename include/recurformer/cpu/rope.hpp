#ifndef RECURFORMER_CPU_ROPE_HPP
#define RECURFORMER_CPU_ROPE_HPP

// Rotary positions (arXiv 2104.09864) in the convention of Hugging Face's Llama: the pair (x[i], x[i + d/2])
// turns by the angle position · base^(-2i/d).

#include <cmath>
#include <cstdint>
#include <vector>

#include "recurformer/core/error.hpp"

namespace rf::cpu {

/// Cosines and sines of every position below a reserved bound, computed in double.
class RopeTable {
 public:
  RopeTable(int d_head, double base) : half_(d_head / 2), base_(base) {
    check(d_head >= 2 && d_head % 2 == 0, "rotary positions need an even d_head, got ", d_head);
    check(base > 1, "rope_base is ", base, "; it must be larger than 1");
  }

  /// Makes positions [0, positions) available; grows geometrically.
  void reserve(std::int64_t positions) {
    if (positions <= positions_) return;
    const std::int64_t grown = positions > 2 * positions_ ? positions : 2 * positions_;
    table_.resize(static_cast<std::size_t>(grown * 2 * half_));
    for (std::int64_t p = positions_; p < grown; ++p)
      for (std::int64_t i = 0; i < half_; ++i) {
        const double angle =
            static_cast<double>(p) * std::pow(base_, -static_cast<double>(i) / static_cast<double>(half_));
        table_[static_cast<std::size_t>(p * 2 * half_ + i)] = static_cast<float>(std::cos(angle));
        table_[static_cast<std::size_t>((p * 2 + 1) * half_ + i)] = static_cast<float>(std::sin(angle));
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
  std::int64_t positions_ = 0;
  std::vector<float> table_;
};

inline namespace RECURFORMER_ISA {

/// Turns one head's vector of table.d_head() floats in place to `position`.
inline void rope_rotate(const RopeTable& table, std::int64_t position, float* x) {
  const int half = table.d_head() / 2;
  const float* c = table.cosines(position);
  const float* s = table.sines(position);
  for (int i = 0; i < half; ++i) {
    const float low = x[i], high = x[i + half];
    x[i] = low * c[i] - high * s[i];
    x[i + half] = high * c[i] + low * s[i];
  }
}

/// The inverse turn, which is also the gradient's way back.
inline void rope_rotate_back(const RopeTable& table, std::int64_t position, float* x) {
  const int half = table.d_head() / 2;
  const float* c = table.cosines(position);
  const float* s = table.sines(position);
  for (int i = 0; i < half; ++i) {
    const float low = x[i], high = x[i + half];
    x[i] = low * c[i] + high * s[i];
    x[i + half] = high * c[i] - low * s[i];
  }
}

}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_ROPE_HPP
