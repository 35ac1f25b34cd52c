#ifndef RECURFORMER_CUDA_RING_APPEND_HPP
#define RECURFORMER_CUDA_RING_APPEND_HPP

// Writes the new tokens' keys and values into the rings of StreamingAttention, after attention has read both:
// position p < sink into slot p, any other into slot sink + (p - sink) % capacity. Of a long prompt only the
// rows that stay are written, each slot once.

#include <cstdint>

#include "recurformer/arch/thread.hpp"
#include "recurformer/arch/types.hpp"
#include "recurformer/core/rows_view.hpp"
#include "recurformer/spec/batch.hpp"

namespace rf::cuda {
/// Rows of new tokens and the rings they go to.
template <class T>
struct RingAppend {
  const SequenceRows* sequences = nullptr;
  T* const* past_keys = nullptr;    ///< (sequences): (groups, sink + capacity, d_head)
  T* const* past_values = nullptr;  ///< likewise
  RowsView<const T> keys = {};      ///< (rows, groups · d_head), of the new tokens
  RowsView<const T> values = {};
  int sink = 0;
  int capacity = 1;
  int d_head = 0;  ///< a multiple of 8
};

inline namespace RECURFORMER_ARCH {

template <class T>
RECURFORMER_DEVICE void copy_eight(T* to, const T* from) {
  *reinterpret_cast<arch::Words4*>(to) = *reinterpret_cast<const arch::Words4*>(from);
}

/// Appends the rows of one group of one sequence, 16 bytes at a time, by the first `Threads` threads of a
/// block.
template <int Threads, class T>
RECURFORMER_DEVICE void append_to_ring(const RingAppend<T>& p, int index, int group) {
  const SequenceRows sequence = p.sequences[index];
  const int chunks = p.d_head / 8, rows = static_cast<int>(sequence.rows);
  const std::int64_t ring = std::int64_t{group} * (p.sink + p.capacity) * p.d_head;
  for (int i = arch::thread_index(); i < rows * chunks; i += Threads) {
    const int row = i / chunks, column = i % chunks * 8;
    const std::int64_t position = sequence.position + row;
    if (position >= p.sink && row + p.capacity < rows) continue;  // a later row takes its slot
    const std::int64_t slot = position < p.sink ? position : p.sink + (position - p.sink) % p.capacity;
    const std::int64_t to = ring + slot * p.d_head + column;
    const std::int64_t from = std::int64_t{group} * p.d_head + column;
    copy_eight(p.past_keys[index] + to, p.keys.row(sequence.first_row + row) + from);
    copy_eight(p.past_values[index] + to, p.values.row(sequence.first_row + row) + from);
  }
}

}  // namespace RECURFORMER_ARCH
}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_RING_APPEND_HPP
