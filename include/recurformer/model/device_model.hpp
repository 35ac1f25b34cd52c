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
#include "recurformer/cuda/sampling.hpp"
#include "recurformer/model/backend.hpp"
#include "recurformer/model/device_cache.hpp"
#include "recurformer/model/device_heads.hpp"
#include "recurformer/model/device_rollback.hpp"
#include "recurformer/model/device_weights.hpp"
#include "recurformer/model/kernel_device.hpp"
#include "recurformer/model/sampler.hpp"

namespace rf {

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
  Cache make_cache(CacheOptions options = {}) const {
    std::vector<std::vector<RecordedRow>> recorded;
    if (options.max_rollback > 0) recorded = recorded_rows();
    return Cache(*device_, layout_, options, std::move(recorded));
  }

  /// New tokens of several sequences, those of parts[0] first, through the model; the cache advances. Logits
  /// (parts, vocabulary) of the last token of each part, valid until the next call; a part without tokens is
  /// an error.
  std::span<const float> forward(std::span<const Token> tokens, std::span<const SequenceTokens> parts,
                                 Cache& cache) {
    run(tokens, parts, cache, {.logits = true});
    return logits_;
  }
  /// The same for the greedy choice of each part's next token; logits stay on the device.
  std::vector<Token> greedy(std::span<const Token> tokens, std::span<const SequenceTokens> parts,
                            Cache& cache) {
    return run(tokens, parts, cache, {});
  }
  /// The same for the next token of each part as rf::Sampler chooses it on the host, drawn on the device:
  /// `steps` tokens were drawn for each part's sequence before. ArgumentError for logits that are no
  /// distribution.
  std::vector<Token> sample(std::span<const Token> tokens, std::span<const SequenceTokens> parts,
                            Cache& cache, const SamplingOptions& options,
                            std::span<const std::uint64_t> steps) {
    const Sampler sampler(options);  // checks the options
    check(steps.size() == parts.size(), "sampling for ", parts.size(), " sequences got ", steps.size(),
          " numbers of steps");
    if (options.temperature == 0 || options.top_k == 1) return greedy(tokens, parts, cache);
    std::vector<double> uniforms;
    for (std::size_t i = 0; i < parts.size(); ++i)
      uniforms.push_back(Sampler::uniform(options, static_cast<std::uint64_t>(parts[i].sequence), steps[i]));
    return run(tokens, parts, cache, {.sampling = options, .uniforms = uniforms});
  }

  /// Logits (vocabulary) of the last of `tokens`, the next ones of one sequence. Long prompts are fed in
  /// chunks.
  std::span<const float> next_logits(std::span<const Token> tokens, Cache& cache, std::int64_t sequence = 0) {
    const std::span<const Token> last = feed_all_but_the_last_chunk(tokens, cache, sequence);
    const SequenceTokens part{sequence, static_cast<std::int64_t>(last.size())};
    return forward(last, {&part, 1}, cache);
  }
  /// The next token of one sequence, chosen as by sample() after `step` tokens.
  Token next_token(std::span<const Token> tokens, Cache& cache, const SamplingOptions& options,
                   std::uint64_t step, std::int64_t sequence = 0) {
    const std::span<const Token> last = feed_all_but_the_last_chunk(tokens, cache, sequence);
    const SequenceTokens part{sequence, static_cast<std::int64_t>(last.size())};
    return sample(last, {&part, 1}, cache, options, {&step, 1})[0];
  }

 private:
  /// What a call gives beside the cache's advance: tokens that are the best ones, or drawn where there are
  /// uniforms.
  struct Wanted {
    bool logits = false;  ///< on the host
    SamplingOptions sampling = {};
    std::span<const double> uniforms = {};
  };

  std::span<const Token> feed_all_but_the_last_chunk(std::span<const Token> tokens, Cache& cache,
                                                     std::int64_t sequence) {
    check(!tokens.empty(), "the next token after no tokens was asked for; at least one is needed");
    constexpr std::size_t chunk = 8192;  // bounds the memory of activations
    for (; tokens.size() > chunk; tokens = tokens.subspan(chunk)) {
      const SequenceTokens part{sequence, static_cast<std::int64_t>(chunk)};
      run(tokens.first(chunk), {&part, 1}, cache, {});
    }
    return tokens;
  }

  /// What a rollback needs to know of every token, per layer and run.
  std::vector<std::vector<RecordedRow>> recorded_rows() const {
    std::vector<std::vector<RecordedRow>> out;
    for (const auto& layer : weights_.layers) {
      auto& of_layer = out.emplace_back();
      layer.for_each_run([&](auto, const auto& run) {
        of_layer.push_back(detail::recorded_row<T>(run, shape_.layer.head_shape()));
      });
    }
    return out;
  }

