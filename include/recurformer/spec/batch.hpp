#ifndef RECURFORMER_SPEC_BATCH_HPP
#define RECURFORMER_SPEC_BATCH_HPP

#include <cstdint>

namespace rf {

/// The new tokens of one sequence within a packed, padding-free batch: rows [first_row, first_row + rows) of
/// every activation belong to it, at positions [position, position + rows). rows may be 0.
struct SequenceRows {
  std::int64_t first_row = 0;
  std::int64_t rows = 0;
  std::int64_t position = 0;  ///< tokens of this sequence already in the cache
};

}  // namespace rf

#endif  // RECURFORMER_SPEC_BATCH_HPP
