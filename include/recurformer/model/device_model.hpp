#ifndef RECURFORMER_MODEL_DEVICE_MODEL_HPP
#define RECURFORMER_MODEL_DEVICE_MODEL_HPP

// A model on a device: Model<Spec, rf::Cuda>, or Model<Spec, rf::Simulated> where there is no GPU. Made from
// a model on the host, it prefills and decodes over a DeviceCache. A layer is four launches,
//
//   1  norm, input projections of all runs, bias, rotary positions, append to the caches cuda/projections.hpp
//   2  the heads of all runs model/device_heads.hpp 3  W_O and residual cuda/linear.hpp 4  norm, MLP and
//   residual                                                             cuda/mlp.hpp
//
// or one where few sequences get few tokens (cuda/decode_layer.hpp). A call first plans all layers, then
// sends what the plans hold in one copy, then launches.
//
// The residual stream and all activations between launches are of the layer's 16-bit type; sums and states
// are float.

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "recurformer/cuda/attention_mixer.hpp"
#include "recurformer/cuda/call_memory.hpp"
#include "recurformer/cuda/embedding.hpp"
#include "recurformer/cuda/logits.hpp"
#include "recurformer/cuda/mamba2_mixer.hpp"
#include "recurformer/cuda/mamba_mixer.hpp"
#include "recurformer/cuda/mlp.hpp"
#include "recurformer/math/rope_table.hpp"
#include "recurformer/model/backend.hpp"
#include "recurformer/model/device_cache.hpp"
#include "recurformer/model/device_heads.hpp"
#include "recurformer/model/device_weights.hpp"

namespace rf {

/// What kernels are launched on.
template <class D>
concept KernelDevice = requires(D& device, void* memory, const void* source, std::size_t bytes) {
  { device.multiprocessors() } -> std::convertible_to<int>;
  { device.allocate(bytes) } -> std::same_as<void*>;
  device.copy_to_device(memory, source, bytes);
  device.copy_to_host(memory, source, bytes);
  device.copy_on_device(memory, source, bytes);
  device.synchronize();
};

/// The cosines and sines of RopeTable on a device.
template <class Device>
class DeviceRopeTable {
 public:
  DeviceRopeTable(Device& device, int d_head, double base)
      : device_(&device), host_(d_head, base), table_(device, 0) {}

  /// Makes positions [0, positions) available.
  void reserve(std::int64_t positions) {
    if (positions <= host_.positions()) return;
    host_.reserve(positions);
    const auto size = static_cast<std::size_t>(host_.positions() * host_.d_head());
    table_ = cuda::DeviceArray<float, Device>(*device_, std::span<const float>(host_.cosines(0), size));
  }
  cuda::RotaryTable view() const {
    return {.cosines = table_.data(), .sines = table_.data() + host_.d_head() / 2, .stride = host_.d_head()};
  }

 private:
  Device* device_;
  RopeTable host_;
  cuda::DeviceArray<float, Device> table_;  // a position's cosines, then its sines
};

/// Inference of a model on a device. For one thread; several models may share a device.
template <ModelSpec Spec, KernelDevice Device>
class Model<Spec, Device> {
  using Traits = detail::ModelTraits<Spec>;

 public:
  using Kinds = typename Traits::Kinds;
  using Precision = typename Traits::Precision;
  using Widths = typename Traits::Widths;
  using Weights = ModelWeights<Kinds, Precision>;
  using T = typename Precision::Weight;
  using Cache = DeviceCache<Device>;

  /// Copies the weights of a model on the host, which are not packed, to `device`, which must outlive this.
  Model(Device& device, const Weights& host)
      : device_(&device),
        shape_(host.shape),
        weights_(device, host, Widths{}),
        rope_(device, shape_.layer.d_head, shape_.layer.rope_base),
        memory_(device),
        layer_memory_(device),
        uploads_(device),
        counters_(device, 0) {
    for (const auto& layer : host.layers) layout_.layers.push_back(layer_cache_layout(layer, shape_.layer));
  }

