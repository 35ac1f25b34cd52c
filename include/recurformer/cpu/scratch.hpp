#ifndef RECURFORMER_CPU_SCRATCH_HPP
#define RECURFORMER_CPU_SCRATCH_HPP

#include <cstddef>
#include <cstdint>

#include "recurformer/cpu/aligned_buffer.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {

/// Working memory of one iteration of a parallel loop, uninitialised: pieces that start on cache lines.
class Scratch {
 public:
  /// Room for pieces whose size(), added up, is `floats`.
  explicit Scratch(std::int64_t floats) : memory_(static_cast<std::size_t>(floats)), next_(memory_.data()) {}
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  /// The next piece.
  float* take(std::int64_t floats) {
    float* piece = next_;
    next_ += size(floats);
    return piece;
  }
  /// What a piece of `floats` takes away.
  static constexpr std::int64_t size(std::int64_t floats) { return (floats + line - 1) / line * line; }
  /// Floats of a cache line.
  static constexpr std::int64_t line = 16;

 private:
  AlignedBuffer<float> memory_;
  float* next_;
};

}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_SCRATCH_HPP
