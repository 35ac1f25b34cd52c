#ifndef RECURFORMER_TRAIN_DATA_HPP
#define RECURFORMER_TRAIN_DATA_HPP

#include <cstdint>

#include "recurformer/core/random.hpp"
#include "recurformer/eval/copy.hpp"
#include "recurformer/eval/token_text.hpp"

namespace rf {

/// Text with a share of fixed-lag copies, so that long recall can be learnt and measured at small sizes. A
/// batch is a function of (seed, step) alone: a resumed run sees the same batches.
struct MixedData {
  const TokenText* text = nullptr;
  std::int64_t rows = 8;       ///< sequences per batch
  std::int64_t length = 256;   ///< tokens per sequence
  std::int64_t copy_rows = 2;  ///< how many of the rows are copies
  std::int64_t copy_lag = 64;
  std::uint64_t seed = 0;

  /// The batch of a step; the same for the same step.
  Batch operator()(std::int64_t step) const {
    Random random = Random::stream(seed, static_cast<std::uint64_t>(step));
    const CopyTask copy{.row_length = length, .lag = copy_lag, .split = Split::train};
    Batch batch;
    for (std::int64_t r = 0; r < rows; ++r) {
      if (r < copy_rows) {
        const TaskRow row = copy.row(random);
        batch.append(row.tokens, row.targets);
      } else {
        text->append_train_row(batch, length, random);
      }
    }
    return batch;
  }
};

}  // namespace rf

#endif  // RECURFORMER_TRAIN_DATA_HPP