  const ModelShape& shape() const { return shape_; }
  const CacheLayout& cache_layout() const { return layout_; }
  /// An empty cache for this model.
  Cache make_cache(CacheOptions options = {}) const { return Cache(*device_, layout_, options); }

  /// New tokens of several sequences, those of parts[0] first, through the model; the cache advances. Logits
  /// (parts, vocabulary) of the last token of each part, valid until the next call; a part without tokens is
  /// an error.
  std::span<const float> forward(std::span<const Token> tokens, std::span<const SequenceTokens> parts,
                                 Cache& cache) {
    run(tokens, parts, cache, true);
    return logits_;
  }
  /// The same for the greedy choice of each part's next token; logits stay on the device.
  std::vector<Token> greedy(std::span<const Token> tokens, std::span<const SequenceTokens> parts,
                            Cache& cache) {
    return run(tokens, parts, cache, false);
  }

  /// Logits (vocabulary) of the last of `tokens`, the next ones of one sequence. Long prompts are fed in
  /// chunks.
  std::span<const float> next_logits(std::span<const Token> tokens, Cache& cache, std::int64_t sequence = 0) {
    check(!tokens.empty(), "next_logits needs at least one token");
    constexpr std::size_t chunk = 8192;  // bounds the memory of activations
    for (; tokens.size() > chunk; tokens = tokens.subspan(chunk)) {
      const SequenceTokens part{sequence, static_cast<std::int64_t>(chunk)};
      run(tokens.first(chunk), {&part, 1}, cache, false);
    }
    const SequenceTokens part{sequence, static_cast<std::int64_t>(tokens.size())};
    return forward(tokens, {&part, 1}, cache);
  }

 private:
  /// What all layers of a call share.
  struct Call {
    cuda::DeviceBatch batch;
    int rows = 0;
    T* x = nullptr;      // (rows, d_model)
    T* u = nullptr;      // (rows, heads · d_head)
    T* h = nullptr;      // (rows, d_ff)
    cuda::RowSums sums;  // of x
    const Token* tokens = nullptr;
    const int* last_rows = nullptr;  // of each part
    cuda::RowPlace* places = nullptr;
  };

  std::vector<Token> run(std::span<const Token> tokens, std::span<const SequenceTokens> parts, Cache& cache,
                         bool wants_logits) {
    if (parts.empty()) return {};
    memory_.reset();
    uploads_.reset();
    std::vector<SequenceRows> sequences;
    std::vector<int> slots;
    const Call call = begin(tokens, parts, cache, sequences, slots);
    detail::with_device_width(Widths{}, shape_.layer.d_head, [&](auto d_head) {
      if (call.batch.longest <= cuda::most_decode_rows)
        run_layers<DeviceHeads<Kinds, decltype(d_head)::value, T, HeadsMode::decode>>(call, cache);
      else
        run_layers<DeviceHeads<Kinds, decltype(d_head)::value, T, HeadsMode::prefill>>(call, cache);
    });
    for (const SequenceTokens& part : parts) cache.advance(part.sequence, part.rows);
    return finish(call, wants_logits);
  }

