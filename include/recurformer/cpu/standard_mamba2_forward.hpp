#ifndef RECURFORMER_CPU_STANDARD_MAMBA2_FORWARD_HPP
#define RECURFORMER_CPU_STANDARD_MAMBA2_FORWARD_HPP

// Standard Mamba-2's forward on the CPU (spec/standard_mamba2.hpp has the equations): the convolutions of all
// groups, then the SSD recurrence of cpu/ssd.hpp, of every head by itself, with step sizes before it and the
// gate after it, a chunk at a time while it is in the cache.
//
// In inference u and Δ take the places of x, B, C and dt in `projected`; for backward they are saved and
// `projected` stays as it is.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "recurformer/core/parallel.hpp"
#include "recurformer/cpu/gate.hpp"
#include "recurformer/cpu/standard_mamba2_layout.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {
namespace detail {

template <SsdShape Shape, class State, int P>
class StandardMamba2Forward {
 public:
  explicit StandardMamba2Forward(const ForwardArguments& arguments)
      : a_(arguments),
        columns_(a_.shape),
        groups_(static_cast<std::int64_t>(a_.groups.size())),
        queries_(a_.shape.queries_per_group),
        saved_(standard_mamba2_saved<Shape>(a_.shape, groups_, a_.sequences)) {}

  void run() const {
    convolve();
    const std::int64_t heads = groups_ * queries_;
    const auto items = ssd_items(a_.sequences, heads);
    const auto skip = standard_mamba2_skip(a_.shape, heads, a_.local[StandardMamba2Local::skip]);
    SsdStates<State> states(a_.cache, 1, items, form.size());
    std::vector<SsdSequence> work;
    work.reserve(items.size());
    for (std::size_t i = 0; i < items.size(); ++i) {
      const auto [sequence, head] = items[i];
      const std::int64_t rows = a_.sequences[sequence].rows;
      const RowsView<float> u = convolved(sequence, head / queries_);
      SsdSequence s =
          standard_mamba2_sequence<Shape>(a_.shape, rows, head, u.data, u.stride, a_.local, skip.data());
      const RowsView<float> y = a_.saved != nullptr
                                    ? RowsView<float>{a_.saved + saved_[sequence].y + head * P, heads * P}
                                    : out(sequence, head);
      s.initial_state = s.final_state = states.state(i);
      s.y = y.data;
      s.y_stride = y.stride;
      if (a_.saved != nullptr)
        s.chunk_states = a_.saved + saved_[sequence].states + head * ssd_chunks(P, rows) * form.size();
      work.push_back(s);
    }
    const auto prepare = [&](std::int64_t index, std::int64_t first, std::int64_t count) {
      const auto [sequence, head] = items[static_cast<std::size_t>(index)];
      const std::int64_t group = head / queries_, dt = columns_.dt + head % queries_;
      const RowsView<float> in = projected(sequence, group), u = convolved(sequence, group);
      ssd_step_sizes({in.row(first) + dt, in.stride}, count, a_.local[StandardMamba2Local::dt_bias][head],
                     a_.shape.step_limits, {u.row(first) + dt - columns_.x, u.stride});
    };
    const auto finish = [&](std::int64_t index, std::int64_t first, std::int64_t count) {
      const auto i = static_cast<std::size_t>(index);
      const auto [sequence, head] = items[i];
      const RowsView<float> in = projected(sequence, head / queries_), to = out(sequence, head);
      for (std::int64_t t = first; t < first + count; ++t) {
        const float *y = work[i].y + t * work[i].y_stride, *z = in.row(t) + head % queries_ * P;
        for (int c = 0; c < P; c += simd::width)
          simd::store(to.row(t) + c, simd::load(y + c) * gate<Gate::silu>(simd::load(z + c)));
      }
    };
    ssd_forward<form>(work, prepare, finish);
    states.write();
  }

 private:
  static constexpr SsdForm form = standard_mamba2_form<Shape>(P);

  /// The projected columns of one group of a sequence.
  RowsView<float> projected(std::size_t sequence, std::int64_t group) const {
    return {a_.projected.row(a_.sequences[sequence].first_row) + group * columns_.width, a_.projected.stride};
  }
  /// Where its columns from x on go: u and Δ.
  RowsView<float> convolved(std::size_t sequence, std::int64_t group) const {
    if (a_.saved == nullptr) {
      const RowsView<float> in = projected(sequence, group);
      return {in.data + columns_.x, in.stride};
    }
    const std::int64_t width = columns_.width - columns_.x;
    return {a_.saved + saved_[sequence].u + group * width, groups_ * width};
  }
  /// The output of one head of the run.
  RowsView<float> out(std::size_t sequence, std::int64_t head) const {
    const std::int64_t group = a_.groups[static_cast<std::size_t>(head / queries_)];
    return {a_.out.row(a_.sequences[sequence].first_row) + (group * queries_ + head % queries_) * P,
            a_.out.stride};
  }

  /// u of all sequences and groups, and the cached inputs of the convolution moved past the new tokens.
  void convolve() const {
    const StandardMamba2Conv<Shape> conv(a_);
    const std::int64_t blocks = conv.blocks();
    parallel_for(static_cast<std::int64_t>(a_.sequences.size()) * groups_ * blocks, [&](std::int64_t i) {
      const auto sequence = static_cast<std::size_t>(i / blocks / groups_);
      const std::int64_t group = i / blocks % groups_, first = i % blocks * conv_channels;
      const std::int64_t rows = a_.sequences[sequence].rows;
      if (rows == 0) return;
      const RowsView<float> in = projected(sequence, group), u = convolved(sequence, group);
      const ConvInput input = conv.input(group, first, rows, in.data + columns_.x, in.stride);
      float past[(Shape.d_conv - 1) * conv_channels] = {};
      State* cached = a_.cache.empty() ? nullptr
                                       : static_cast<State*>(a_.cache.field(sequence, 0).data) +
                                             group * (Shape.d_conv - 1) * columns_.channels() + first;
      const auto each = [&](auto&& f) {
        for (std::int64_t j = 0; j + 1 < Shape.d_conv; ++j)
          for (std::int64_t c = 0; c < input.channels; c += simd::width)
            f(cached + j * columns_.channels() + c, past + j * input.channels + c);
      };
      if (cached != nullptr) each([](const State* from, float* to) { simd::store(to, simd::load(from)); });
      conv_silu<Shape.d_conv>(input, past, u.data + first, u.stride);
      if (cached != nullptr) each([](State* to, const float* from) { simd::store(to, simd::load(from)); });
    });
  }

  const ForwardArguments& a_;
  StandardMamba2Columns<Shape> columns_;
  std::int64_t groups_, queries_;
  std::vector<StandardMamba2Saved<Shape>> saved_;
};

}  // namespace detail
}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_STANDARD_MAMBA2_FORWARD_HPP
