#ifndef RECURFORMER_MODEL_MODEL_HPP
#define RECURFORMER_MODEL_MODEL_HPP

// A whole model: embedding, layers, final norm, logits. Inference runs over a hybrid cache; training keeps a
// tape.

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "recurformer/core/parallel.hpp"
#include "recurformer/model/backend.hpp"
#include "recurformer/model/cache.hpp"
#include "recurformer/model/layer.hpp"
#include "recurformer/model/weights.hpp"

namespace rf {

/// Whether a tape keeps the activations of every layer, or its input only, from which they are computed again
/// when backward comes to it: a fraction of the memory, most of a forward pass more, the same bits.
enum class Activations { kept, recomputed };

/// What backward of a whole model reads.
struct ModelTape {
  Activations activations = Activations::kept;  // to be set before forward
  std::vector<Token> tokens;
  std::vector<SequenceRows> sequences;
  std::vector<FloatBuffer> inputs;  // of every layer (rows, d_model)
  std::vector<LayerTape> layers;    // of every layer; one that all share where they are recomputed
  std::size_t shared_by = 0;        // the layer that the shared one is of now
  FloatBuffer x;                    // scratch between layers, then the last layer's output (rows, d_model)
  FloatBuffer scale;                // its reciprocal rms
  FloatBuffer hidden;               // after the final norm (rows, d_model), what logits are made of

  std::int64_t rows() const { return static_cast<std::int64_t>(tokens.size()); }
};

/// A model over the set of kinds of its spec, with any plan made of them. Not copyable by accident: clone
/// weights() where a second model is wanted.
template <ModelSpec Spec, class Backend>
class Model {
  using Traits = detail::ModelTraits<Spec>;

 public:
  using Kinds = typename Traits::Kinds;
  using Precision = typename Traits::Precision;
  using Widths = typename Traits::Widths;
  using Weights = ModelWeights<Kinds, Precision>;
  using Gradients = ModelGradients<Kinds>;

  /// A model of this shape with this plan, parameters not yet set (see initialise() and checkpoint/).
  Model(const ModelShape& shape, const Plan& plan) requires(!Traits::is_static)
      : Model(shape, bind_plan<Kinds>(plan)) {}
  /// The model that the spec describes. (A template, since Clang 14 would define it for every explicitly
  /// instantiated model.)
  template <class T = Traits>
  Model() requires(T::is_static) : Model(T::shape(), T::plan()) {}
  Model(const ModelShape& shape, BoundPlan<Kinds> plan)
      : plan_(std::move(plan)),
        weights_(shape, plan_),
        rope_(shape.layer.d_head, shape.layer.rope_base, shape.layer.rope_scaling) {}

  const ModelShape& shape() const { return weights_.shape; }
  const BoundPlan<Kinds>& plan() const { return plan_; }
  Weights& weights() { return weights_; }
  const Weights& weights() const { return weights_; }

  /// The plan by names, as written to files.
  Plan named_plan() const { return rf::named_plan(plan_); }

  CacheLayout cache_layout() const {
    CacheLayout out;
    for (const auto& layer : weights_.layers) out.layers.push_back(layer_cache_layout(layer, shape().layer));
    return out;
  }
  /// An empty cache. All of it comes from `memory`, which must outlive it.
  Cache make_cache(CacheOptions options = {}, std::pmr::memory_resource* memory = default_memory()) const {
    return Cache(cache_layout(), options, memory);
  }

  /// Feeds the next tokens of one or several sequences of `cache` (tokens packed in the order of `parts`,
  /// each sequence at most once) and returns the hidden state after the final norm of every token, (tokens,
  /// d_model), valid until the next call. Prefill and decode are the same call with many or few rows.
  const float* forward(std::span<const Token> tokens, std::span<const SequenceTokens> parts, Cache& cache) {
    std::vector<SequenceRows> sequences;
    std::vector<std::int64_t> indices;
    std::int64_t rows = 0, furthest = 0;
    for (const SequenceTokens& part : parts) {
      for (const std::int64_t other : indices)
        check(other != part.sequence, "sequence ", part.sequence, " appears twice in one call");
      const std::int64_t position = cache.length(part.sequence);
      sequences.push_back({.first_row = rows, .rows = part.rows, .position = position});
      indices.push_back(part.sequence);
      rows += part.rows;
      furthest = std::max(furthest, position + part.rows);
    }
    check(rows == static_cast<std::int64_t>(tokens.size()), "the parts of this call have ", rows,
          " tokens, but ", tokens.size(), " were given");
    rope_.reserve(furthest);
    for (const SequenceTokens& part : parts) cache.reserve(part.sequence, part.rows);
    const ForwardCall call{
        .rows = rows, .sequences = sequences, .rope = &rope_, .cache = &cache, .cache_sequence = indices};
    run_layers(tokens, call);
    for (const SequenceTokens& part : parts) cache.advance(part.sequence, part.rows);
    return hidden_.data();
  }

