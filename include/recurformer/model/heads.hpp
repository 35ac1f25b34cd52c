#ifndef RECURFORMER_MODEL_HEADS_HPP
#define RECURFORMER_MODEL_HEADS_HPP

// The heterogeneous heads of one layer: h -> u. For each run, one fused projection of h for all its groups,
// then the mixer's kernel, which writes its heads' columns of u. Nothing here knows a mixer; the runs do.

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "recurformer/cpu/aligned_buffer.hpp"
#include "recurformer/cpu/column_sums.hpp"
#include "recurformer/cpu/mixer_kernel.hpp"
#include "recurformer/model/cache.hpp"
#include "recurformer/model/linear_products.hpp"
#include "recurformer/model/weights.hpp"

namespace rf {

using FloatBuffer = cpu::AlignedBuffer<float>;

/// What every layer of one forward call shares.
struct ForwardCall {
  std::int64_t rows = 0;                    ///< tokens of the batch
  std::span<const SequenceRows> sequences;  ///< how they divide into sequences
  const cpu::RopeTable* rope = nullptr;
  Cache* cache = nullptr;                             ///< null: sequences start here and nothing is kept
  std::span<const cpu::AttentionProbe> probes = {};   ///< one per layer, or none
  std::span<const std::int64_t> cache_sequence = {};  ///< cache index of each entry of `sequences`
};

/// The buffers of one layer's heads: scratch for inference, or the tape that backward reads.
struct HeadsTape {
  std::vector<FloatBuffer> projected;  ///< per run (rows, groups · width)
  std::vector<FloatBuffer> saved;      ///< per run, what its kernel keeps for backward
  FloatBuffer out;                     ///< u (rows, heads · d_head)
};

namespace detail {

inline std::vector<const float*> pointers(const std::vector<std::vector<float>>& tensors) {
  std::vector<const float*> out;
  for (const auto& tensor : tensors) out.push_back(tensor.data());
  return out;
}

/// The elements, or null where there are none.
template <class Vector>
auto* data_or_null(Vector& values) {
  return values.empty() ? nullptr : values.data();
}

/// Runs one mixer over new tokens with a cache that can be rolled back: replays what a rollback left to
/// replay, records the inputs, and keeps the states at multiples of max_rollback on the way (see Cache).
template <class K, class Widths>
class RecurrentCall {
 public:
  RecurrentCall(const RunWeights<K>& run, const cpu::ForwardArguments& arguments, const ForwardCall& call,
                std::size_t layer, std::size_t run_index)
      : run_(run),
        arguments_(arguments),
        call_(call),
        layer_(layer),
        run_index_(run_index),
        period_(call.cache->max_rollback()),
        width_(static_cast<std::int64_t>(run.groups.size()) * run.width(arguments.shape)) {}

  void operator()() {
    for (std::size_t i = 0; i < call_.sequences.size(); ++i) {
      replay(i);
      record(i);
    }
    // The two latest multiples of the period that this call reaches split it into at most three stages.
    std::vector<SequenceRows> rest(call_.sequences.begin(), call_.sequences.end());
    for (int stage = 0; stage < 2; ++stage)
      run_until(rest, [&](const SequenceRows& s) { return boundary(s, stage); });
    run(rest);
  }

 private:
  RunMemory& memory(std::size_t i) {
    return call_.cache->memory(call_.cache_sequence[i], layer_, run_index_);
  }

  static std::int64_t end(const SequenceRows& s) { return s.position + s.rows; }
  std::int64_t boundary(const SequenceRows& s, int stage) const {
    return (end(s) / period_ - 1 + stage) * period_;
  }
  float* recorded_row(RunMemory& one, std::int64_t position) const {
    return reinterpret_cast<float*>(one.recorded.data()) + position % (2 * period_) * width_;
  }

  void run(std::span<const SequenceRows> sequences) {
    cpu::ForwardArguments arguments = arguments_;
    arguments.sequences = sequences;
    cpu::MixerKernel<typename K::Mixer>::template forward<typename K::Precision, Widths>(run_.mixer,
                                                                                         arguments);
  }

