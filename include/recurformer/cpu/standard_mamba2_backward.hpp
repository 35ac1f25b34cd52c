#ifndef RECURFORMER_CPU_STANDARD_MAMBA2_BACKWARD_HPP
#define RECURFORMER_CPU_STANDARD_MAMBA2_BACKWARD_HPP

// Standard Mamba-2's gradients on the CPU. For every head by itself, a chunk at a time from the last one to
// the first,
//
//   dz = d_out ∘ y ∘ silu'(z),   dy = d_out ∘ silu(z),
//
// then the SSD recurrence (cpu/ssd_backward.hpp) and softplus: dx, dΔ and the head's share of dB and dC.
// Then, for some channels of every group, the sum of these shares and the convolution (cpu/conv_silu.hpp).
//
// dy waits in the columns of dx. Gradients of local parameters are collected for every sequence on its own
// and added in the order of the sequences; shares are added in the order of the heads.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "recurformer/core/parallel.hpp"
#include "recurformer/cpu/aligned_buffer.hpp"
#include "recurformer/cpu/gate.hpp"
#include "recurformer/cpu/ssd_backward.hpp"
#include "recurformer/cpu/standard_mamba2_layout.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {
namespace detail {

template <SsdShape Shape, int P>
class StandardMamba2Backward {
 public:
  explicit StandardMamba2Backward(const BackwardArguments& arguments)
      : a_(arguments),
        columns_(a_.shape),
        groups_(static_cast<std::int64_t>(a_.groups.size())),
        queries_(a_.shape.queries_per_group),
        heads_(groups_ * queries_),
        saved_(standard_mamba2_saved<Shape>(a_.shape, groups_, a_.sequences)),
        items_(ssd_items(a_.sequences, heads_)),
        d_heads_(items_.size()) {
    std::int64_t rows = 0;
    for (const SequenceRows& s : a_.sequences) {
      first_share_.push_back(rows * heads_ * 2 * N);
      rows += s.rows;
    }
    shares_.reserve(static_cast<std::size_t>(rows * heads_ * 2 * N));
  }

  void run() {
    recurrence();
    convolution();
    add_head_gradients();
  }

 private:
  static constexpr SsdForm form = standard_mamba2_form<Shape>(P);
  static constexpr std::int64_t N = Shape.d_state;

  /// Gradients of one head's local parameters from one sequence.
  struct OfHead {
    double dt_bias = 0, rate = 0;
    float skip[P] = {};  // of every channel; the head's is their sum
  };

  /// The projected columns of one group of a sequence, and their gradients.
  RowsView<const float> projected(std::size_t sequence, std::int64_t group) const {
    return {a_.projected.row(a_.sequences[sequence].first_row) + group * columns_.width, a_.projected.stride};
  }
  RowsView<float> d_projected(std::size_t sequence, std::int64_t group) const {
    return {a_.d_projected.row(a_.sequences[sequence].first_row) + group * columns_.width,
            a_.d_projected.stride};
  }
  /// The shares of a sequence's heads, (rows, heads, dB | dC).
  RowsView<float> shares(std::size_t sequence) {
    return {shares_.data() + first_share_[sequence], heads_ * 2 * N};
  }

  /// dz, dx before the convolution, d_dt, and every head's share of dB and dC.
  void recurrence() {
    const auto skip = standard_mamba2_skip(a_.shape, heads_, a_.local[StandardMamba2Local::skip]);
    std::vector<SsdSequence> work;
    std::vector<SsdGradient> gradients;
    for (std::size_t i = 0; i < items_.size(); ++i) {
      const auto [sequence, head] = items_[i];
      const std::int64_t rows = a_.sequences[sequence].rows, group = head / queries_, query = head % queries_;
      const std::int64_t width = columns_.width - columns_.x;
      const float* u = a_.saved + saved_[sequence].u + group * width;
      const RowsView<float> d = d_projected(sequence, group), share = shares(sequence);
      float* dx = d.data + columns_.x + query * P;
      work.push_back(
          standard_mamba2_sequence<Shape>(a_.shape, rows, head, u, groups_ * width, a_.local, skip.data()));
      gradients.push_back(
          {.chunk_states = a_.saved + saved_[sequence].states + head * ssd_chunks(P, rows) * form.size(),
           .dy = dx,
           .dy_stride = d.stride,
           .dq = share.data + head * 2 * N + N,
           .dk = share.data + head * 2 * N,
           .d_key_stride = share.stride,
           .dv = dx,
           .d_step = d.data + columns_.dt + query,
           .d_stride = d.stride,
           .d_rate = &d_heads_[i].rate,
           .d_skip = d_heads_[i].skip});
    }
    const auto prepare = [&](std::int64_t index, std::int64_t first, std::int64_t count) {
      const auto [sequence, head] = items_[static_cast<std::size_t>(index)];
      const std::int64_t group = head / queries_, query = head % queries_;
      const std::int64_t out_column = (a_.groups[static_cast<std::size_t>(group)] * queries_ + query) * P;
      const RowsView<const float> in = projected(sequence, group);
      const RowsView<float> d = d_projected(sequence, group);
      for (std::int64_t t = first; t < first + count; ++t) {
        const float* z = in.row(t) + query * P;
        const float* y = a_.saved + saved_[sequence].y + (t * heads_ + head) * P;
        const float* d_out = a_.d_out.row(a_.sequences[sequence].first_row + t) + out_column;
        float *dz = d.row(t) + query * P, *dy = d.row(t) + columns_.x + query * P;
        for (int c = 0; c < P; c += simd::width) {
          const GateValue gate = gate_value<Gate::silu>(simd::load(z + c));
          const simd::Vec upstream = simd::load(d_out + c);
          simd::store(dz + c, upstream * simd::load(y + c) * gate.slope);
          simd::store(dy + c, upstream * gate.value);
        }
      }
    };
    const auto finish = [&](std::int64_t index, std::int64_t first, std::int64_t count) {
      const auto i = static_cast<std::size_t>(index);
      const auto [sequence, head] = items_[i];
      const std::int64_t dt = columns_.dt + head % queries_;
      const RowsView<const float> in = projected(sequence, head / queries_);
      const RowsView<float> d = d_projected(sequence, head / queries_);
      for (std::int64_t t = first; t < first + count; ++t) {
        d.row(t)[dt] *= step_slope(in.row(t)[dt] + a_.local[StandardMamba2Local::dt_bias][head]);
        d_heads_[i].dt_bias += static_cast<double>(d.row(t)[dt]);
      }
    };
    ssd_backward<form>(work, gradients, prepare, finish);
  }

