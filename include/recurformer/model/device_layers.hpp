#ifndef RECURFORMER_MODEL_DEVICE_LAYERS_HPP
#define RECURFORMER_MODEL_DEVICE_LAYERS_HPP

// Layers on a device, from the residual stream before the first to that behind the last: those of a model
// (model/device_model.hpp), or a program's own (model/device_layer.hpp). A layer is four launches,
//
//   cuda/projections.hpp     norm, projections of all runs, bias, rotary positions, append to the caches
//   model/device_heads.hpp   the heads of all runs
//   cuda/linear.hpp          W_O and residual
//   cuda/mlp.hpp             norm, MLP and residual
//
// or one where few sequences get few tokens (cuda/decode_layer.hpp). A call first plans all layers, then
// sends what the plans hold in one copy, then launches. A cache that can be rolled back asks for a few more
// launches (model/device_rollback.hpp).

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "recurformer/cuda/call_memory.hpp"
#include "recurformer/cuda/copy_rows.hpp"
#include "recurformer/cuda/decode_layer.hpp"
#include "recurformer/cuda/mlp.hpp"
#include "recurformer/model/device_cache.hpp"
#include "recurformer/model/device_call.hpp"
#include "recurformer/model/device_heads.hpp"
#include "recurformer/model/device_rollback.hpp"
#include "recurformer/model/device_weights.hpp"
#include "recurformer/model/kernel_device.hpp"

namespace rf {

/// Layers with a set of kinds and a precision, for the widths of heads that are instantiated. Nothing here
/// waits for the device.
template <class Kinds, class Precision, class Widths, class Device>
class DeviceLayers {
 public:
  using T = typename Precision::Weight;
  using Cache = DeviceCache<Device>;
  using Call = detail::DeviceCall<T>;
  using Layer = DeviceLayerWeights<Kinds, Precision, Device>;
  /// Looks at what the heads of a layer are about to compute: called with the layer's index, its weights, the
  /// call's tokens and each run as its mixer gets it. May launch kernels, which may use the heads' places in
  /// the output.
  using Observer = std::function<void(std::size_t layer, const Layer& weights, const cuda::DeviceBatch& batch,
                                      std::span<const cuda::DeviceRun<T>> runs)>;

  /// Copies the weights of layers of one shape, which are not packed, to the device. ArgumentError for sizes
  /// that its kernels cannot do, and for two kinds of heads in one layer that differ only in biases.
  DeviceLayers(Device& device, const LayerShape& shape, std::span<const LayerWeights<Kinds, Precision>> host)
      : device_(&device),
        shape_(shape),
        rope_(device, shape),
        memory_(device),
        layer_memory_(device),
        uploads_(device),
        counters_(device, 0) {
    check(shape.d_model % 8 == 0 && shape.d_ff % 8 == 0, "on a device d_model (", shape.d_model,
          ") and d_ff (", shape.d_ff, ") must be multiples of 8");
    check(!shape.qk_norm,
          "the device's kernels have no norms of queries and keys (qk_norm, Qwen3); use the CPU");
    check(!shape.heads_norm,
          "the device's kernels have no norm across heads (heads_norm, Mamba-2); use the CPU");
    for (const auto& layer : host) layers_.emplace_back(device, layer, shape, Widths{});
    for (const HeadsMode mode : {HeadsMode::decode, prefill_mode()})
      with_heads(mode, [&]<class Heads>(Heads) {
        for (const Layer& layer : layers_) Heads::check_kinds(layer);
      });
  }

  /// Memory for the length of a call.
  cuda::CallMemory<Device>& memory() { return memory_; }
  cuda::UploadMemory<Device>& uploads() { return uploads_; }

