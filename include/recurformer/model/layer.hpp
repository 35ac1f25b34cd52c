#ifndef RECURFORMER_MODEL_LAYER_HPP
#define RECURFORMER_MODEL_LAYER_HPP

// One pre-norm Llama block:
//   h = rms_norm(x);  u = heads(h);  x += W_O u;  h' = rms_norm(x);  x += W_down(silu(W_gate h') ∘ W_up h')
// or, with shape.heads_norm, x += W_O rms_norm(u),
// for inference (with a cache, in place) and for training (with a tape). rf::Layer<Spec> is the same for a
// single layer of a user's own program.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "recurformer/core/memory.hpp"
#include "recurformer/core/rows_view.hpp"
#include "recurformer/cpu/rms_norm.hpp"
#include "recurformer/cpu/swiglu.hpp"
#include "recurformer/model/backend.hpp"
#include "recurformer/model/heads.hpp"

namespace rf {

/// Buffers that all layers of an inference call share.
struct LayerScratch {
  HeadsTape heads;
  FloatBuffer h;        // (rows, d_model), then blocks of it
  FloatBuffer gate_up;  // (block, 2 · d_ff)
  FloatBuffer act;      // (block, d_ff)
};

namespace detail {

/// Every run of a layer.
inline constexpr auto all_runs = [](std::size_t) { return true; };

}  // namespace detail

/// Rows of d_model floats through one layer, in place.
template <class Widths, class Set, class P>
void forward_layer(const LayerWeights<Set, P>& weights, const LayerShape& shape, const ForwardCall& call,
                   std::size_t layer, RowsView<float> x, LayerScratch& scratch) {
  const std::int64_t d = shape.d_model, rows = call.rows;
  scratch.h.reserve(static_cast<std::size_t>(rows * d));
  const RowsView<const float> in{x.data, x.stride};
  cpu::rms_norm(in, weights.mixer_norm.data(), shape.norm_epsilon, rows, d, scratch.h.data());
  forward_heads<Widths>(weights, shape, call, layer, scratch.h.data(), scratch.heads, false,
                        detail::all_runs);
  const std::int64_t w = shape.heads_width();
  float* const u = scratch.heads.out.data();
  if (shape.heads_norm) cpu::rms_norm(u, weights.heads_norm.data(), shape.norm_epsilon, rows, w, u);
  weights.output.forward(u, w, rows, x.data, x.stride, cpu::Accumulate::yes);
  if (shape.d_ff == 0) return;

  constexpr std::int64_t block = 512;  // rows whose gate and up stay in the cache between the two products
  const std::int64_t f = shape.d_ff, most = std::min(rows, block);
  scratch.gate_up.reserve(static_cast<std::size_t>(most * 2 * f));
  scratch.act.reserve(static_cast<std::size_t>(most * f));
  for (std::int64_t first = 0; first < rows; first += block) {
    const std::int64_t n = std::min(block, rows - first);
    float* part = x.row(first);
    cpu::rms_norm(RowsView<const float>{part, x.stride}, weights.mlp_norm.data(), shape.norm_epsilon, n, d,
                  scratch.h.data());
    weights.gate_up.forward(scratch.h.data(), d, n, scratch.gate_up.data(), 2 * f);
    cpu::swiglu(scratch.gate_up.data(), scratch.gate_up.data() + f, 2 * f, n, f, scratch.act.data());
    weights.down.forward(scratch.act.data(), f, n, part, x.stride, cpu::Accumulate::yes);
  }
}

/// What backward of one layer reads beside the layer's input.
struct LayerTape {
  FloatBuffer scale;  // reciprocal rms of the input (rows)
  FloatBuffer h;      // normalised input (rows, d_model)
  HeadsTape heads;
  FloatBuffer u;  // normalised outputs of the heads (rows, heads · d_head); unused without heads_norm
  FloatBuffer u_scale;
  FloatBuffer x_mid;  // after the heads

