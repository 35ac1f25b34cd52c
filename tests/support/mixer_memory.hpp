#ifndef RECURFORMER_TESTS_SUPPORT_MIXER_MEMORY_HPP
#define RECURFORMER_TESTS_SUPPORT_MIXER_MEMORY_HPP

// Memory for tests: float matrices with canaries around them, and a simple cache of one run.

#include <doctest/doctest.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "recurformer/core/dtype.hpp"
#include "recurformer/cpu/mixer_kernel.hpp"
#include "recurformer/model/cache_layout.hpp"
#include "recurformer/spec/mixer.hpp"

namespace rf::test {

inline constexpr float nan_poison = std::numeric_limits<float>::quiet_NaN();

/// True if both floats have the same bits, NaN included.
inline bool same_bits(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}
inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

/// Floats full of NaN between two canaries. The memory is exactly as large as needed, so that a sanitizer
/// sees what the canaries miss.
class GuardedFloats {
 public:
  explicit GuardedFloats(std::int64_t size)
      : size_(size), memory_(static_cast<std::size_t>(size + 2 * margin), canary) {
    for (std::int64_t i = 0; i < size; ++i) data()[i] = nan_poison;
  }
  float* data() { return memory_.data() + margin; }
  std::int64_t size() const { return size_; }
  bool intact() const {
    for (std::int64_t i = 0; i < margin; ++i)
      if (memory_[static_cast<std::size_t>(i)] != canary ||
          memory_[static_cast<std::size_t>(margin + size_ + i)] != canary)
        return false;
    return true;
  }

 private:
  static constexpr std::int64_t margin = 64;
  static constexpr float canary = 12345.678f;
  std::int64_t size_;
  std::vector<float> memory_;
};

/// The cache of one run for some sequences, made from the mixer's declarations. Rows and rings start as NaN
/// (a kernel must not read what was never written), states as zeros.
template <class Precision>
class MixerCache {
 public:
  /// positions: rows that every sequence can hold; ring_extra: ring slots beyond the window.
  template <class Mixer>
  MixerCache(const Mixer& mixer, const HeadShape& shape, std::int64_t groups, std::size_t sequences,
             std::int64_t positions, std::int64_t ring_extra) {
    const auto fields = stored_fields<Precision>(mixer, shape);
    fields_per_sequence_ = fields.size();
    for (std::size_t s = 0; s < sequences; ++s)
      for (const auto& [field, dtype] : fields) {
        const std::int64_t units = groups * (field.unit == Unit::head ? shape.queries_per_group : 1);
        cpu::FieldView view;
        if (field.kind == FieldKind::rows) {
          auto& pages = page_tables_.emplace_back();
          for (std::int64_t p = 0; p * cache_page_rows < positions; ++p)
            pages.push_back(kept(dtype, units * cache_page_rows * field.slice.size()));
          view.pages = pages.data();
        } else if (field.kind == FieldKind::ring) {
          view.capacity = field.window + ring_extra;
          view.data = kept(dtype, units * (field.sink + view.capacity) * field.slice.size());
        } else {
          view.data = state(units * field.slice.size());
        }
        views_.push_back(view);
      }
  }
  MixerCache(const MixerCache&) = delete;
  MixerCache& operator=(const MixerCache&) = delete;

  cpu::CacheView view() const { return {.fields = views_, .fields_per_sequence = fields_per_sequence_}; }

 private:
  /// NaN; integers, which cannot be, have scales that are.
  void* kept(DType dtype, std::int64_t count) {
    auto& block = kept_.emplace_back(static_cast<std::size_t>(count) * size_of(dtype), std::byte{0xff});
    return block.data();
  }
  void* state(std::int64_t count) { return states_.emplace_back(static_cast<std::size_t>(count)).data(); }

  std::size_t fields_per_sequence_ = 0;
  std::vector<cpu::FieldView> views_;
  // Moving a vector keeps its elements in place, so that the outer vectors may grow.
  std::vector<std::vector<void*>> page_tables_;
  std::vector<std::vector<std::byte>> kept_;
  std::vector<std::vector<typename Precision::State>> states_;
};

}  // namespace rf::test

#endif  // RECURFORMER_TESTS_SUPPORT_MIXER_MEMORY_HPP