  /// A launch of recurrent heads per layer.
  struct Stage {
    detail::RecurrentStage tokens;
    cuda::DeviceBatch batch;
  };

  /// What all layers of a call share.
  struct Call {
    std::vector<SequenceRows> sequences;
    std::vector<int> slots;
    cuda::DeviceBatch batch;
    std::vector<Stage> stages;  // the other heads are launched with the first
    int rows = 0;
    T* x = nullptr;      // (rows, d_model)
    T* u = nullptr;      // (rows, heads · d_head)
    T* h = nullptr;      // (rows, d_ff)
    cuda::RowSums sums;  // of x
    const Token* tokens = nullptr;
    const int* last_rows = nullptr;  // of each part
    cuda::RowPlace* places = nullptr;
    const double* uniforms = nullptr;  // of each part
  };

  std::vector<Token> run(std::span<const Token> tokens, std::span<const SequenceTokens> parts, Cache& cache,
                         const Wanted& wanted) {
    if (parts.empty()) return {};
    memory_.reset();
    uploads_.reset();
    Call call = begin(tokens, parts, cache);
    call.uniforms = uploads_.add(wanted.uniforms);
    replay(call, cache);
    with_heads(call.batch.longest, [&]<class Heads>(Heads) { run_layers<Heads>(call, cache); });
    for (const SequenceTokens& part : parts) cache.advance(part.sequence, part.rows);
    for (const Stage& stage : call.stages)
      for (const auto& [sequence, position] : stage.tokens.reached)
        cache.advance_checkpoint(sequence, position);
    return finish(call, wanted);
  }

  Call begin(std::span<const Token> tokens, std::span<const SequenceTokens> parts, Cache& cache) {
    Call call;
    std::vector<int> last_rows;
    std::int64_t rows = 0, furthest = 0;
    for (const SequenceTokens& part : parts) {
      check(part.rows > 0, "sequence ", part.sequence, " gets no token in this call");
      for (const int slot : call.slots)
        check(slot != part.sequence, "sequence ", part.sequence, " appears twice in one call");
      const std::int64_t position = cache.length(part.sequence);
      call.sequences.push_back({.first_row = rows, .rows = part.rows, .position = position});
      call.slots.push_back(static_cast<int>(part.sequence));
      rows += part.rows;
      last_rows.push_back(static_cast<int>(rows) - 1);
      furthest = std::max(furthest, position + part.rows);
    }
    check(rows == static_cast<std::int64_t>(tokens.size()), "the parts of this call have ", rows,
          " tokens, but ", tokens.size(), " were given");
    for (const Token token : tokens)
      check(token >= 0 && token < shape_.vocabulary, "token ", token, " is not in the vocabulary of ",
            shape_.vocabulary);
    for (const SequenceTokens& part : parts) cache.reserve(part.sequence, part.rows);
    rope_.reserve(furthest);

    const LayerShape& shape = shape_.layer;
    const auto count = static_cast<std::size_t>(rows);
    call.batch = make_batch(call.sequences, call.slots, cache);
    call.stages = make_stages(call, cache);
    call.rows = static_cast<int>(rows);
    call.x = memory_.template take<T>(count * static_cast<std::size_t>(shape.d_model));
    call.u = memory_.template take<T>(count * static_cast<std::size_t>(shape.heads_width()));
    call.h = memory_.template take<T>(count * static_cast<std::size_t>(shape.d_ff));
    call.sums.parts = cuda::row_parts(call.rows, shape.d_model);
    call.sums.data = memory_.template take<float>(count * static_cast<std::size_t>(call.sums.parts));
    call.places = memory_.template take<cuda::RowPlace>(count);
    call.tokens = uploads_.add(tokens);
    call.last_rows = uploads_.add(last_rows);
    return call;
  }

  cuda::DeviceBatch make_batch(std::span<const SequenceRows> sequences, std::span<const int> slots,
                               const Cache& cache) {
    cuda::DeviceBatch batch{.sequences = sequences,
                            .device_sequences = uploads_.add(sequences),
                            .slots = slots,
                            .device_slots = uploads_.add(slots),
                            .rope = rope_.view()};
    std::size_t most_pages = 1;
    for (std::size_t i = 0; i < slots.size(); ++i) {
      batch.rows += sequences[i].rows;
      batch.longest = std::max(batch.longest, sequences[i].rows);
      most_pages = std::max(most_pages, cache.pages(slots[i]).size());
    }
    std::vector<int> pages(slots.size() * most_pages, 0);
    for (std::size_t i = 0; i < slots.size(); ++i)
      std::copy(cache.pages(slots[i]).begin(), cache.pages(slots[i]).end(),
                pages.begin() + static_cast<std::ptrdiff_t>(i * most_pages));
    batch.pages = uploads_.add(pages);
    batch.pages_per_sequence = static_cast<int>(most_pages);
    return batch;
  }