  /// What W_O gets.
  const float* output_input(const LayerShape& shape) const {
    return shape.heads_norm ? u.data() : heads.out.data();
  }
  FloatBuffer mid_scale;
  FloatBuffer h_mid;
  FloatBuffer gate_up;  // (rows, 2 · d_ff)
  FloatBuffer act;      // (rows, d_ff)
};

/// The layer's input x (rows, d_model) -> all that backward_layer reads. The layer's own output is not made:
/// see recorded_output.
template <class Widths, class Set, class P>
void record_layer(const LayerWeights<Set, P>& weights, const LayerShape& shape, const ForwardCall& call,
                  std::size_t layer, const float* x, LayerTape& tape) {
  const std::int64_t d = shape.d_model, f = shape.d_ff, w = shape.heads_width(), rows = call.rows;
  const auto count = static_cast<std::size_t>(rows * d);
  tape.h.reserve(count);
  tape.scale.reserve(static_cast<std::size_t>(rows));
  cpu::rms_norm(x, weights.mixer_norm.data(), shape.norm_epsilon, rows, d, tape.h.data(), tape.scale.data());
  forward_heads<Widths>(weights, shape, call, layer, tape.h.data(), tape.heads, true, detail::all_runs);
  if (shape.heads_norm) {
    tape.u.reserve(static_cast<std::size_t>(rows * w));
    tape.u_scale.reserve(static_cast<std::size_t>(rows));
    cpu::rms_norm(tape.heads.out.data(), weights.heads_norm.data(), shape.norm_epsilon, rows, w,
                  tape.u.data(), tape.u_scale.data());
  }
  if (f == 0) return;

  tape.x_mid.reserve(count);
  tape.h_mid.reserve(count);
  tape.mid_scale.reserve(static_cast<std::size_t>(rows));
  tape.gate_up.reserve(static_cast<std::size_t>(rows * 2 * f));
  tape.act.reserve(static_cast<std::size_t>(rows * f));
  std::copy_n(x, count, tape.x_mid.data());
  weights.output.forward(tape.output_input(shape), w, rows, tape.x_mid.data(), d, cpu::Accumulate::yes);
  cpu::rms_norm(tape.x_mid.data(), weights.mlp_norm.data(), shape.norm_epsilon, rows, d, tape.h_mid.data(),
                tape.mid_scale.data());
  weights.gate_up.forward(tape.h_mid.data(), d, rows, tape.gate_up.data(), 2 * f);
  cpu::swiglu(tape.gate_up.data(), tape.gate_up.data() + f, 2 * f, rows, f, tape.act.data());
}

/// The output (rows, d_model) of a layer with this input x and its tape.
template <class Set, class P>
void recorded_output(const LayerWeights<Set, P>& weights, const LayerShape& shape, std::int64_t rows,
                     const float* x, const LayerTape& tape, float* out) {
  const std::int64_t d = shape.d_model, f = shape.d_ff, w = shape.heads_width();
  std::copy_n(f > 0 ? tape.x_mid.data() : x, rows * d, out);
  if (f > 0)
    weights.down.forward(tape.act.data(), f, rows, out, d, cpu::Accumulate::yes);
  else
    weights.output.forward(tape.output_input(shape), w, rows, out, d, cpu::Accumulate::yes);
}

/// Buffers that all layers of a backward pass share.
struct BackwardScratch {
  FloatBuffer dh, d_out, d_act, d_gate_up, d_projected;
};

/// x (rows, d_model): the layer's input. dx (rows, d_model): the gradient at the layer's output on entry, at
/// its input on return. Adds to `gradients`.
template <class Widths, class Set, class P>
void backward_layer(const LayerWeights<Set, P>& weights,
                    LayerWeights<typename detail::FloatKinds<Set>::type, Fp32>& gradients,
                    const LayerShape& shape, const ForwardCall& call, const float* x, const LayerTape& tape,
                    float* dx, BackwardScratch& scratch) {
  const std::int64_t d = shape.d_model, f = shape.d_ff, w = shape.heads_width(), rows = call.rows;
  scratch.dh.reserve(static_cast<std::size_t>(rows * d));
  if (f > 0) {
    scratch.d_act.reserve(static_cast<std::size_t>(rows * f));
    scratch.d_gate_up.reserve(static_cast<std::size_t>(rows * 2 * f));
    weights.down.backward(dx, d, rows, scratch.d_act.data(), f);
    gradients.down.add_gradient(dx, d, tape.act.data(), f, rows);
    cpu::swiglu_backward(tape.gate_up.data(), tape.gate_up.data() + f, 2 * f, scratch.d_act.data(), rows, f,
                         scratch.d_gate_up.data(), scratch.d_gate_up.data() + f);
    weights.gate_up.backward(scratch.d_gate_up.data(), 2 * f, rows, scratch.dh.data(), d);
    gradients.gate_up.add_gradient(scratch.d_gate_up.data(), 2 * f, tape.h_mid.data(), d, rows);
    cpu::rms_norm_backward(tape.x_mid.data(), weights.mlp_norm.data(), tape.mid_scale.data(),
                           scratch.dh.data(), rows, d, dx, cpu::Accumulate::yes, gradients.mlp_norm.data());
  }
  scratch.d_out.reserve(static_cast<std::size_t>(rows * w));
  weights.output.backward(dx, d, rows, scratch.d_out.data(), w);
  gradients.output.add_gradient(dx, d, tape.output_input(shape), w, rows);
  if (shape.heads_norm)
    cpu::rms_norm_backward(tape.heads.out.data(), weights.heads_norm.data(), tape.u_scale.data(),
                           scratch.d_out.data(), rows, w, scratch.d_out.data(), cpu::Accumulate::no,
                           gradients.heads_norm.data());
  backward_heads<Widths>(weights, gradients, shape, call, tape.h.data(), tape.heads, scratch.d_out.data(),
                         scratch.dh.data(), scratch.d_projected, detail::all_runs);
  cpu::rms_norm_backward(x, weights.mixer_norm.data(), tape.scale.data(), scratch.dh.data(), rows, d, dx,
                         cpu::Accumulate::yes, gradients.mixer_norm.data());
}

/// One layer of a user's own program, instantiated for exactly the heads its spec asks for.
template <LayerSpec Spec>
class Layer<Spec, Cpu> : public LayerParameters<Spec> {
 public:
  using typename LayerParameters<Spec>::Weights;
  using Widths = std::integer_sequence<int, Spec::shape.d_head>;

