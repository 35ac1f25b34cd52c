#ifndef RECURFORMER_CPU_STANDARD_MAMBA2_LAYOUT_HPP
#define RECURFORMER_CPU_STANDARD_MAMBA2_LAYOUT_HPP

// Where standard Mamba-2's kernels find things: the columns of a group, its parameters laid out for vectors,
// what forward saves for backward; and what forward and backward tell the SSD recurrence alike.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "recurformer/core/parallel.hpp"
#include "recurformer/cpu/aligned_buffer.hpp"
#include "recurformer/cpu/conv_silu.hpp"
#include "recurformer/cpu/mixer_kernel.hpp"
#include "recurformer/cpu/ssd.hpp"
#include "recurformer/cpu/ssd_heads.hpp"
#include "recurformer/spec/standard_mamba2.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {
namespace detail {

/// The form of a head's state.
template <SsdShape Shape>
constexpr SsdForm standard_mamba2_form(int d_head) {
  return {.keys = Shape.d_state, .values = d_head};
}

/// Where the projected columns of one group start; z is the first. The convolution's channels are x | B | C.
template <SsdShape Shape>
struct StandardMamba2Columns {
  std::int64_t x, b, c, dt, width;

  explicit StandardMamba2Columns(const HeadShape& shape)
      : x(shape.group_width()),
        b(x + shape.group_width()),
        c(b + Shape.d_state),
        dt(c + Shape.d_state),
        width(dt + shape.queries_per_group) {}
  std::int64_t channels() const { return dt - x; }
};

/// Positions of the local parameters among those declared.
struct StandardMamba2Local {
  enum : std::size_t { conv_weight = 0, conv_bias = 3, dt_bias = 6, a_log, skip };  // conv: x, B, C
};

/// Calls f(i, first, count) for the three parts of a group's channels: f(0, …) for x, f(1, …) for B, f(2, …)
/// for C.
template <SsdShape Shape, class F>
void for_conv_parts(const StandardMamba2Columns<Shape>& columns, F&& f) {
  f(0, std::int64_t{0}, columns.b - columns.x);
  f(1, columns.b - columns.x, columns.c - columns.b);
  f(2, columns.c - columns.x, columns.dt - columns.c);
}

/// The convolutions of all groups of a run, with channels innermost.
template <SsdShape Shape>
class StandardMamba2Conv {
 public:
  explicit StandardMamba2Conv(const ForwardArguments& a)
      : StandardMamba2Conv(a.shape, a.groups.size(), a.local) {}
  explicit StandardMamba2Conv(const BackwardArguments& a)
      : StandardMamba2Conv(a.shape, a.groups.size(), a.local) {}

  /// Some channels of one group, counted from the group's first, of tokens that lie at x.
  ConvInput input(std::int64_t group, std::int64_t first, std::int64_t rows, const float* x,
                  std::int64_t stride) const {
    const std::int64_t at = group * columns_.channels() + first;
    return {.rows = rows,
            .channels = std::min(conv_channels, columns_.channels() - first),
            .x = x + first,
            .stride = stride,
            .weight = weight_.data() + at,
            .weight_stride = all_,
            .bias = weight_.data() + taps * all_ + at};
  }
  /// Calls of one group.
  std::int64_t blocks() const { return (columns_.channels() + conv_channels - 1) / conv_channels; }

  /// Adds gradients that lie as the parameters here, (taps + 1, groups · channels), to those of the run.
  void add_gradients(const float* gradients, std::span<float* const> d_local) const {
    for (std::int64_t group = 0; group < all_ / columns_.channels(); ++group)
      for_conv_parts(columns_, [&](std::size_t part, std::int64_t first, std::int64_t count) {
        const float* from = gradients + group * columns_.channels() + first;
        float* weight = d_local[StandardMamba2Local::conv_weight + part] + group * count * taps;
        float* bias = d_local[StandardMamba2Local::conv_bias + part] + group * count;
        for (std::int64_t i = 0; i < count; ++i) {
          for (std::int64_t j = 0; j < taps; ++j) weight[i * taps + j] += from[j * all_ + i];
          bias[i] += from[taps * all_ + i];
        }
      });
  }
  /// Floats of all parameters.
  std::int64_t size() const { return (taps + 1) * all_; }
  /// From a parameter of input() to its gradient, which lies in `gradients` as the parameters do here.
  float* gradient_of(const float* parameter, float* gradients) const {
    return gradients + (parameter - weight_.data());
  }

