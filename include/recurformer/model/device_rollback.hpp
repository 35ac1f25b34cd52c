#ifndef RECURFORMER_MODEL_DEVICE_ROLLBACK_HPP
#define RECURFORMER_MODEL_DEVICE_ROLLBACK_HPP

// What a model on a device does for a cache that can be rolled back (DeviceCache, max_rollback R > 0). Its
// recurrent heads are launched
//
//   in stages    so that a sequence's states can be kept at the last two multiples of R that a call reaches.
//                The other heads are all in the first launch, and most calls reach no multiple before their
//                end: one launch
//   once more    over recorded inputs, before the first call after a rollback, to bring the states from a
//                checkpoint to where the sequence is
//
// and the inputs of the last tokens are recorded, layer by layer, as long as the projection's matrices hold
// them.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <utility>
#include <vector>

#include "recurformer/cuda/copy_rows.hpp"
#include "recurformer/cuda/mixer_kernel.hpp"
#include "recurformer/model/device_cache.hpp"
#include "recurformer/model/recorded_row.hpp"
#include "recurformer/spec/batch.hpp"

namespace rf::detail {

/// One launch of recurrent heads: the tokens, and which checkpoints the states are at when they are consumed.
struct RecurrentStage {
  struct Checkpoint {
    std::int64_t sequence = 0;  // of the cache
    std::int64_t position = 0;
  };
  std::vector<SequenceRows> sequences;
  std::vector<int> slots;  // which sequence of the cache each one is
  std::vector<Checkpoint> reached;
};

/// First position whose input a call that ends at `end` has to record: the multiple before the last one.
constexpr std::int64_t first_recorded(std::int64_t end, std::int64_t max_rollback) {
  return (end / max_rollback - 1) * max_rollback;
}

/// Cuts a call's tokens at the last two multiples of max_rollback that each sequence reaches.
inline std::vector<RecurrentStage> recurrent_stages(std::span<const SequenceRows> sequences,
                                                    std::span<const int> slots, std::int64_t max_rollback) {
  std::vector<RecurrentStage> out;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    SequenceRows rest = sequences[i];
    const std::int64_t end = rest.position + rest.rows, before = first_recorded(end, max_rollback);
    std::size_t stage = 0;
    for (const std::int64_t until : {before, before + max_rollback, end}) {
      const std::int64_t rows = until - rest.position;
      if (rows <= 0) continue;
      if (stage == out.size()) out.emplace_back();
      RecurrentStage& one = out[stage++];
      one.sequences.push_back({.first_row = rest.first_row, .rows = rows, .position = rest.position});
      one.slots.push_back(slots[i]);
      if (until % max_rollback == 0) one.reached.push_back({slots[i], until});
      rest = {.first_row = rest.first_row + rows, .rows = rest.rows - rows, .position = until};
    }
  }
  return out;
}

/// What of a token of a recurrent run is recorded.
template <class T, class Run>
RecordedRow recorded_row(const Run& run, const HeadShape& shape) {
  using Kernel = typename Run::Kernel;
  RecordedRow out{.dtype = dtype_of<T>, .widths = {}, .elements = {}};
  if (run.groups == 0) return out;
  std::vector<std::int64_t> begins;
  for (int t = 0; t < Kernel::targets; ++t) {
    begins.push_back(out.width());
    out.widths.push_back(Kernel::target_width(run.mixer, shape, run.groups, t));
  }
  cuda::ProjectionLayout layout;
  Kernel::add_projection(run.mixer, shape, run.groups, 0, 0, layout);
  for (const auto& [target, column, rotated] : layout.destinations()) {
    const auto t = static_cast<std::size_t>(target);
    out.elements.push_back(rotated || out.widths[t] == 0 ? -1 : begins[t] + column);
  }
  return out;
}

/// Whether rows of projected inputs go to the cache or come from there.
enum class RecordedDirection { to_cache, from_cache };

/// Adds the copies between what a run's projection writes for tokens of a sequence and what the cache records
/// of them: of the tokens of a call those that may be needed, of those of a replay all.
template <class T, class Device>
void add_recorded_copies(RecordedDirection direction, const DeviceCache<Device>& cache, std::size_t layer,
                         std::size_t run, std::span<const cuda::ProjectionTarget<T>> targets,
                         const SequenceRows& tokens, int slot, std::vector<cuda::RowCopy>& out) {
  const std::int64_t capacity = 2 * cache.max_rollback(), end = tokens.position + tokens.rows;
  std::int64_t begin = tokens.position;
  if (direction == RecordedDirection::to_cache)
    begin = std::max(begin, first_recorded(end, cache.max_rollback()));
  const RecordedRow& row = cache.recorded_row(layer, run);
  std::byte* recorded = cache.recorded(slot, layer, run);
  struct Place {
    std::byte* data;
    std::int64_t stride;  // bytes
  };
  for (std::size_t t = 0; t < targets.size(); ++t) {
    const std::int64_t bytes = row.widths[t] * static_cast<std::int64_t>(sizeof(T));
    for (std::int64_t first = begin; bytes > 0 && first < end;) {
      const std::int64_t slot_row = first % capacity, rows = std::min(end - first, capacity - slot_row);
      const std::int64_t target_row = tokens.first_row + first - tokens.position;
      const Place matrix{reinterpret_cast<std::byte*>(targets[t].data + target_row * targets[t].stride),
                         targets[t].stride * static_cast<std::int64_t>(sizeof(T))};
      const Place ring{recorded + slot_row * row.bytes(), row.bytes()};
      const auto& [from, to] =
          direction == RecordedDirection::to_cache ? std::pair(matrix, ring) : std::pair(ring, matrix);
      out.push_back({.from = from.data,
                     .to = to.data,
                     .from_stride = from.stride,
                     .to_stride = to.stride,
                     .rows = static_cast<int>(rows),
                     .row_bytes = static_cast<int>(bytes)});
      first += rows;
    }
    recorded += bytes;
  }
}

}  // namespace rf::detail

#endif  // RECURFORMER_MODEL_DEVICE_ROLLBACK_HPP