  explicit Layer(Weights weights)
      : weights_(std::move(weights)),
        rope_(Spec::shape.d_head, Spec::shape.rope_base, Spec::shape.rope_scaling) {}

  Weights& weights() { return weights_; }
  /// An empty cache for this layer. All of it comes from `memory`, which must outlive it.
  Cache make_cache(CacheOptions options = {}, std::pmr::memory_resource* memory = default_memory()) const {
    return Cache(CacheLayout{{layer_cache_layout(weights_, Spec::shape)}}, options, memory);
  }

  /// x (rows, d_model), the next `rows` tokens of one sequence, through the layer in place; the cache
  /// advances. Rows may be apart (stride 0 >= d_model) but not their elements (stride 1 = 1).
  void prefill(TensorView<float, Dims<2>> x, Cache& cache, std::int64_t sequence = 0) {
    constexpr std::int64_t d = Spec::shape.d_model;
    const std::int64_t rows = x.extent(0), position = cache.length(sequence);
    check(x.extent(1) == d, "Layer::prefill got rows of ", x.extent(1), " elements; it needs d_model = ", d);
    check((d == 1 || x.stride(1) == 1) && (rows <= 1 || x.stride(0) >= d), "Layer::prefill got strides ",
          shape_text(x.strides()), "; it needs rows at least d_model = ", d, " apart, of adjacent elements");
    rope_.reserve(position + rows);
    cache.reserve(sequence, rows);
    const SequenceRows tokens{.first_row = 0, .rows = rows, .position = position};
    const ForwardCall call{.rows = rows,
                           .sequences = {&tokens, 1},
                           .rope = &rope_,
                           .cache = &cache,
                           .cache_sequence = {&sequence, 1}};
    forward_layer<Widths>(weights_, Spec::shape, call, 0, {x.data(), x.stride(0)}, scratch_);
    cache.advance(sequence, rows);
  }
  /// prefill() of one or a few tokens: the kernels choose their decode paths by the number of rows.
  void decode(TensorView<float, Dims<2>> x, Cache& cache, std::int64_t sequence = 0) {
    prefill(x, cache, sequence);
  }

 private:
  Weights weights_;
  cpu::RopeTable rope_;
  LayerScratch scratch_;
};

}  // namespace rf

#endif  // RECURFORMER_MODEL_LAYER_HPP