  /// Logits (vocabulary) of the last of `tokens`, the next ones of one sequence. Long prompts are fed in
  /// chunks.
  std::span<const float> next_logits(std::span<const Token> tokens, Cache& cache, std::int64_t sequence = 0) {
    check(!tokens.empty(), "next_logits needs at least one token");
    constexpr std::size_t chunk = 2048;  // bounds the memory of activations
    for (; tokens.size() > chunk; tokens = tokens.subspan(chunk)) {
      const SequenceTokens part{sequence, static_cast<std::int64_t>(chunk)};
      forward(tokens.first(chunk), {&part, 1}, cache);
    }
    const SequenceTokens part{sequence, static_cast<std::int64_t>(tokens.size())};
    const float* hidden = forward(tokens, {&part, 1}, cache);
    logits_.resize(static_cast<std::size_t>(shape().vocabulary));
    logits(hidden + (static_cast<std::int64_t>(tokens.size()) - 1) * shape().layer.d_model, 1,
           logits_.data());
    return logits_;
  }

  /// Logits (rows, vocabulary) of hidden states (rows, d_model).
  void logits(const float* hidden, std::int64_t rows, float* out) const;

  /// Forward over whole, independent sequences without a cache; hidden states (tokens, d_model), valid until
  /// the next call.
  const float* forward(std::span<const Token> tokens, std::span<const SequenceRows> sequences) {
    reserve_positions(sequences);
    run_layers(tokens,
               {.rows = static_cast<std::int64_t>(tokens.size()), .sequences = sequences, .rope = &rope_});
    return hidden_.data();
  }

  /// The same, keeping what backward() needs in the tape, as tape.activations says; the hidden states are
  /// tape.hidden. With one probe per layer, attention heads also report where they look.
  void forward(std::span<const Token> tokens, std::span<const SequenceRows> sequences, ModelTape& tape,
               std::span<const cpu::AttentionProbe> probes = {});

  /// Adds the gradients of a loss to `gradients`, given its gradient d_hidden (tokens, d_model) at
  /// tape.hidden. The logits' own matrix is the caller's (loss and logits are worked in blocks of rows, see
  /// train/loss.hpp).
  void backward(ModelTape& tape, const float* d_hidden, Gradients& gradients);

  /// What forward left in the tape of one layer, computed again where it was not kept; then valid until
  /// another layer is asked for.
  const LayerTape& layer_tape(ModelTape& tape, std::size_t layer);

  /// Rearranges the weights for inference: faster, but they can no longer be changed, trained or saved.
  void pack();

  /// Gradients of this model's shape, zero.
  Gradients make_gradients() const {
    Gradients out(shape(), {plan_.mixers, plan_.kind_of_group});
    clear(out);
    return out;
  }

  /// Rotary positions [0, positions).
  const cpu::RopeTable& rope(std::int64_t positions) {
    rope_.reserve(positions);
    return rope_;
  }

  /// Rows of the embedding matrix -> x (tokens, d_model). A token outside the vocabulary is an error.
  void embed(std::span<const Token> tokens, float* x) const {
    const std::int64_t d = shape().layer.d_model;
    for (std::size_t r = 0; r < tokens.size(); ++r) {
      const Token token = tokens[r];
      check(token >= 0 && token < shape().vocabulary, "token ", token, " at position ", r,
            " of the call is outside the vocabulary of ", shape().vocabulary);
      const auto* row = weights_.embedding.row(token);
      for (std::int64_t i = 0; i < d; ++i) x[static_cast<std::int64_t>(r) * d + i] = convert<float>(row[i]);
    }
  }

 private:
  void reserve_positions(std::span<const SequenceRows> sequences) {
    std::int64_t longest = 0;
    for (const SequenceRows& s : sequences) longest = std::max(longest, s.position + s.rows);
    rope_.reserve(longest);
  }

  void run_layers(std::span<const Token> tokens, const ForwardCall& call);

