#ifndef RECURFORMER_CPU_MAMBA_BACKWARD_HPP
#define RECURFORMER_CPU_MAMBA_BACKWARD_HPP

// Backward of Mamba heads: whole sequences, scan_chunk tokens at a time from the last chunk to the first.
// Each chunk computes its inputs again (mamba_block.hpp), then
//
//   dy = d_out ∘ gate(z)                     du, dΔ, dB, dC, dA, dD, y  from the scan's backward
//   dz = d_out ∘ y ∘ gate'(z)                dr = dΔ ∘ sigmoid(r),  dδ = W_Δᵀ dr
//   du += W_xᵀ (dδ, dB, dC)                  dp = du ∘ act'(p)
//   dx = dp convolved with the reversed taps, for which the first d_conv - 1 rows of dp of the next chunk are
//   kept
//
// One iteration owns one head of a pack of sequences and sums its parameters' gradients there, in the
// kernel's layout; the packs, which depend on the data only, are then added in order.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "recurformer/cpu/mamba_forward.hpp"
#include "recurformer/cpu/mamba_gradients.hpp"
#include "recurformer/cpu/selective_scan_backward.hpp"

namespace rf::cpu {
inline namespace RECURFORMER_ISA {
namespace detail {

template <class Mixer>
class MambaBackward {
 public:
  explicit MambaBackward(const BackwardArguments& arguments)
      : arguments_(arguments),
        size_(arguments.shape),
        queries_(arguments.shape.queries_per_group),
        heads_(static_cast<std::int64_t>(arguments.groups.size()) * queries_),
        packs_(arguments.sequences, rows_per_pack) {}

  void run() const {
    const std::int64_t packs = packs_.count(), partial = MambaGradients<Mixer>::floats(size_);
    std::vector<float> partials(static_cast<std::size_t>(packs * heads_ * partial));
    parallel_for(packs * heads_, [&](std::int64_t i) {
      pack(i / heads_, i % heads_, MambaGradients<Mixer>(size_, partials.data() + i * partial));
    });
    parallel_for(heads_, [&](std::int64_t head) {
      const MambaGradients<Mixer> sum(size_, partials.data() + head * partial);
      for (std::int64_t p = 1; p < packs; ++p) {
        const float* other = partials.data() + (p * heads_ + head) * partial;
        for (std::int64_t i = 0; i < partial; i += simd::width)
          simd::store(sum.all + i, simd::load(sum.all + i) + simd::load(other + i));
      }
      if (packs > 0) sum.add_to(size_, arguments_.local, arguments_.d_local, head);
    });
  }

 private:
  /// Sequences of one iteration hold at least so many rows, so that adding the partial sums costs little.
  static constexpr std::int64_t rows_per_pack = 512;

  /// Working memory of one chunk.
  struct Chunk {
    MambaBlock inputs;
    float* d_y;             // (scan_chunk, d_head)
    float* d_r;             // (scan_chunk, d_head); first dΔ
    float* d_p;             // (scan_chunk + taps - 1, d_head); first du; the last rows are the next chunk's
    float* d_p_next;        // (taps - 1, d_head)
    float* d_coefficients;  // (scan_chunk, stride)
    float* d_state;         // (states, d_head)

    static std::int64_t floats(const MambaSizes<Mixer>& size) {
      return (3 * (size.taps - 1) + 9 * scan_chunk + size.states) * size.d_head +
             2 * scan_chunk * size.stride;
    }
    Chunk(const MambaSizes<Mixer>& size, Scratch& scratch) {
      const auto rows = [&](std::int64_t count) { return scratch.take(count * size.d_head); };
      inputs.window = rows(size.taps - 1 + scan_chunk);
      inputs.u = rows(scan_chunk);
      inputs.p = Mixer::policy.activation == Activation::none ? inputs.u : rows(scan_chunk);
      inputs.coefficients = scratch.take(scan_chunk * size.stride);
      inputs.r = rows(scan_chunk);
      inputs.delta = rows(scan_chunk);
      inputs.y = rows(scan_chunk);
      d_y = rows(scan_chunk);
      d_r = rows(scan_chunk);
      d_p = rows(scan_chunk + size.taps - 1);
      d_p_next = rows(size.taps - 1);
      d_coefficients = scratch.take(scan_chunk * size.stride);
      d_state = rows(size.states);
      // The padding of a row is never written, but read by whole vectors.
      std::fill_n(d_coefficients, scan_chunk * size.stride, 0.0f);
    }
  };

  /// One head of one sequence.
  struct Place {
    RowsView<const float> x, z, d_out;
    RowsView<float> d_x, d_z;
    const float* saved;
  };

  void pack(std::int64_t index, std::int64_t head, const MambaGradients<Mixer>& gradients) const {
    const auto [begin, end] = packs_[index];
    Scratch scratch(MambaHead<Mixer>::scratch(size_) + Chunk::floats(size_));
    const MambaHead<Mixer> parameters(arguments_.shape, arguments_.local, head, scratch);
    const Chunk memory(size_, scratch);
    for (std::size_t s = begin; s < end; ++s) {
      const std::int64_t rows = arguments_.sequences[s].rows, chunks = scan_chunks(rows);
      std::fill_n(memory.d_state, size_.states * size_.d_head, 0.0f);
      std::fill_n(memory.d_p_next, (size_.taps - 1) * size_.d_head, 0.0f);
      const Place at = place(s, head);
      for (std::int64_t c = chunks - 1; c >= 0; --c)
        chunk(parameters, at, memory, c, std::min(scan_chunk, rows - c * scan_chunk), gradients);
    }
  }

  void chunk(const MambaHead<Mixer>& head, const Place& at, const Chunk& memory, std::int64_t index,
             std::int64_t rows, const MambaGradients<Mixer>& gradients) const {
    const std::int64_t d = size_.d_head, begin = index * scan_chunk, past = size_.taps - 1;
    for (std::int64_t i = 0; i < past + rows; ++i) {
      float* row = memory.inputs.window + i * d;
      if (begin + i >= past)
        std::copy_n(at.x.row(begin + i - past), d, row);
      else
        std::fill_n(row, d, 0.0f);
    }
    mamba_inputs(head, memory.inputs, rows, 0, d);
    for (std::int64_t t = 0; t < rows; ++t)
      for (std::int64_t c = 0; c < d; c += simd::width) {
        const simd::Vec d_out = simd::load(at.d_out.row(begin + t) + c);
        const GateValue gate = gate_value<Mixer::policy.gate>(simd::load(at.z.row(begin + t) + c));
        simd::store(memory.d_y + t * d + c, d_out * gate.value);
        simd::store(at.d_z.row(begin + t) + c, d_out * gate.slope);
      }
    scan(head, memory, at.saved + index * size_.states * d, rows, gradients);
    for (std::int64_t t = 0; t < rows; ++t)
      for (std::int64_t c = 0; c < d; c += simd::width) {
        float* d_z = at.d_z.row(begin + t) + c;
        simd::store(d_z, simd::load(d_z) * simd::load(memory.inputs.y + t * d + c));
      }
    inputs_backward(head, memory, rows, gradients);
    std::copy_n(memory.d_p_next, past * d, memory.d_p + rows * d);
    gradients.add_convolution(memory.inputs.window, memory.d_p, rows);
    for (std::int64_t t = 0; t < rows; ++t)
      reversed_convolution<static_cast<int>(MambaSizes<Mixer>::taps)>(memory.d_p + t * d, d, head.conv_weight,
                                                                      at.d_x.row(begin + t));
    std::copy_n(memory.d_p, past * d, memory.d_p_next);
  }

  /// y, du (into d_p), dΔ (into d_r), dB and dC.
  void scan(const MambaHead<Mixer>& head, const Chunk& memory, const float* state, std::int64_t rows,
            const MambaGradients<Mixer>& gradients) const {
    const std::int64_t d = size_.d_head, stride = size_.stride;
    const float* b = memory.inputs.coefficients + size_.rank;
    float* d_b = memory.d_coefficients + size_.rank;
    scan_chunk_backward<static_cast<int>(MambaSizes<Mixer>::states)>({.rows = rows,
                                                                      .channels = d,
                                                                      .x = {memory.inputs.u, d},
                                                                      .delta = {memory.inputs.delta, d},
                                                                      .b = {b, stride},
                                                                      .c = {b + size_.states, stride},
                                                                      .a = head.a,
                                                                      .skip = head.skip,
                                                                      .state = state,
                                                                      .y = {memory.inputs.y, d},
                                                                      .d_y = {memory.d_y, d},
                                                                      .d_x = {memory.d_p, d},
                                                                      .d_delta = {memory.d_r, d},
                                                                      .d_b = {d_b, stride},
                                                                      .d_c = {d_b + size_.states, stride},
                                                                      .d_state = memory.d_state,
                                                                      .d_a = gradients.a,
                                                                      .d_skip = gradients.skip});
  }

  /// From du, dΔ, dB and dC to dp.
  void inputs_backward(const MambaHead<Mixer>& head, const Chunk& memory, std::int64_t rows,
                       const MambaGradients<Mixer>& gradients) const {
    const std::int64_t d = size_.d_head;
    for (std::int64_t i = 0; i < rows * d; i += simd::width)
      simd::store(memory.d_r + i,
                  simd::load(memory.d_r + i) * simd::sigmoid(simd::load(memory.inputs.r + i)));
    gradients.add_dt(memory.inputs.coefficients, memory.d_r, rows);
    transposed_dt(head, memory.d_r, rows, memory.d_coefficients);
    gradients.add_x_proj(memory.inputs.u, memory.d_coefficients, rows);
    transposed_x_proj(head, memory.d_coefficients, rows, memory.d_p);
    if constexpr (Mixer::policy.activation == Activation::silu)
      for (std::int64_t i = 0; i < rows * d; i += simd::width)
        simd::store(memory.d_p + i, simd::load(memory.d_p + i) * silu_slope(simd::load(memory.inputs.p + i)));
  }

  Place place(std::size_t s, std::int64_t head) const {
    const BackwardArguments& a = arguments_;
    const std::int64_t d = size_.d_head, group = head / queries_, query = head % queries_;
    const SequenceRows& rows = a.sequences[s];
    const std::int64_t x = (group * 2 * queries_ + query) * d, z = x + queries_ * d;
    const std::int64_t out = (a.groups[static_cast<std::size_t>(group)] * queries_ + query) * d;
    const float* projected = a.projected.row(rows.first_row);
    float* d_projected = a.d_projected.row(rows.first_row);
    return {.x = {projected + x, a.projected.stride},
            .z = {projected + z, a.projected.stride},
            .d_out = {a.d_out.row(rows.first_row) + out, a.d_out.stride},
            .d_x = {d_projected + x, a.d_projected.stride},
            .d_z = {d_projected + z, a.d_projected.stride},
            .saved = a.saved + saved_offset(a.sequences, s, heads_, head) * size_.states * d};
  }

  const BackwardArguments& arguments_;
  MambaSizes<Mixer> size_;
  std::int64_t queries_, heads_;
  SequencePacks packs_;
};

}  // namespace detail
}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_MAMBA_BACKWARD_HPP