  /// Begins a call, which takes all memory of the last one back: new tokens of several sequences, those of
  /// parts[0] first, whose places in the cache are reserved. Their residual stream (rows, d_model) is at `x`
  /// on the device, every row 16-byte aligned; null: in the call's memory. ArgumentError for a part without
  /// tokens, a sequence that appears twice, or a cache of another device.
  Call begin(std::span<const SequenceTokens> parts, Cache& cache, RowsView<T> x = {}) {
    check(&cache.device() == device_, "the cache was made for another device than these layers");
    memory_.reset();
    uploads_.reset();
    Call call;
    std::int64_t rows = 0, furthest = 0;
    for (const SequenceTokens& part : parts) {
      check(part.rows > 0, "sequence ", part.sequence, " gets no token in this call");
      for (const int slot : call.slots)
        check(slot != part.sequence, "sequence ", part.sequence, " appears twice in one call");
      const std::int64_t position = cache.length(part.sequence);
      call.sequences.push_back({.first_row = rows, .rows = part.rows, .position = position});
      call.slots.push_back(static_cast<int>(part.sequence));
      rows += part.rows;
      furthest = std::max(furthest, position + part.rows);
    }
    for (const SequenceTokens& part : parts) cache.reserve(part.sequence, part.rows);
    rope_.reserve(furthest);

    const auto count = static_cast<std::size_t>(rows);
    call.batch = detail::make_batch<Device>(call.sequences, call.slots, cache, rope_.view(), uploads_);
    call.stages = detail::make_stages(call, cache, uploads_);
    call.rows = static_cast<int>(rows);
    call.x = x;
    if (x.data == nullptr)
      call.x = {memory_.template take<T>(count * static_cast<std::size_t>(shape_.d_model)), shape_.d_model};
    call.u = memory_.template take<T>(count * static_cast<std::size_t>(shape_.heads_width()));
    call.h = memory_.template take<T>(count * static_cast<std::size_t>(shape_.d_ff));
    call.sums.parts = cuda::row_parts(call.rows, shape_.d_model);
    call.sums.data = memory_.template take<float>(count * static_cast<std::size_t>(call.sums.parts));
    call.places = memory_.template take<cuda::RowPlace>(count);
    return call;
  }

  /// The call's tokens through all layers; the cache advances. start() has x and the sums of its squares
  /// written, once all uploads of the call are on their way. With an observer the call is a prefill, however
  /// few its tokens are.
  template <class Start>
  void run(const Call& call, Cache& cache, Start&& start, const Observer& observer = {}) {
    replay(call, cache);
    const HeadsMode mode = observer ? prefill_mode() : mode_for(call.batch.longest);
    with_heads(mode, [&]<class Heads>(Heads) { run_layers<Heads>(call, cache, start, observer); });
    for (std::size_t i = 0; i < call.slots.size(); ++i) cache.advance(call.slots[i], call.sequences[i].rows);
    for (const detail::DeviceStage& stage : call.stages)
      for (const auto& [sequence, position] : stage.tokens.reached)
        cache.advance_checkpoint(sequence, position);
  }

  /// What a rollback needs to know of every token, per layer and run.
  std::vector<std::vector<RecordedRow>> recorded_rows() const {
    std::vector<std::vector<RecordedRow>> out;
    for (const auto& layer : layers_) {
      auto& of_layer = out.emplace_back();
      layer.for_each_run([&](auto, const auto& run) {
        of_layer.push_back(detail::recorded_row<T>(run, shape_.head_shape()));
      });
    }
    return out;
  }

 private:
  /// For calls with at most `longest` tokens per sequence.
  HeadsMode mode_for(std::int64_t longest) const {
    return longest <= cuda::most_decode_rows ? HeadsMode::decode : prefill_mode();
  }
  HeadsMode prefill_mode() const {
    return device_->compute_capability() == 90 ? HeadsMode::prefill_sm90 : HeadsMode::prefill;
  }
  /// Calls f(DeviceHeads of the model's width).
  template <class F>
  void with_heads(HeadsMode mode, F&& f) const {
    detail::with_device_width(Widths{}, shape_.d_head, [&](auto d_head) {
      constexpr int D = decltype(d_head)::value;
      using Sm90 = DeviceHeads<Kinds, D, T, HeadsMode::prefill_sm90>;
      if (mode == HeadsMode::decode) return f(DeviceHeads<Kinds, D, T, HeadsMode::decode>{});
      if constexpr (Sm90::has_warpgroups)
        if (mode == HeadsMode::prefill_sm90) return f(Sm90{});
      f(DeviceHeads<Kinds, D, T, HeadsMode::prefill>{});
    });
  }

  /// A launch of heads per layer: which tokens, and what the launches get.
  template <class Heads>
  struct HeadsCall {
    HeadBatches batches;
    std::vector<typename Heads::Plan> plans;
    std::vector<std::size_t> plan_of;                    // per layer
    std::vector<typename Heads::Parameters> parameters;  // per layer

    const typename Heads::Plan& plan(std::size_t layer) const { return plans[plan_of[layer]]; }
  };

  /// What the launches of all layers get.
  template <class Heads>
  struct LayerCalls {
    std::vector<HeadsCall<Heads>> heads;                           // one after the other in every layer
    std::vector<std::vector<cuda::ProjectionTarget<T>>> targets;   // per layer
    std::vector<const cuda::ProjectionTarget<T>*> device_targets;  // the same on the device
    std::vector<cuda::RowCopies> recorded;  // per layer; none for a cache that cannot be rolled back
  };

