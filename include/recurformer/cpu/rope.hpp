#ifndef RECURFORMER_CPU_ROPE_HPP
#define RECURFORMER_CPU_ROPE_HPP

// Rotary positions (arXiv 2104.09864) in the convention of Hugging Face's Llama: the pair (x[i], x[i + d/2])
// turns by the angle position · base^(-2i/d). Any even d. Callers share rows among threads.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "recurformer/core/config.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/tile/simd.hpp"

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
    for (std::int64_t i = 0; i < half_; ++i) {
      const double frequency = std::pow(base_, -static_cast<double>(i) / static_cast<double>(half_));
      for (std::int64_t p = positions_; p < grown; ++p) {
        const double angle = static_cast<double>(p) * frequency;
        table_[static_cast<std::size_t>(p * 2 * half_ + i)] = static_cast<float>(std::cos(angle));
        table_[static_cast<std::size_t>((p * 2 + 1) * half_ + i)] = static_cast<float>(std::sin(angle));
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
  std::int64_t positions_ = 0;
  std::vector<float> table_;
};

inline namespace RECURFORMER_ISA {
namespace detail {

/// Turns `heads` consecutive vectors by the angles of `position` times `direction`, which is 1 or -1.
template <int direction>
void rope_turn(const RopeTable& table, std::int64_t position, float* x, std::int64_t heads) {
  constexpr auto sign = static_cast<float>(direction);
  const std::int64_t half = table.d_head() / 2;
  const std::int64_t whole = half / simd::width * simd::width;
  const float* cosines = table.cosines(position);
  const float* sines = table.sines(position);
  for (std::int64_t head = 0; head < heads; ++head, x += 2 * half) {
    for (std::int64_t i = 0; i < whole; i += simd::width) {
      const simd::Vec low = simd::load(x + i), high = simd::load(x + half + i);
      const simd::Vec c = simd::load(cosines + i), s = simd::load(sines + i) * sign;
      simd::store(x + i, low * c - high * s);
      simd::store(x + half + i, high * c + low * s);
    }
    for (std::int64_t i = whole; i < half; ++i) {
      const float low = x[i], high = x[half + i], c = cosines[i], s = sines[i] * sign;
      x[i] = low * c - high * s;
      x[half + i] = high * c + low * s;
    }
  }
}

}  // namespace detail

/// Turns `heads` consecutive vectors of table.d_head() floats in place to `position`, which is reserved.
inline void rope_rotate(const RopeTable& table, std::int64_t position, float* x, std::int64_t heads = 1) {
  detail::rope_turn<1>(table, position, x, heads);
}

/// The inverse turn, which is also the gradient's way back.
inline void rope_rotate_back(const RopeTable& table, std::int64_t position, float* x,
                             std::int64_t heads = 1) {
  detail::rope_turn<-1>(table, position, x, heads);
}

}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_ROPE_HPP
