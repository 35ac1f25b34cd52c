#ifndef RECURFORMER_CPU_MAMBA2_LAYOUT_HPP
#define RECURFORMER_CPU_MAMBA2_LAYOUT_HPP

// Where Mamba2's kernels find things: the columns of a group, its local parameters, what forward saves for
// backward; and the output norm's scale, which both need.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "recurformer/cpu/mixer_kernel.hpp"
#include "recurformer/cpu/ssd.hpp"
#include "recurformer/cpu/ssd_heads.hpp"
#include "recurformer/spec/mamba2.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {
namespace detail {

/// Where the projected columns of one group start.
struct Mamba2Columns {
  std::int64_t k, v, z, step, width;

  explicit Mamba2Columns(const HeadShape& shape)
      : k(shape.group_width()),
        v(k + shape.d_head),
        z(v + shape.d_head),
        step(z + shape.group_width()),
        width(step + 1) {}
};

/// Positions of Mamba2's local parameters among those declared.
struct Mamba2Local {
  enum : std::size_t { dt_bias, a_log, c0, c1, skip, norm_gain };
};

/// Where an item's share of `saved` lies.
struct Mamba2Saved {
  std::int64_t states = 0;  // (chunks, state)
  std::int64_t y = 0;       // (rows, group_width)
};
inline std::int64_t mamba2_saved_floats(const HeadShape& shape, std::int64_t rows) {
  return ssd_chunks(shape.d_head, rows) * mamba2_form(shape.d_head).size() + rows * shape.group_width();
}
inline std::vector<Mamba2Saved> mamba2_saved(const HeadShape& shape, std::span<const SequenceRows> sequences,
                                             std::span<const SsdItem> items) {
  std::vector<Mamba2Saved> saved;
  saved.reserve(items.size());
  std::int64_t at = 0;
  for (const SsdItem& item : items) {
    const std::int64_t rows = sequences[item.sequence].rows;
    saved.push_back({at, at + ssd_chunks(shape.d_head, rows) * mamba2_form(shape.d_head).size()});
    at += mamba2_saved_floats(shape, rows);
  }
  return saved;
}

/// 1 / √(mean(y²) + ε) of one head's output.
template <int P>
RECURFORMER_INLINE float mamba2_inverse_rms(const float* y) {
  simd::Vec sum = simd::zero();
  for (int c = 0; c < P; c += simd::width) sum += simd::load(y + c) * simd::load(y + c);
  return 1.0f /
         std::sqrt(simd::reduce_add(sum) / static_cast<float>(P) + static_cast<float>(ssd_norm_epsilon));
}

/// What forward and backward tell the recurrence alike; Projected is float or const float.
template <class Projected>
SsdSequence mamba2_sequence(const HeadShape& shape, const SequenceRows& rows, std::int64_t group,
                            const RowsView<Projected>& projected, std::span<const float* const> local) {
  const Mamba2Columns columns(shape);
  const float* first = projected.row(rows.first_row) + group * columns.width;
  const std::int64_t head = group * shape.queries_per_group;
  return {.rows = rows.rows,
          .heads = shape.queries_per_group,
          .q = first,
          .k = first + columns.k,
          .v = first + columns.v,
          .step = first + columns.step,
          .stride = projected.stride,
          .rate = -std::exp(local[Mamba2Local::a_log][group]),
          .c0 = local[Mamba2Local::c0] + head,
          .c1 = local[Mamba2Local::c1] + head,
          .skip = local[Mamba2Local::skip] + head * shape.d_head};
}

}  // namespace detail
}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_MAMBA2_LAYOUT_HPP