  template <class Boundary>
  void run_until(std::vector<SequenceRows>& rest, Boundary boundary_of) {
    std::vector<SequenceRows> stage = rest;
    std::vector<std::int64_t> reached(rest.size(), -1);
    bool any = false;
    for (std::size_t i = 0; i < rest.size(); ++i) {
      const std::int64_t target = boundary_of(rest[i]);
      stage[i].rows = 0;
      if (target <= rest[i].position) continue;
      stage[i].rows = target - rest[i].position;
      reached[i] = target;
      any = true;
    }
    if (!any) return;
    run(stage);
    for (std::size_t i = 0; i < rest.size(); ++i) {
      if (reached[i] < 0) continue;
      rest[i] = {rest[i].first_row + stage[i].rows, rest[i].rows - stage[i].rows, reached[i]};
      keep_checkpoint(memory(i), reached[i]);
    }
  }

  void keep_checkpoint(RunMemory& one, std::int64_t position) {
    auto& checkpoint = one.checkpoints[static_cast<std::size_t>(position / period_ % 2)];
    checkpoint.position = position;
    std::size_t state = 0;
    for (const auto& field : one.fields)
      if (field.layout.field.kind == FieldKind::state)
        std::memcpy(checkpoint.states[state++].data(), field.block.data(),
                    static_cast<std::size_t>(field.block.bytes()));
  }

  void record(std::size_t i) {
    const SequenceRows& s = call_.sequences[i];
    for (std::int64_t r = 0; r < s.rows; ++r)
      if (s.position + r >= boundary(s, 0))
        std::memcpy(recorded_row(memory(i), s.position + r), arguments_.projected.row(s.first_row + r),
                    static_cast<std::size_t>(width_) * sizeof(float));
  }

  void replay(std::size_t i) {
    RunMemory& one = memory(i);
    const std::int64_t from = one.replay_from, rows = call_.sequences[i].position - from;
    one.replay_from = -1;
    if (from < 0 || rows == 0) return;
    FloatBuffer projected(static_cast<std::size_t>(rows * width_));
    FloatBuffer ignored(static_cast<std::size_t>(rows * arguments_.out.stride));
    for (std::int64_t r = 0; r < rows; ++r)
      std::memcpy(projected.data() + r * width_, recorded_row(one, from + r),
                  static_cast<std::size_t>(width_) * sizeof(float));
    std::vector<SequenceRows> sequences(call_.sequences.size());
    sequences[i] = {.first_row = 0, .rows = rows, .position = from};
    cpu::ForwardArguments arguments = arguments_;
    arguments.sequences = sequences;
    arguments.projected = {projected.data(), width_};
    arguments.out = {ignored.data(), arguments_.out.stride};
    cpu::MixerKernel<typename K::Mixer>::template forward<typename K::Precision, Widths>(run_.mixer,
                                                                                         arguments);
  }

