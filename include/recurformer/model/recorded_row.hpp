#ifndef RECURFORMER_MODEL_RECORDED_ROW_HPP
#define RECURFORMER_MODEL_RECORDED_ROW_HPP

// What a DeviceCache records of a token of a recurrent run so that the run can be replayed after a rollback.

#include <cstdint>
#include <numeric>
#include <vector>

#include "recurformer/core/dtype.hpp"

namespace rf {

/// The token's rows in the run's projection targets, one behind the other.
struct RecordedRow {
  DType dtype = DType::BF16;
  std::vector<std::int64_t> widths;  ///< elements of each target's row
  /// Which element of the recorded row every column of the run's projection is, the columns as the weights
  /// have them: how Cache records them. -1: is not recorded as it was projected.
  std::vector<std::int64_t> elements;

  std::int64_t width() const { return std::accumulate(widths.begin(), widths.end(), std::int64_t{0}); }
  std::int64_t bytes() const { return width() * static_cast<std::int64_t>(size_of(dtype)); }
};

}  // namespace rf

#endif  // RECURFORMER_MODEL_RECORDED_ROW_HPP
