#ifndef RECURFORMER_CPU_FIELD_VIEW_HPP
#define RECURFORMER_CPU_FIELD_VIEW_HPP

// What a mixer's kernel on the CPU sees of the cache. Apart from the kernels' contract
// (cpu/mixer_kernel.hpp), so that programs that only hold a cache do not compile vector code.

#include <cstddef>
#include <cstdint>
#include <span>

namespace rf::cpu {

/// Where one cache field of one sequence lives; the run's Cache or State type behind void*, or the floats
/// that are the scales of 8-bit integers.
struct FieldView {
  void* data = nullptr;  ///< ring: (units, sink + capacity, width); state: (units, slice)
  void* const* pages =
      nullptr;  ///< rows: page p holds positions [p·cache_page_rows, …): (units, cache_page_rows, width)
  std::int64_t capacity =
      0;  ///< ring: slots after the sink; position p >= sink sits in slot (p - sink) % capacity
};

/// The cache of one run: fields[sequence · fields_per_sequence + field], in the order that they are declared,
/// scales behind them. Empty: no past, nothing is kept.
struct CacheView {
  std::span<const FieldView> fields = {};
  std::size_t fields_per_sequence = 0;

  bool empty() const { return fields.empty(); }
  const FieldView& field(std::size_t sequence, std::size_t index) const {
    return fields[sequence * fields_per_sequence + index];
  }
};

}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_FIELD_VIEW_HPP