  const RunWeights<K>& run_;
  const cpu::ForwardArguments& arguments_;
  const ForwardCall& call_;
  std::size_t layer_, run_index_;
  std::int64_t period_, width_;
};

}  // namespace detail

/// u = heads(h) for the runs that `which(run index)` selects; others leave their columns of u untouched.
/// h is (rows, d_model). With `keep`, what backward needs is saved in the tape.
template <class Widths, class Set, class P, class Which>
void forward_heads(const LayerWeights<Set, P>& weights, const LayerShape& shape, const ForwardCall& call,
                   std::size_t layer, const float* h, HeadsTape& tape, bool keep, Which&& which) {
  const HeadShape head_shape = shape.head_shape();
  tape.projected.resize(Set::size);
  tape.saved.resize(Set::size);
  tape.out.reserve(static_cast<std::size_t>(call.rows * shape.heads_width()));
  weights.for_each_run([&]<class K>(std::size_t index, const RunWeights<K>& run) {
    if (run.groups.empty() || !which(index)) return;
    const auto groups = static_cast<std::int64_t>(run.groups.size());
    const std::int64_t width = groups * run.width(head_shape);
    tape.projected[index].reserve(static_cast<std::size_t>(call.rows * width));
    float* projected = tape.projected[index].data();
    run.projection.forward(h, shape.d_model, call.rows, projected, width, cpu::Accumulate::no,
                           run.bias.empty() ? nullptr : run.bias.data());
    const auto local = detail::pointers(run.local);
    cpu::ForwardArguments arguments{.shape = head_shape,
                                    .groups = run.groups,
                                    .sequences = call.sequences,
                                    .projected = {projected, width},
                                    .local = local,
                                    .query_norm = detail::data_or_null(weights.query_norm),
                                    .key_norm = detail::data_or_null(weights.key_norm),
                                    .rope = call.rope,
                                    .out = {tape.out.data(), shape.heads_width()},
                                    .probe = call.probes.empty() ? nullptr : &call.probes[layer]};
    using Kernel = cpu::MixerKernel<typename K::Mixer>;
    if (keep) {
      const std::int64_t size = Kernel::saved_size(run.mixer, head_shape, groups, call.sequences);
      tape.saved[index].reserve(static_cast<std::size_t>(std::max<std::int64_t>(size, 1)));
      arguments.saved = tape.saved[index].data();
    }
    std::vector<cpu::FieldView> views;
    if (call.cache) {
      for (const std::int64_t sequence : call.cache_sequence)
        call.cache->append_views(sequence, layer, index, views);
      const RunLayout& layout = call.cache->layout().layers[layer][index];
      arguments.cache = {.fields = views, .fields_per_sequence = layout.fields.size()};
      if (call.cache->max_rollback() > 0 && layout.is_recurrent()) {
        detail::RecurrentCall<K, Widths>(run, arguments, call, layer, index)();
        return;
      }
    }
    Kernel::template forward<typename K::Precision, Widths>(run.mixer, arguments);
  });
}

/// Backward of forward_heads with `keep`: adds to the gradients of the selected runs and, where dh is given,
/// writes (accumulate no) or adds to dh (rows, d_model). `scratch` is reused from call to call.
template <class Widths, class Set, class P, class Which>
void backward_heads(const LayerWeights<Set, P>& weights,
                    LayerWeights<typename detail::FloatKinds<Set>::type, Fp32>& gradients,
                    const LayerShape& shape, const ForwardCall& call, const float* h, const HeadsTape& tape,
                    const float* d_out, float* dh, FloatBuffer& scratch, Which&& which) {
  const HeadShape head_shape = shape.head_shape();
  bool first = true;
  weights.for_each_run([&]<class K>(std::size_t index, const RunWeights<K>& run) {
    if (run.groups.empty() || !which(index)) return;
    const std::int64_t width = static_cast<std::int64_t>(run.groups.size()) * run.width(head_shape);
    scratch.reserve(static_cast<std::size_t>(call.rows * width));
    const auto local = detail::pointers(run.local);
    gradients.for_each_run([&](std::size_t gradient_index, auto& gradient) {
      if (gradient_index != index) return;
      std::vector<float*> d_local;
      for (auto& tensor : gradient.local) d_local.push_back(tensor.data());
      using Kernel = cpu::MixerKernel<typename K::Mixer>;
      Kernel::template backward<typename K::Precision, Widths>(
          run.mixer, {.shape = head_shape,
                      .groups = run.groups,
                      .sequences = call.sequences,
                      .projected = {tape.projected[index].data(), width},
                      .local = local,
                      .query_norm = detail::data_or_null(weights.query_norm),
                      .key_norm = detail::data_or_null(weights.key_norm),
                      .rope = call.rope,
                      .saved = tape.saved[index].data(),
                      .out = {tape.out.data(), shape.heads_width()},
                      .d_out = {d_out, shape.heads_width()},
                      .d_projected = {scratch.data(), width},
                      .d_local = d_local,
                      .d_query_norm = detail::data_or_null(gradients.query_norm),
                      .d_key_norm = detail::data_or_null(gradients.key_norm)});
      gradient.projection.add_gradient(scratch.data(), width, h, shape.d_model, call.rows);
      if (!gradient.bias.empty())
        cpu::add_column_sums(scratch.data(), width, call.rows, width, gradient.bias.data());
    });
    if (dh)
      run.projection.backward(scratch.data(), width, call.rows, dh, shape.d_model,
                              first ? cpu::Accumulate::no : cpu::Accumulate::yes);
    first = false;
  });
}

}  // namespace rf

#endif  // RECURFORMER_MODEL_HEADS_HPP