  /// Plans all layers and makes what their launches get; `heads` names their tokens, `batch` those of the
  /// projections, whose inputs are recorded, or taken from where they were. Heads write to `out`.
  template <class Heads>
  LayerCalls<Heads> prepare(std::vector<HeadsCall<Heads>> heads, const cuda::DeviceBatch& batch, T* out,
                            detail::RecordedDirection direction, Cache& cache) {
    const HeadShape shape = shape_.head_shape();
    int counters = static_cast<int>(cuda::mlp_counters(static_cast<int>(batch.rows)));
    for (HeadsCall<Heads>& one : heads)
      for (const auto& layer : layers_) {
        one.plan_of.push_back(Heads::plan(one.plans, *device_, one.batches, memory_, uploads_, shape, layer));
        counters = std::max(counters, Heads::own_counters + one.plans[one.plan_of.back()].counters);
      }
    reserve_counters(counters);
    LayerCalls<Heads> calls;
    calls.heads = std::move(heads);
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      layer_memory_.rewind();
      const auto& targets = calls.targets.emplace_back(make_targets(i, batch.rows, cache));
      calls.device_targets.push_back(uploads_.add(targets));
      for (HeadsCall<Heads>& one : calls.heads)
        one.parameters.push_back(Heads::bind(one.plan(i), one.batches, uploads_, counters_.data(), shape,
                                             layers_[i], [&](std::size_t index, const auto& run) {
                                               return describe_run(i, index, run, out, cache, targets);
                                             }));
      if (cache.max_rollback() > 0)
        calls.recorded.push_back(make_copies(direction, i, batch, targets, cache));
    }
    uploads_.send();
    return calls;
  }