  /// The derivative of softplus(x), kept within limits, in x.
  float step_slope(float x) const {
    const auto step = static_cast<double>(softplus(x));
    const StepLimits& limits = a_.shape.step_limits;
    return step < limits.least || step > limits.most ? 0.0f : sigmoid(x);
  }

  /// dx, dB and dC of the projection, and the gradients of the convolution's parameters.
  void convolution() {
    const StandardMamba2Conv<Shape> conv(a_);
    const std::int64_t blocks = conv.blocks();
    std::vector<float> gradients(static_cast<std::size_t>(conv.size()));
    parallel_for(groups_ * blocks, [&](std::int64_t i) {
      const std::int64_t group = i / blocks, first = i % blocks * conv_channels;
      for (std::size_t s = 0; s < a_.sequences.size(); ++s) {
        const RowsView<const float> in = projected(s, group);
        const ConvInput input =
            conv.input(group, first, a_.sequences[s].rows, in.data + columns_.x, in.stride);
        add_shares(s, group, first, input.channels);
        const RowsView<float> d = d_projected(s, group);
        conv_silu_backward<Shape.d_conv>(input, d.data + columns_.x + first, d.stride,
                                         conv.gradient_of(input.weight, gradients.data()),
                                         conv.gradient_of(input.bias, gradients.data()));
      }
    });
    conv.add_gradients(gradients.data(), a_.d_local);
  }

  /// dB and dC before the convolution, those that are among channels [first, first + count) of the group.
  void add_shares(std::size_t sequence, std::int64_t group, std::int64_t first, std::int64_t count) {
    const std::int64_t keys = columns_.b - columns_.x;  // the first channel of B
    const RowsView<float> d = d_projected(sequence, group), share = shares(sequence);
    for (std::int64_t t = 0; t < a_.sequences[sequence].rows; ++t)
      for (std::int64_t c = std::max(first, keys); c < first + count; c += simd::width) {
        simd::Vec sum = simd::zero();
        for (std::int64_t head = group * queries_; head < (group + 1) * queries_; ++head)
          sum += simd::load(share.row(t) + head * 2 * N + c - keys);
        simd::store(d.row(t) + columns_.x + c, sum);
      }
  }

  /// The gradients of dt_bias, A_log and D.
  void add_head_gradients() const {
    for (std::int64_t head = 0; head < heads_; ++head) {
      double dt_bias = 0, d_rate = 0, skip = 0;
      for (std::size_t i = static_cast<std::size_t>(head); i < items_.size();
           i += static_cast<std::size_t>(heads_)) {
        dt_bias += d_heads_[i].dt_bias;
        d_rate += d_heads_[i].rate;
        for (const float channel : d_heads_[i].skip) skip += static_cast<double>(channel);
      }
      const auto add = [&](std::size_t parameter, double gradient) {
        a_.d_local[parameter][head] += static_cast<float>(gradient);
      };
      // a = -exp(A_log) is its own derivative
      const double rate = -std::exp(static_cast<double>(a_.local[StandardMamba2Local::a_log][head]));
      add(StandardMamba2Local::dt_bias, dt_bias);
      add(StandardMamba2Local::a_log, rate * d_rate);
      add(StandardMamba2Local::skip, skip);
    }
  }

  const BackwardArguments& a_;
  StandardMamba2Columns<Shape> columns_;
  std::int64_t groups_, queries_, heads_;
  std::vector<StandardMamba2Saved<Shape>> saved_;
  std::vector<SsdItem> items_;
  std::vector<OfHead> d_heads_;  // per item
  std::vector<std::int64_t> first_share_;
  AlignedBuffer<float> shares_;  // (rows, heads, dB | dC)
};

}  // namespace detail
}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_STANDARD_MAMBA2_BACKWARD_HPP