  Call begin(std::span<const Token> tokens, std::span<const SequenceTokens> parts, Cache& cache,
             std::vector<SequenceRows>& sequences, std::vector<int>& slots) {
    std::vector<int> last_rows;
    std::int64_t rows = 0, furthest = 0, longest = 0;
    for (const SequenceTokens& part : parts) {
      check(part.rows > 0, "sequence ", part.sequence, " gets no token in this call");
      for (const int slot : slots)
        check(slot != part.sequence, "sequence ", part.sequence, " appears twice in one call");
      const std::int64_t position = cache.length(part.sequence);
      sequences.push_back({.first_row = rows, .rows = part.rows, .position = position});
      slots.push_back(static_cast<int>(part.sequence));
      rows += part.rows;
      last_rows.push_back(static_cast<int>(rows) - 1);
      furthest = std::max(furthest, position + part.rows);
      longest = std::max(longest, part.rows);
    }
    check(rows == static_cast<std::int64_t>(tokens.size()), "the parts of this call have ", rows,
          " tokens, but ", tokens.size(), " were given");
    for (const Token token : tokens)
      check(token >= 0 && token < shape_.vocabulary, "token ", token, " is not in the vocabulary of ",
            shape_.vocabulary);
    for (const SequenceTokens& part : parts) cache.reserve(part.sequence, part.rows);
    rope_.reserve(furthest);

    std::size_t most_pages = 1;
    for (const int slot : slots) most_pages = std::max(most_pages, cache.pages(slot).size());
    std::vector<int> pages(slots.size() * most_pages, 0);
    for (std::size_t i = 0; i < slots.size(); ++i)
      std::copy(cache.pages(slots[i]).begin(), cache.pages(slots[i]).end(),
                pages.begin() + static_cast<std::ptrdiff_t>(i * most_pages));

    const LayerShape& shape = shape_.layer;
    const auto count = static_cast<std::size_t>(rows);
    Call call{.batch = {.sequences = sequences,
                        .device_sequences = uploads_.add(sequences),
                        .rows = rows,
                        .longest = longest,
                        .slots = slots,
                        .device_slots = uploads_.add(slots),
                        .pages = uploads_.add(pages),
                        .pages_per_sequence = static_cast<int>(most_pages),
                        .rope = rope_.view()},
              .rows = static_cast<int>(rows),
              .x = memory_.template take<T>(count * static_cast<std::size_t>(shape.d_model)),
              .u = memory_.template take<T>(count * static_cast<std::size_t>(shape.heads_width())),
              .h = memory_.template take<T>(count * static_cast<std::size_t>(shape.d_ff)),
              .sums = {nullptr, cuda::row_parts(static_cast<int>(rows), shape.d_model)}};
    call.sums.data = memory_.template take<float>(count * static_cast<std::size_t>(call.sums.parts));
    call.places = memory_.template take<cuda::RowPlace>(count);
    call.tokens = uploads_.add(tokens);
    call.last_rows = uploads_.add(last_rows);
    return call;
  }

  /// One layer of a call.
  template <class Heads>
  struct LayerCall {
    const cuda::ProjectionTarget<T>* targets = nullptr;
    typename Heads::Parameters heads;
  };

  /// Plans all layers, then launches them.
  template <class Heads>
  void run_layers(const Call& call, Cache& cache) {
    const HeadShape shape = shape_.layer.head_shape();
    std::vector<typename Heads::Plan> plans;
    std::vector<std::size_t> plan_of;
    int counters = static_cast<int>(cuda::mlp_counters(call.rows));
    for (const auto& layer : weights_.layers) {
      plan_of.push_back(Heads::plan(plans, *device_, call.batch, memory_, uploads_, shape, layer));
      counters = std::max(counters, Heads::own_counters + plans[plan_of.back()].counters);
    }
    reserve_counters(counters);
    std::vector<LayerCall<Heads>> layers;
    for (std::size_t i = 0; i < weights_.layers.size(); ++i) {
      layer_memory_.rewind();
      const std::vector<cuda::ProjectionTarget<T>> targets = make_targets(i, call, cache);
      layers.push_back({uploads_.add(targets),
                        Heads::bind(plans[plan_of[i]], call.batch, uploads_, counters_.data(),
                                    weights_.layers[i], [&]<class Run>(std::size_t index, const Run& run) {
                                      return describe_run(i, index, run, call, cache, targets);
                                    })});
    }
    uploads_.send();
    embed(call);
    for (std::size_t i = 0; i < weights_.layers.size(); ++i)
      run_layer(weights_.layers[i], call, plans[plan_of[i]], layers[i]);
  }