  /// Plans all layers, then launches them.
  template <class Heads, class Start>
  void run_layers(const Call& call, Cache& cache, Start&& start, const Observer& observer) {
    std::vector<HeadsCall<Heads>> heads;
    for (const detail::DeviceStage& stage : call.stages) {
      const bool is_first = heads.empty();
      heads.emplace_back().batches = {.recurrent = &stage.batch, .others = is_first ? &call.batch : nullptr};
    }
    const LayerCalls<Heads> calls =
        prepare(std::move(heads), call.batch, call.u, detail::RecordedDirection::to_cache, cache);
    cuda::place_rows(*device_, call.batch.device_sequences, call.batch.count(), call.places);
    start();
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      run_layer(i, call, calls, cache, observer);
      if (!calls.recorded.empty()) cuda::copy_rows(*device_, calls.recorded[i]);
    }
  }

  /// Brings the states of the call's sequences to where rollbacks have left the sequences.
  void replay(const Call& call, Cache& cache) {
    std::vector<SequenceRows> sequences;
    std::vector<int> slots;
    std::int64_t rows = 0;
    for (const int slot : call.slots) {
      const std::int64_t from = cache.position(slot).replay_from, count = cache.length(slot) - from;
      cache.finish_replay(slot);
      if (from < 0 || count == 0) continue;
      sequences.push_back({.first_row = rows, .rows = count, .position = from});
      slots.push_back(slot);
      rows += count;
    }
    if (sequences.empty()) return;
    const cuda::DeviceBatch batch =
        detail::make_batch<Device>(sequences, slots, cache, call.batch.rope, uploads_);
    T* ignored = memory_.template take<T>(static_cast<std::size_t>(rows * shape_.heads_width()));
    with_heads(mode_for(batch.longest), [&]<class Heads>(Heads) {
      std::vector<HeadsCall<Heads>> heads(1);
      heads[0].batches.recurrent = &batch;
      const LayerCalls<Heads> calls =
          prepare(std::move(heads), batch, ignored, detail::RecordedDirection::from_cache, cache);
      for (std::size_t i = 0; i < layers_.size(); ++i) {
        cuda::copy_rows(*device_, calls.recorded[i]);
        launch_heads(calls.heads[0], i);
      }
    });
  }

  template <class Heads>
  void run_layer(std::size_t index, const Call& call, const LayerCalls<Heads>& calls, Cache& cache,
                 const Observer& observer) {
    const Layer& layer = layers_[index];
    cuda::DecodeLayerSteps<T> steps = linear_steps(layer, call, calls.device_targets[index]);
    if constexpr (Heads::mode == HeadsMode::decode)
      if (call.rows <= cuda::most_decode_layer_rows) return run_few_rows(index, call, calls, steps, cache);
    constexpr int least_rows = cuda::most_decode_layer_rows + 1;
    cuda::launch_linear<least_rows>(*device_, steps.projection, steps.norm, steps.project);
    if (observer)
      observer(index, layer, call.batch, describe_runs(index, call.u, cache, calls.targets[index]));
    launch_heads(calls.heads[0], index);
    continue_heads(index, call, calls, cache);
    cuda::launch_linear<least_rows>(*device_, steps.output, cuda::NoNorm{}, steps.residual);
    cuda::mlp<T, least_rows>(*device_, {.x = steps.residual.x,
                                        .rows = call.rows,
                                        .d_model = shape_.d_model,
                                        .d_ff = shape_.d_ff,
                                        .gate_up = layer.gate_up.data(),
                                        .down = layer.down.data(),
                                        .norm = steps.norm,
                                        .new_sums = call.sums,
                                        .workspace = call.h,
                                        .counters = {counters_.data()}});
  }

  /// A layer of a decode in one launch, or in one per stage and a last one.
  template <class Heads>
  void run_few_rows(std::size_t index, const Call& call, const LayerCalls<Heads>& calls,
                    const cuda::DecodeLayerSteps<T>& steps, Cache& cache) {
    constexpr int blocks = Heads::blocks_per_multiprocessor;
    const HeadsCall<Heads>& first = calls.heads[0];
    const typename Heads::Plan& plan = first.plan(index);
    const bool at_once = calls.heads.size() == 1;
    cuda::decode_layer<blocks>(*device_, at_once ? steps : steps.before_heads(), plan.list,
                               first.parameters[index], counters_.data(), plan.counters);
    continue_heads(index, call, calls, cache);
    if (!at_once)
      cuda::decode_layer<blocks>(*device_, steps.after_heads(), {}, typename Heads::Parameters{},
                                 counters_.data(), 0);
  }

  /// The heads of a layer as a launch of their own.
  template <class Heads>
  void launch_heads(const HeadsCall<Heads>& call, std::size_t layer) {
    Heads::launch(*device_, call.plan(layer), call.parameters[layer], counters_.data());
  }

  /// The stages of a layer after the first, and the checkpoints that each reaches.
  template <class Heads>
  void continue_heads(std::size_t layer, const Call& call, const LayerCalls<Heads>& calls, Cache& cache) {
    for (std::size_t stage = 0; stage < calls.heads.size(); ++stage) {
      if (stage > 0) launch_heads(calls.heads[stage], layer);
      for (const auto& [sequence, position] : call.stages[stage].tokens.reached)
        cache.keep_checkpoint(sequence, layer, position);
    }
  }

  /// The matrix products of a layer.
  cuda::DecodeLayerSteps<T> linear_steps(const Layer& layer, const Call& call,
                                         const cuda::ProjectionTarget<T>* targets) const {
    const LayerShape& shape = shape_;
    const auto operands = [&](RowsView<const T> rows, int inner, const auto& weights, int columns) {
      return cuda::GemmOperands<cuda::DenseRows<T>>{
          .rows = {rows, call.rows}, .weights = weights.data(), .columns = columns, .inner = inner};
    };
    const RowsView<const T> x{call.x.data, call.x.stride}, u{call.u, shape.heads_width()},
        h{call.h, shape.d_ff};
    return {.projection = operands(x, shape.d_model, layer.projection, layer.projection_columns),
            .output = operands(u, shape.heads_width(), layer.output, shape.d_model),
            .gate_up = operands(x, shape.d_model, layer.gate_up, cuda::gate_up_columns(shape.d_ff)),
            .down = operands(h, shape.d_ff, layer.down, shape.d_ff == 0 ? 0 : shape.d_model),
            .norm = {call.sums, static_cast<float>(shape.norm_epsilon)},
            .project = {.units = layer.units.data(),
                        .targets = targets,
                        .bias = layer.bias.size() > 0 ? layer.bias.data() : nullptr,
                        .places = call.places,
                        .rope = call.batch.rope,
                        .pages = call.batch.pages,
                        .pages_per_sequence = call.batch.pages_per_sequence},
            .swiglu = {.out = {call.h, shape.d_ff}, .columns = shape.d_ff},
            .residual = {.x = call.x, .columns = shape.d_model, .sums = call.sums}};
  }

  /// Where the projected columns of every run go: matrices of this call, or pools of pages.
  std::vector<cuda::ProjectionTarget<T>> make_targets(std::size_t index, std::int64_t rows,
                                                      const Cache& cache) {
    const HeadShape shape = shape_.head_shape();
    std::vector<cuda::ProjectionTarget<T>> out(static_cast<std::size_t>(layers_[index].target_count));
    layers_[index].for_each_run([&]<class Run>(std::size_t run_index, const Run& run) {
      if (run.groups == 0) return;
      for (int t = 0; t < Run::Kernel::targets; ++t) {
        auto& target = out[static_cast<std::size_t>(run.first_target + t)];
        target.stride = Run::Kernel::target_width(run.mixer, shape, run.groups, t);
        if (target.stride > 0) {
          target.data = layer_memory_.template take<T>(static_cast<std::size_t>(rows * target.stride));
          continue;
        }
        if constexpr (requires { Run::Kernel::target_field(t); }) {
          const std::size_t field = Run::Kernel::target_field(t);
          target.data = reinterpret_cast<T*>(cache.field(index, run_index, field));
          target.stride = cache.block_stride(index, run_index, field) / static_cast<std::int64_t>(sizeof(T));
          target.page_row = shape.d_head;
        }
      }
    });
    return out;
  }

  /// All runs of a layer; those without groups are described by nothing.
  std::vector<cuda::DeviceRun<T>> describe_runs(std::size_t layer, T* heads_out, const Cache& cache,
                                                std::span<const cuda::ProjectionTarget<T>> targets) {
    std::vector<cuda::DeviceRun<T>> out;
    layers_[layer].for_each_run([&](std::size_t index, const auto& run) {
      out.push_back(run.groups > 0 ? describe_run(layer, index, run, heads_out, cache, targets)
                                   : cuda::DeviceRun<T>{});
    });
    return out;
  }

  template <class Run>
  cuda::DeviceRun<T> describe_run(std::size_t layer, std::size_t index, const Run& run, T* heads_out,
                                  const Cache& cache, std::span<const cuda::ProjectionTarget<T>> targets) {
    const HeadShape shape = shape_.head_shape();
    cuda::DeviceRun<T> out{
        .shape = shape,
        .groups = run.groups,
        .group_index = run.group_index.data(),
        .targets = targets.subspan(static_cast<std::size_t>(run.first_target), Run::Kernel::targets),
        .local = run.local_pointers(),
        .prepared = run.prepared.data(),
        .out = {heads_out, shape_.heads_width()}};
    for (std::size_t f = 0; f < run.mixer.cache_fields(shape).size(); ++f)
      out.fields.push_back(
          {cache.field(layer, index, f), cache.block_stride(layer, index, f),
           cache.layout().layers[layer][index].fields[f].ring_capacity(cache.max_rollback())});
    return out;
  }

  /// The copies between a layer's projection targets and what the cache records of them.
  cuda::RowCopies make_copies(detail::RecordedDirection direction, std::size_t layer,
                              const cuda::DeviceBatch& batch,
                              std::span<const cuda::ProjectionTarget<T>> targets, const Cache& cache) {
    std::vector<cuda::RowCopy> pieces;
    layers_[layer].for_each_run([&]<class Run>(std::size_t index, const Run& run) {
      if (run.groups == 0 || !cache.layout().layers[layer][index].is_recurrent()) return;
      const auto own = targets.subspan(static_cast<std::size_t>(run.first_target), Run::Kernel::targets);
      for (std::size_t i = 0; i < batch.sequences.size(); ++i)
        detail::add_recorded_copies(direction, cache, layer, index, own, batch.sequences[i], batch.slots[i],
                                    pieces);
    });
    cuda::RowCopies out{.pieces = uploads_.add(pieces), .count = static_cast<int>(pieces.size())};
    for (const cuda::RowCopy& piece : pieces) out.most_rows = std::max(out.most_rows, piece.rows);
    return out;
  }

  void reserve_counters(int count) {
    const auto needed = static_cast<std::size_t>(count);
    if (needed <= counters_.size()) return;
    counters_ = cuda::DeviceArray<unsigned, Device>(*device_, needed);
    device_->zero(counters_.data(), counters_.bytes());
  }

  Device* device_;
  LayerShape shape_;
  std::vector<Layer> layers_;
  DeviceRopeTable<Device> rope_;
  cuda::CallMemory<Device> memory_;        // for a call
  cuda::CallMemory<Device> layer_memory_;  // for a layer of a call; the next layer uses it anew
  cuda::UploadMemory<Device> uploads_;
  cuda::DeviceArray<unsigned, Device> counters_;  // of one launch after the other; zero between them
};

}  // namespace rf

#endif  // RECURFORMER_MODEL_DEVICE_LAYERS_HPP