  BoundPlan<Kinds> plan_;
  Weights weights_;
  cpu::RopeTable rope_;
  FloatBuffer x_, hidden_, dx_;
  std::vector<float> logits_;
  LayerScratch scratch_;
  BackwardScratch backward_scratch_;
};

// What the kernels are instantiated by is defined here, not in the class: an inline member would be compiled
// again in every file, `extern template` or not.

template <ModelSpec Spec, class Backend>
void Model<Spec, Backend>::logits(const float* hidden, std::int64_t rows, float* out) const {
  weights_.logits().forward(hidden, shape().layer.d_model, rows, out, shape().vocabulary);
}

template <ModelSpec Spec, class Backend>
void Model<Spec, Backend>::forward(std::span<const Token> tokens, std::span<const SequenceRows> sequences,
                                   ModelTape& tape, std::span<const cpu::AttentionProbe> probes) {
  const std::int64_t d = shape().layer.d_model, rows = static_cast<std::int64_t>(tokens.size());
  reserve_positions(sequences);
  tape.tokens.assign(tokens.begin(), tokens.end());
  tape.sequences.assign(sequences.begin(), sequences.end());
  const std::size_t layers = weights_.layers.size();
  const bool keep = tape.activations == Activations::kept;
  tape.inputs.resize(layers);
  tape.layers.resize(keep ? layers : 1);
  tape.x.reserve(static_cast<std::size_t>(rows * d));
  tape.scale.reserve(static_cast<std::size_t>(rows));
  tape.hidden.reserve(static_cast<std::size_t>(rows * d));
  embed(tokens, tape.x.data());
  const ForwardCall call{.rows = rows, .sequences = tape.sequences, .rope = &rope_, .probes = probes};
  for (std::size_t l = 0; l < layers; ++l) {
    FloatBuffer& input = tape.inputs[l];
    LayerTape& layer = tape.layers[keep ? l : 0];
    input.reserve(static_cast<std::size_t>(rows * d));
    std::copy_n(tape.x.data(), rows * d, input.data());
    record_layer<Widths>(weights_.layers[l], shape().layer, call, l, input.data(), layer);
    recorded_output(weights_.layers[l], shape().layer, rows, input.data(), layer, tape.x.data());
    tape.shared_by = l;
  }
  cpu::rms_norm(tape.x.data(), weights_.final_norm.data(), shape().layer.norm_epsilon, rows, d,
                tape.hidden.data(), tape.scale.data());
}

template <ModelSpec Spec, class Backend>
const LayerTape& Model<Spec, Backend>::layer_tape(ModelTape& tape, std::size_t layer) {
  if (tape.activations == Activations::kept) return tape.layers[layer];
  LayerTape& shared = tape.layers[0];
  if (tape.shared_by != layer) {
    const ForwardCall call{.rows = tape.rows(), .sequences = tape.sequences, .rope = &rope_};
    record_layer<Widths>(weights_.layers[layer], shape().layer, call, layer, tape.inputs[layer].data(),
                         shared);
    tape.shared_by = layer;
  }
  return shared;
}

template <ModelSpec Spec, class Backend>
void Model<Spec, Backend>::backward(ModelTape& tape, const float* d_hidden, Gradients& gradients) {
  const std::int64_t d = shape().layer.d_model, rows = tape.rows();
  dx_.reserve(static_cast<std::size_t>(rows * d));
  cpu::rms_norm_backward(tape.x.data(), weights_.final_norm.data(), tape.scale.data(), d_hidden, rows, d,
                         dx_.data(), cpu::Accumulate::no, gradients.final_norm.data());
  const ForwardCall call{.rows = rows, .sequences = tape.sequences, .rope = &rope_};
  for (std::size_t l = weights_.layers.size(); l-- > 0;)
    backward_layer<Widths>(weights_.layers[l], gradients.layers[l], shape().layer, call,
                           tape.inputs[l].data(), layer_tape(tape, l), dx_.data(), backward_scratch_);
  float* d_embedding = gradients.embedding.data();
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t i = 0; i < d; ++i)
      d_embedding[tape.tokens[static_cast<std::size_t>(r)] * d + i] += dx_.data()[r * d + i];
}

template <ModelSpec Spec, class Backend>
void Model<Spec, Backend>::pack() {
  rf::pack(weights_);
}

template <ModelSpec Spec, class Backend>
void Model<Spec, Backend>::run_layers(std::span<const Token> tokens, const ForwardCall& call) {
  const std::int64_t d = shape().layer.d_model;
  x_.reserve(static_cast<std::size_t>(call.rows * d));
  hidden_.reserve(static_cast<std::size_t>(call.rows * d));
  embed(tokens, x_.data());
  for (std::size_t l = 0; l < weights_.layers.size(); ++l)
    forward_layer<Widths>(weights_.layers[l], shape().layer, call, l, {x_.data(), d}, scratch_);
  cpu::rms_norm(x_.data(), weights_.final_norm.data(), shape().layer.norm_epsilon, call.rows, d,
                hidden_.data());
}

}  // namespace rf

#endif  // RECURFORMER_MODEL_MODEL_HPP
