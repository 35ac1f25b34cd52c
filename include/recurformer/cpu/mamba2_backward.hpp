#ifndef RECURFORMER_CPU_MAMBA2_BACKWARD_HPP
#define RECURFORMER_CPU_MAMBA2_BACKWARD_HPP

// Mamba2's gradients on the CPU: through gate and output norm, then through the SSD recurrence
// (cpu/ssd_backward.hpp), then through rotary positions and softplus, a chunk at a time from the last one to
// the first. With n = y / rms(y), w the norm's gain and g = d_out ∘ gate(z):
//
//   dz = d_out ∘ w n ∘ gate'(z),   dw = Σ g ∘ n,   dy = (w g - n mean(w g ∘ n)) / rms(y)
//
// dy waits in the columns of dq. Gradients of local parameters are collected for every sequence on its own,
// then added in the order of the sequences.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "recurformer/core/parallel.hpp"
#include "recurformer/cpu/gate.hpp"
#include "recurformer/cpu/mamba2_layout.hpp"
#include "recurformer/cpu/rope.hpp"
#include "recurformer/cpu/ssd_backward.hpp"
#include "recurformer/tile/simd.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {
namespace detail {

/// One head of one token: dz and dy from d_out, and the norm's dw added to d_gain.
template <SsdPolicy Policy, int P>
void mamba2_backward_head(const float* y, const float* z, const float* gain, const float* d_out, float* dz,
                          float* dy, float* d_gain) {
  float scale = 1.0f;
  if constexpr (Policy.norm) scale = mamba2_inverse_rms<P>(y);
  simd::Vec along = simd::zero();  // Σ w g ∘ n
  for (int c = 0; c < P; c += simd::width) {
    const GateValue gate = gate_value<Policy.gate>(simd::load(z + c));
    const simd::Vec upstream = simd::load(d_out + c), normed = scale * simd::load(y + c);
    const simd::Vec g = upstream * gate.value;
    if constexpr (Policy.norm) {
      const simd::Vec w = simd::load(gain + c);
      simd::store(dz + c, upstream * w * normed * gate.slope);
      simd::store(d_gain + c, simd::load(d_gain + c) + g * normed);
      simd::store(dy + c, w * g);
      along += w * g * normed;
    } else {
      simd::store(dz + c, upstream * normed * gate.slope);
      simd::store(dy + c, g);
    }
  }
  if constexpr (Policy.norm) {
    const float mean = simd::reduce_add(along) / static_cast<float>(P);
    for (int c = 0; c < P; c += simd::width)
      simd::store(dy + c, scale * (simd::load(dy + c) - mean * scale * simd::load(y + c)));
  }
}

/// Gradients of the local parameters from one sequence.
struct Mamba2LocalGradients {
  double dt_bias = 0, rate = 0;
  std::vector<double> c0, c1;     // (queries)
  std::vector<float> skip, gain;  // (queries, d_head)

