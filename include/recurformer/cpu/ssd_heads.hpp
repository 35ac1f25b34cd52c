#ifndef RECURFORMER_CPU_SSD_HEADS_HPP
#define RECURFORMER_CPU_SSD_HEADS_HPP

// What mixers need around the SSD recurrence (cpu/ssd.hpp): which states a call has, states as floats, and
// step sizes.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "recurformer/core/dtype.hpp"
#include "recurformer/cpu/aligned_buffer.hpp"
#include "recurformer/cpu/field_view.hpp"
#include "recurformer/spec/batch.hpp"
#include "recurformer/spec/layer_shape.hpp"
#include "recurformer/tile/simd.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {
namespace detail {

/// One state of one sequence.
struct SsdItem {
  std::size_t sequence;
  std::int64_t state;  ///< of the run
};
/// Sequences vary slowest.
inline std::vector<SsdItem> ssd_items(std::span<const SequenceRows> sequences, std::int64_t states) {
  std::vector<SsdItem> items;
  items.reserve(sequences.size() * static_cast<std::size_t>(states));
  for (std::size_t s = 0; s < sequences.size(); ++s)
    for (std::int64_t state = 0; state < states; ++state) items.push_back({s, state});
  return items;
}

/// States of `size` floats: the cache's field itself where it stores floats, otherwise copies that write()
/// puts back.
template <class T>
class SsdStates {
 public:
  SsdStates(const CacheView& cache, std::size_t field, std::span<const SsdItem> items, std::int64_t size)
      : cache_(cache), field_(field), items_(items), size_(size) {
    if (cache.empty() || std::is_same_v<T, float>) return;
    copies_.reserve(items.size() * static_cast<std::size_t>(size));
    for (std::size_t i = 0; i < items.size(); ++i)
      for (std::int64_t j = 0; j < size; ++j) copy(i)[j] = convert<float>(stored(i)[j]);
  }
  /// Null without a cache.
  float* state(std::size_t item) {
    if (cache_.empty()) return nullptr;
    if constexpr (std::is_same_v<T, float>)
      return stored(item);
    else
      return copy(item);
  }
  void write() {
    if (cache_.empty() || std::is_same_v<T, float>) return;
    for (std::size_t i = 0; i < items_.size(); ++i)
      for (std::int64_t j = 0; j < size_; ++j) stored(i)[j] = convert<T>(copy(i)[j]);
  }

 private:
  T* stored(std::size_t item) const {
    return static_cast<T*>(cache_.field(items_[item].sequence, field_).data) + items_[item].state * size_;
  }
  float* copy(std::size_t item) { return copies_.data() + static_cast<std::int64_t>(item) * size_; }

  CacheView cache_;
  std::size_t field_;
  std::span<const SsdItem> items_;
  std::int64_t size_;
  AlignedBuffer<float> copies_;
};

/// One number of every token.
template <class T>
struct SsdColumn {
  T* data;
  std::int64_t stride;
};

/// step = softplus(x + bias), kept within the limits, of `rows` tokens; step may be x.
inline void ssd_step_sizes(SsdColumn<const float> x, std::int64_t rows, float bias, const StepLimits& limits,
                           SsdColumn<float> step) {
  const simd::Vec least = simd::broadcast(static_cast<float>(limits.least)),
                  most = simd::broadcast(static_cast<float>(limits.most));
  for (std::int64_t i = 0; i < rows; i += simd::width) {
    const auto count = static_cast<int>(std::min<std::int64_t>(simd::width, rows - i));
    simd::Vec v = simd::zero();
    for (int j = 0; j < count; ++j) v[j] = x.data[(i + j) * x.stride];
    // the limits first: min and max give their second argument where it is NaN, which must stay
    v = simd::max(least, simd::min(most, simd::softplus(v + bias)));
    for (int j = 0; j < count; ++j) step.data[(i + j) * step.stride] = v[j];
  }
}

}  // namespace detail
}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_SSD_HEADS_HPP