  void embed(const Call& call) {
    cuda::place_rows(*device_, call.batch.device_sequences, call.batch.count(), call.places);
    cuda::embed<T>(*device_, {.tokens = call.tokens,
                              .table = weights_.embedding.data(),
                              .x = {call.x, shape_.layer.d_model},
                              .sums = call.sums,
                              .rows = call.rows,
                              .width = shape_.layer.d_model});
  }

  template <class Layer, class Heads>
  void run_layer(const Layer& layer, const Call& call, const typename Heads::Plan& plan,
                 const LayerCall<Heads>& arguments) {
    cuda::DecodeLayerSteps<T> steps = linear_steps(layer, call, arguments.targets);
    unsigned* const counters = counters_.data();
    constexpr int least_rows = cuda::most_decode_layer_rows + 1;  // of what follows the return
    if constexpr (Heads::mode == HeadsMode::decode) {
      constexpr int blocks = Heads::blocks_per_multiprocessor;
      if (call.rows <= cuda::most_decode_layer_rows)
        return cuda::decode_layer<blocks>(*device_, steps, plan.list, arguments.heads, counters,
                                          plan.counters);
      cuda::launch_linear<least_rows>(*device_, steps.projection, steps.norm, steps.project);
      cuda::decode_layer<blocks>(*device_, cuda::DecodeLayerSteps<T>{}, plan.list, arguments.heads, counters,
                                 plan.counters);
    } else {
      cuda::launch_linear<least_rows>(*device_, steps.projection, steps.norm, steps.project);
      if (!Heads::launch_alone(*device_, plan, arguments.heads))
        cuda::launch_heads<Heads::threads>(*device_, plan.list, arguments.heads, counters, plan.counters);
    }
    cuda::launch_linear<least_rows>(*device_, steps.output, cuda::NoNorm{}, steps.residual);
    cuda::mlp<T, least_rows>(*device_, {.x = steps.residual.x,
                                        .rows = call.rows,
                                        .d_model = shape_.layer.d_model,
                                        .d_ff = shape_.layer.d_ff,
                                        .gate_up = layer.gate_up.data(),
                                        .down = layer.down.data(),
                                        .norm = steps.norm,
                                        .new_sums = call.sums,
                                        .workspace = call.h,
                                        .counters = {counters}});
  }

  /// The matrix products of a layer.
  template <class Layer>
  cuda::DecodeLayerSteps<T> linear_steps(const Layer& layer, const Call& call,
                                         const cuda::ProjectionTarget<T>* targets) const {
    const LayerShape& shape = shape_.layer;
    const auto operands = [&](const T* rows, int inner, const auto& weights, int columns) {
      return cuda::GemmOperands<cuda::DenseRows<T>>{
          .rows = {{rows, inner}, call.rows}, .weights = weights.data(), .columns = columns, .inner = inner};
    };
    return {.projection = operands(call.x, shape.d_model, layer.projection, layer.projection_columns),
            .output = operands(call.u, shape.heads_width(), layer.output, shape.d_model),
            .gate_up = operands(call.x, shape.d_model, layer.gate_up, cuda::gate_up_columns(shape.d_ff)),
            .down = operands(call.h, shape.d_ff, layer.down, shape.d_ff == 0 ? 0 : shape.d_model),
            .norm = {call.sums, static_cast<float>(shape.norm_epsilon)},
            .project = {.units = layer.units.data(),
                        .targets = targets,
                        .bias = layer.bias.size() > 0 ? layer.bias.data() : nullptr,
                        .places = call.places,
                        .rope = call.batch.rope,
                        .pages = call.batch.pages,
                        .pages_per_sequence = call.batch.pages_per_sequence},
            .swiglu = {.out = {call.h, shape.d_ff}, .columns = shape.d_ff},
            .residual = {.x = {call.x, shape.d_model}, .columns = shape.d_model, .sums = call.sums}};
  }