 private:
  static constexpr std::int64_t taps = Shape.d_conv;

  StandardMamba2Conv(const HeadShape& shape, std::size_t groups, std::span<const float* const> local)
      : columns_(shape), all_(static_cast<std::int64_t>(groups) * columns_.channels()) {
    weight_.reserve(static_cast<std::size_t>(size()));
    for (std::int64_t group = 0; group < static_cast<std::int64_t>(groups); ++group)
      for_conv_parts(columns_, [&](std::size_t part, std::int64_t first, std::int64_t count) {
        float* to = weight_.data() + group * columns_.channels() + first;
        const float* weight = local[StandardMamba2Local::conv_weight + part] + group * count * taps;
        const float* bias = local[StandardMamba2Local::conv_bias + part] + group * count;
        for (std::int64_t i = 0; i < count; ++i) {
          for (std::int64_t j = 0; j < taps; ++j) to[j * all_ + i] = weight[i * taps + j];
          to[taps * all_ + i] = bias[i];
        }
      });
  }

  StandardMamba2Columns<Shape> columns_;
  std::int64_t all_;             // channels of all groups
  AlignedBuffer<float> weight_;  // (taps, all) weights, then (all) biases
};

/// D of every head, once for each of its channels, as the recurrence wants it.
inline std::vector<float> standard_mamba2_skip(const HeadShape& shape, std::int64_t heads, const float* d) {
  std::vector<float> out(static_cast<std::size_t>(heads * shape.d_head));
  for (std::int64_t h = 0; h < heads; ++h) std::fill_n(out.data() + h * shape.d_head, shape.d_head, d[h]);
  return out;
}

/// What forward saves of one sequence: u and Δ (rows, groups, columns from x on), y before the gate (rows,
/// heads, d_head), the states before every chunk (heads, chunks, state).
template <SsdShape Shape>
struct StandardMamba2Saved {
  std::int64_t u, y, states, end;  // where they start, in floats

  StandardMamba2Saved(const HeadShape& shape, std::int64_t groups, std::int64_t rows, std::int64_t start)
      : u(start),
        y(u + rows * groups * (StandardMamba2Columns<Shape>(shape).width - shape.group_width())),
        states(y + rows * groups * shape.group_width()),
        end(states + groups * shape.queries_per_group * ssd_chunks(shape.d_head, rows) *
                         standard_mamba2_form<Shape>(shape.d_head).size()) {}
};
template <SsdShape Shape>
std::vector<StandardMamba2Saved<Shape>> standard_mamba2_saved(const HeadShape& shape, std::int64_t groups,
                                                              std::span<const SequenceRows> sequences) {
  std::vector<StandardMamba2Saved<Shape>> out;
  std::int64_t start = 0;
  for (const SequenceRows& s : sequences) {
    out.emplace_back(shape, groups, s.rows, start);
    start = out.back().end;
  }
  return out;
}

/// One head of a sequence whose u and Δ lie at `u`: the columns from x on of its group's first token.
template <SsdShape Shape>
SsdSequence standard_mamba2_sequence(const HeadShape& shape, std::int64_t rows, std::int64_t head,
                                     const float* u, std::int64_t stride, std::span<const float* const> local,
                                     const float* skip) {
  const StandardMamba2Columns<Shape> columns(shape);
  const std::int64_t query = head % shape.queries_per_group;
  return {.rows = rows,
          .q = u + columns.c - columns.x,
          .k = u + columns.b - columns.x,
          .v = u + query * shape.d_head,
          .step = u + columns.dt - columns.x + query,
          .stride = stride,
          .rate = -std::exp(local[StandardMamba2Local::a_log][head]),
          .skip = skip + head * shape.d_head};
}

}  // namespace detail
}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_STANDARD_MAMBA2_LAYOUT_HPP