  /// One stage of all tokens, unless the cache can be rolled back and a multiple lies between them.
  std::vector<Stage> make_stages(const Call& call, const Cache& cache) {
    std::vector<Stage> out;
    if (cache.max_rollback() > 0)
      for (auto& tokens : detail::recurrent_stages(call.sequences, call.slots, cache.max_rollback()))
        out.push_back({.tokens = std::move(tokens), .batch = {}});
    if (out.size() <= 1) {
      out.resize(1);
      out[0].batch = call.batch;
    } else {
      for (Stage& stage : out) stage.batch = make_batch(stage.tokens.sequences, stage.tokens.slots, cache);
    }
    return out;
  }

  /// Calls f(DeviceHeads of the model's width, for calls with at most `longest` tokens per sequence).
  template <class F>
  void with_heads(std::int64_t longest, F&& f) const {
    detail::with_device_width(Widths{}, shape_.layer.d_head, [&](auto d_head) {
      if (longest <= cuda::most_decode_rows)
        f(DeviceHeads<Kinds, decltype(d_head)::value, T, HeadsMode::decode>{});
      else
        f(DeviceHeads<Kinds, decltype(d_head)::value, T, HeadsMode::prefill>{});
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
    std::vector<HeadsCall<Heads>> heads;                         // one after the other in every layer
    std::vector<const cuda::ProjectionTarget<T>*> targets = {};  // per layer
    std::vector<cuda::RowCopies> recorded = {};  // per layer; none for a cache that cannot be rolled back
  };

  /// Plans all layers and makes what their launches get; `heads` names the batches. Projections have `rows`
  /// rows, heads write to `out`. Rows of `batch` are recorded, or taken from where they were.
  template <class Heads>
  LayerCalls<Heads> prepare(std::vector<HeadsCall<Heads>> heads, const cuda::DeviceBatch& batch, T* out,
                            detail::RecordedDirection direction, Cache& cache) {
    const HeadShape shape = shape_.layer.head_shape();
    int counters = static_cast<int>(cuda::mlp_counters(static_cast<int>(batch.rows)));
    for (HeadsCall<Heads>& one : heads)
      for (const auto& layer : weights_.layers) {
        one.plan_of.push_back(Heads::plan(one.plans, *device_, one.batches, memory_, uploads_, shape, layer));
        counters = std::max(counters, Heads::own_counters + one.plans[one.plan_of.back()].counters);
      }
    reserve_counters(counters);
    LayerCalls<Heads> calls;
    calls.heads = std::move(heads);
    for (std::size_t i = 0; i < weights_.layers.size(); ++i) {
      layer_memory_.rewind();
      const std::vector<cuda::ProjectionTarget<T>> targets = make_targets(i, batch.rows, cache);
      calls.targets.push_back(uploads_.add(targets));
      for (HeadsCall<Heads>& one : calls.heads)
        one.parameters.push_back(Heads::bind(one.plan(i), one.batches, uploads_, counters_.data(), shape,
                                             weights_.layers[i], [&](std::size_t index, const auto& run) {
                                               return describe_run(i, index, run, out, cache, targets);
                                             }));
      if (cache.max_rollback() > 0)
        calls.recorded.push_back(make_copies(direction, i, batch, targets, cache));
    }
    uploads_.send();
    return calls;
  }

  /// Plans all layers, then launches them.
  template <class Heads>
  void run_layers(const Call& call, Cache& cache) {
    std::vector<HeadsCall<Heads>> heads;
    for (const Stage& stage : call.stages) {
      const bool is_first = heads.empty();
      heads.emplace_back().batches = {.recurrent = &stage.batch, .others = is_first ? &call.batch : nullptr};
    }
    const LayerCalls<Heads> calls =
        prepare(std::move(heads), call.batch, call.u, detail::RecordedDirection::to_cache, cache);
    embed(call);
    for (std::size_t i = 0; i < weights_.layers.size(); ++i) {
      run_layer(i, call, calls, cache);
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
    const cuda::DeviceBatch batch = make_batch(sequences, slots, cache);
    T* ignored = memory_.template take<T>(static_cast<std::size_t>(rows * shape_.layer.heads_width()));
    with_heads(batch.longest, [&]<class Heads>(Heads) {
      std::vector<HeadsCall<Heads>> heads(1);
      heads[0].batches.recurrent = &batch;
      const LayerCalls<Heads> calls =
          prepare(std::move(heads), batch, ignored, detail::RecordedDirection::from_cache, cache);
      for (std::size_t i = 0; i < weights_.layers.size(); ++i) {
        cuda::copy_rows(*device_, calls.recorded[i]);
        launch_heads(calls.heads[0], i);
      }
    });
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

  template <class Heads>
  void run_layer(std::size_t index, const Call& call, const LayerCalls<Heads>& calls, Cache& cache) {
    const auto& layer = weights_.layers[index];
    cuda::DecodeLayerSteps<T> steps = linear_steps(layer, call, calls.targets[index]);
    if constexpr (Heads::mode == HeadsMode::decode)
      if (call.rows <= cuda::most_decode_layer_rows) return run_few_rows(index, call, calls, steps, cache);
    constexpr int least_rows = cuda::most_decode_layer_rows + 1;
    cuda::launch_linear<least_rows>(*device_, steps.projection, steps.norm, steps.project);
    launch_heads(calls.heads[0], index);
    continue_heads(index, call, calls, cache);
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
    const typename Heads::Plan& plan = call.plan(layer);
    const auto& parameters = call.parameters[layer];
    unsigned* const counters = counters_.data();
    if constexpr (Heads::mode == HeadsMode::decode)
      cuda::decode_layer<Heads::blocks_per_multiprocessor>(*device_, cuda::DecodeLayerSteps<T>{}, plan.list,
                                                           parameters, counters, plan.counters);
    else if (!Heads::launch_alone(*device_, plan, parameters))
      cuda::launch_heads<Heads::threads>(*device_, plan.list, parameters, counters, plan.counters);
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
  std::vector<cuda::ProjectionTarget<T>> make_targets(std::size_t index, std::int64_t rows,
                                                      const Cache& cache) {
    const HeadShape shape = shape_.layer.head_shape();
    std::vector<cuda::ProjectionTarget<T>> out(static_cast<std::size_t>(weights_.layers[index].target_count));
    weights_.layers[index].for_each_run([&]<class Run>(std::size_t run_index, const Run& run) {
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

  template <class Run>
  cuda::DeviceRun<T> describe_run(std::size_t layer, std::size_t index, const Run& run, T* heads_out,
                                  const Cache& cache, std::span<const cuda::ProjectionTarget<T>> targets) {
    const HeadShape shape = shape_.layer.head_shape();
    cuda::DeviceRun<T> out{
        .shape = shape,
        .groups = run.groups,
        .group_index = run.group_index.data(),
        .targets = targets.subspan(static_cast<std::size_t>(run.first_target), Run::Kernel::targets),
        .local = run.local_pointers(),
        .prepared = run.prepared.data(),
        .out = {heads_out, shape_.layer.heads_width()}};
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
    weights_.layers[layer].for_each_run([&]<class Run>(std::size_t index, const Run& run) {
      if (run.groups == 0 || !layout_.layers[layer][index].is_recurrent()) return;
      const auto own = targets.subspan(static_cast<std::size_t>(run.first_target), Run::Kernel::targets);
      for (std::size_t i = 0; i < batch.sequences.size(); ++i)
        detail::add_recorded_copies(direction, cache, layer, index, own, batch.sequences[i], batch.slots[i],
                                    pieces);
    });
    cuda::RowCopies out{.pieces = uploads_.add(pieces), .count = static_cast<int>(pieces.size())};
    for (const cuda::RowCopy& piece : pieces) out.most_rows = std::max(out.most_rows, piece.rows);
    return out;
  }

  std::vector<Token> finish(const Call& call, const Wanted& wanted) {
    const std::size_t count = call.batch.sequences.size();
    const auto vocabulary = static_cast<std::size_t>(shape_.vocabulary);
    const int parts = cuda::row_parts(static_cast<int>(count), shape_.vocabulary);
    const bool draws = !wanted.uniforms.empty();
    float* logits = wanted.logits || draws ? memory_.template take<float>(count * vocabulary) : nullptr;
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
    if (draws)
      cuda::sample(*device_, {.logits = {logits, shape_.vocabulary},
                              .rows = static_cast<int>(count),
                              .vocabulary = shape_.vocabulary,
                              .temperature = static_cast<float>(wanted.sampling.temperature),
                              .top_k = wanted.sampling.top_k,
                              .top_p = wanted.sampling.top_p,
                              .uniforms = call.uniforms,
                              .tokens = tokens});
    std::vector<Token> out(count);
    logits_.resize(wanted.logits ? count * vocabulary : 0);
    device_->copy_to_host(out.data(), tokens, count * sizeof(Token));
    if (wanted.logits) device_->copy_to_host(logits_.data(), logits, logits_.size() * sizeof(float));
    device_->synchronize();
    for (std::size_t i = 0; i < count; ++i)
      check(out[i] >= 0 && out[i] < shape_.vocabulary, "the logits of sequence ", call.batch.slots[i],
            " hold NaN or infinity; the model's arithmetic broke down");
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