  /// Where the projected columns of every run go: matrices of this call, or pools of pages.
  std::vector<cuda::ProjectionTarget<T>> make_targets(std::size_t index, const Call& call, Cache& cache) {
    const HeadShape shape = shape_.layer.head_shape();
    std::vector<cuda::ProjectionTarget<T>> out(static_cast<std::size_t>(weights_.layers[index].target_count));
    weights_.layers[index].for_each_run([&]<class Run>(std::size_t run_index, const Run& run) {
      if (run.groups == 0) return;
      for (int t = 0; t < Run::Kernel::targets; ++t) {
        auto& target = out[static_cast<std::size_t>(run.first_target + t)];
        target.stride = Run::Kernel::target_width(run.mixer, shape, run.groups, t);
        if (target.stride > 0) {
          target.data = layer_memory_.template take<T>(static_cast<std::size_t>(call.rows * target.stride));
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

  template <class Run>
  cuda::DeviceRun<T> describe_run(std::size_t layer, std::size_t index, const Run& run, const Call& call,
                                  Cache& cache, std::span<const cuda::ProjectionTarget<T>> targets) {
    const HeadShape shape = shape_.layer.head_shape();
    cuda::DeviceRun<T> out{
        .shape = shape,
        .groups = run.groups,
        .group_index = run.group_index.data(),
        .targets = targets.subspan(static_cast<std::size_t>(run.first_target), Run::Kernel::targets),
        .local = run.local_pointers(),
        .prepared = run.prepared.data(),
        .out = {call.u, shape_.layer.heads_width()}};
    for (std::size_t f = 0; f < run.mixer.cache_fields(shape).size(); ++f)
      out.fields.push_back(
          {cache.field(layer, index, f), cache.block_stride(layer, index, f),
           cache.layout().layers[layer][index].fields[f].ring_capacity(cache.max_rollback())});
    return out;
  }

  std::vector<Token> finish(const Call& call, bool wants_logits) {
    const std::size_t count = call.batch.sequences.size();
    const auto vocabulary = static_cast<std::size_t>(shape_.vocabulary);
    const int parts = cuda::row_parts(static_cast<int>(count), shape_.vocabulary);
    float* logits = wants_logits ? memory_.template take<float>(count * vocabulary) : nullptr;
    auto* tokens = memory_.template take<Token>(count);
    cuda::logits<T>(*device_,
                    {.rows = {{call.x, shape_.layer.d_model}, static_cast<int>(count), call.last_rows},
                     .head = weights_.head.data(),
                     .vocabulary = shape_.vocabulary,
                     .d_model = shape_.layer.d_model,
                     .norm = {call.sums, static_cast<float>(shape_.layer.norm_epsilon)},
                     .logits = {logits, shape_.vocabulary},
                     .largest = memory_.template take<cuda::MaxPart>(count * static_cast<std::size_t>(parts)),
                     .tokens = tokens});
    std::vector<Token> out(count);
    logits_.resize(wants_logits ? count * vocabulary : 0);
    device_->copy_to_host(out.data(), tokens, count * sizeof(Token));
    if (wants_logits) device_->copy_to_host(logits_.data(), logits, logits_.size() * sizeof(float));
    device_->synchronize();
    return out;
  }

  void reserve_counters(int count) {
    const auto needed = static_cast<std::size_t>(count);
    if (needed <= counters_.size()) return;
    counters_ = cuda::DeviceArray<unsigned, Device>(*device_, needed);
    device_->zero(counters_.data(), counters_.bytes());
  }

  Device* device_;
  ModelShape shape_;
  CacheLayout layout_;
  DeviceWeights<Kinds, Precision, Device> weights_;
  DeviceRopeTable<Device> rope_;
  cuda::CallMemory<Device> memory_;        // for a call
  cuda::CallMemory<Device> layer_memory_;  // for a layer of a call; the next layer uses it anew
  cuda::UploadMemory<Device> uploads_;
  cuda::DeviceArray<unsigned, Device> counters_;  // of one launch after the other; zero between them
  std::vector<float> logits_;
};

}  // namespace rf

#endif  // RECURFORMER_MODEL_DEVICE_MODEL_HPP