  explicit Mamba2LocalGradients(const HeadShape& shape)
      : c0(static_cast<std::size_t>(shape.queries_per_group)),
        c1(c0.size()),
        skip(static_cast<std::size_t>(shape.group_width())),
        gain(skip.size()) {}
};

/// d_local += the sum over the items, sequence after sequence. Items of one group are `groups` apart.
template <SsdPolicy Policy>
void mamba2_add_local_gradients(const BackwardArguments& a, std::span<const Mamba2LocalGradients> items) {
  const std::size_t groups = a.groups.size();
  const auto queries = static_cast<std::size_t>(a.shape.queries_per_group);
  for (std::size_t g = 0; g < groups; ++g) {
    const auto add = [&](std::size_t parameter, std::size_t size, auto&& gradient) {
      for (std::size_t i = 0; i < size; ++i) {
        double sum = 0;
        for (std::size_t item = g; item < items.size(); item += groups)
          sum += static_cast<double>(gradient(items[item], i));
        a.d_local[parameter][g * size + i] += static_cast<float>(sum);
      }
    };
    using Item = const Mamba2LocalGradients&;
    // a = -exp(A_log) is its own derivative
    const double rate = -std::exp(static_cast<double>(a.local[Mamba2Local::a_log][g]));
    const std::size_t width = queries * static_cast<std::size_t>(a.shape.d_head);
    add(Mamba2Local::dt_bias, 1, [](Item item, std::size_t) { return item.dt_bias; });
    add(Mamba2Local::a_log, 1, [&](Item item, std::size_t) { return rate * item.rate; });
    add(Mamba2Local::c0, queries, [](Item item, std::size_t i) { return item.c0[i]; });
    add(Mamba2Local::c1, queries, [](Item item, std::size_t i) { return item.c1[i]; });
    add(Mamba2Local::skip, width, [](Item item, std::size_t i) { return item.skip[i]; });
    if constexpr (Policy.norm)
      add(Mamba2Local::norm_gain, width, [](Item item, std::size_t i) { return item.gain[i]; });
  }
}

template <SsdPolicy Policy, int P>
void mamba2_backward(const BackwardArguments& a) {
  const Mamba2Columns columns(a.shape);
  const int queries = a.shape.queries_per_group;
  const auto items = ssd_items(a.sequences, static_cast<std::int64_t>(a.groups.size()));
  const auto saved = mamba2_saved(a.shape, a.sequences, items);
  const std::int64_t stride = a.d_projected.stride;
  const auto d_row = [&](std::size_t item) {
    return a.d_projected.row(a.sequences[items[item].sequence].first_row) + items[item].state * columns.width;
  };
  std::vector<Mamba2LocalGradients> d_local(items.size(), Mamba2LocalGradients(a.shape));
  std::vector<SsdSequence> work;
  std::vector<SsdGradient> gradients;
  work.reserve(items.size());
  gradients.reserve(items.size());
  for (std::size_t i = 0; i < items.size(); ++i) {
    work.push_back(
        mamba2_sequence(a.shape, a.sequences[items[i].sequence], items[i].state, a.projected, a.local));
    float* d = d_row(i);
    gradients.push_back({.chunk_states = a.saved + saved[i].states,
                         .dy = d,
                         .dy_stride = stride,
                         .dq = d,
                         .dk = d + columns.k,
                         .d_key_stride = stride,
                         .dv = d + columns.v,
                         .d_step = d + columns.step,
                         .d_stride = stride,
                         .d_rate = &d_local[i].rate,
                         .d_c0 = d_local[i].c0.data(),
                         .d_c1 = d_local[i].c1.data(),
                         .d_skip = d_local[i].skip.data()});
  }
  const auto prepare = [&](std::int64_t index, std::int64_t first, std::int64_t count) {
    const auto i = static_cast<std::size_t>(index);
    const std::int64_t group = items[i].state, first_row = a.sequences[items[i].sequence].first_row;
    const std::int64_t out_column = a.groups[static_cast<std::size_t>(group)] * a.shape.group_width();
    const float* gain =
        Policy.norm ? a.local[Mamba2Local::norm_gain] + group * a.shape.group_width() : nullptr;
    for (std::int64_t t = first; t < first + count; ++t)
      for (int h = 0; h < queries; ++h)
        mamba2_backward_head<Policy, P>(
            a.saved + saved[i].y + t * a.shape.group_width() + h * P,
            work[i].q + t * work[i].stride + columns.z + h * P, Policy.norm ? gain + h * P : nullptr,
            a.d_out.row(first_row + t) + out_column + h * P, d_row(i) + t * stride + columns.z + h * P,
            d_row(i) + t * stride + h * P, d_local[i].gain.data() + h * P);
  };
  const auto finish = [&](std::int64_t index, std::int64_t first, std::int64_t count) {
    const auto i = static_cast<std::size_t>(index);
    for (std::int64_t t = first; t < first + count; ++t) {
      float* d = d_row(i) + t * stride;
      if constexpr (Policy.rope) rope_rotate_back(*a.rope, t, d, queries + 1);  // dq and dk
      // forward left Δ = softplus(x) where x was: d softplus(x)/dx = sigmoid(x) = 1 - e^-Δ
      d[columns.step] *= -std::expm1(-work[i].step[t * work[i].stride]);
      d_local[i].dt_bias += static_cast<double>(d[columns.step]);
    }
  };
  ssd_backward<mamba2_form(P)>(work, gradients, prepare, finish);
  mamba2_add_local_gradients<Policy>(a, d_local);
}

}  // namespace detail
}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_MAMBA2_BACKWARD_HPP
