#ifndef RECURFORMER_MODEL_DEVICE_MODEL_HPP
#define RECURFORMER_MODEL_DEVICE_MODEL_HPP

// A model on a device: Model<Spec, rf::Cuda>, or Model<Spec, rf::Simulated> where there is no GPU. Made from
// a model on the host, it prefills and decodes over a DeviceCache. How, model/device_layers.hpp says.
//
// The residual stream and all activations between launches are of the layer's 16-bit type; sums and states
// are float.

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "recurformer/cuda/attention_mixer.hpp"
#include "recurformer/cuda/embedding.hpp"
#include "recurformer/cuda/logits.hpp"
#include "recurformer/cuda/mamba2_mixer.hpp"
#include "recurformer/cuda/mamba_mixer.hpp"
#include "recurformer/cuda/sampling.hpp"
#include "recurformer/model/backend.hpp"
#include "recurformer/model/device_cache.hpp"
#include "recurformer/model/device_call.hpp"
#include "recurformer/model/device_layers.hpp"
#include "recurformer/model/kernel_device.hpp"
#include "recurformer/model/sampler.hpp"

namespace rf {

/// Inference of a model on a device; Model<Spec, Device> is one. For one thread; several models may share a
/// device. `extern template class DeviceModel<…>` keeps its kernels out of a file.
template <ModelSpec Spec, KernelDevice Device>
class DeviceModel {
  using Traits = detail::ModelTraits<Spec>;

 public:
  using Kinds = typename Traits::Kinds;
  using Precision = typename Traits::Precision;
  using Widths = typename Traits::Widths;
  using Weights = ModelWeights<Kinds, Precision>;
  using T = typename Precision::Weight;
  using Cache = DeviceCache<Device>;
  using Observer = typename DeviceLayers<Kinds, Precision, Widths, Device>::Observer;

  /// Copies the weights of a model on the host, which are not packed, to `device`, which must outlive this.
  DeviceModel(Device& device, const Weights& host);

  Device& device() const { return *device_; }
  const ModelShape& shape() const { return shape_; }
  const CacheLayout& cache_layout() const { return layout_; }
  /// An empty cache for this model.
  Cache make_cache(CacheOptions options = {}) const {
    std::vector<std::vector<RecordedRow>> recorded;
    if (options.max_rollback > 0) recorded = layers_.recorded_rows();
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

  /// The same with an observer of every layer's heads (plan/device_analysis.hpp).
  void observe(std::span<const Token> tokens, std::span<const SequenceTokens> parts, Cache& cache,
               const Observer& observer) {
    run(tokens, parts, cache, {.observer = observer});
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
    Observer observer = {};
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

  using Layers = DeviceLayers<Kinds, Precision, Widths, Device>;
  using Call = typename Layers::Call;

  std::vector<Token> run(std::span<const Token> tokens, std::span<const SequenceTokens> parts, Cache& cache,
                         const Wanted& wanted);

  void check_tokens(std::span<const Token> tokens, std::span<const SequenceTokens> parts) const {
    std::int64_t rows = 0;
    for (const SequenceTokens& part : parts) rows += part.rows;
    check(rows == static_cast<std::int64_t>(tokens.size()), "the parts of this call have ", rows,
          " tokens, but ", tokens.size(), " were given");
    for (const Token token : tokens)
      check(token >= 0 && token < shape_.vocabulary, "token ", token, " is not in the vocabulary of ",
            shape_.vocabulary);
  }

  void embed(const Call& call, const Token* tokens) {
    cuda::embed<T>(*device_, {.tokens = tokens,
                              .table = vocabulary_.embedding.data(),
                              .x = call.x,
                              .sums = call.sums,
                              .rows = call.rows,
                              .width = shape_.layer.d_model});
  }

  /// What is wanted of the last token of each part; `last_rows` and `uniforms` of the parts on the device.
  std::vector<Token> finish(const Call& call, const Wanted& wanted, const int* last_rows,
                            const double* uniforms) {
    const std::size_t count = call.batch.sequences.size();
    const auto vocabulary = static_cast<std::size_t>(shape_.vocabulary);
    const int parts = cuda::row_parts(static_cast<int>(count), shape_.vocabulary);
    const bool draws = !wanted.uniforms.empty();
    float* logits =
        wanted.logits || draws ? layers_.memory().template take<float>(count * vocabulary) : nullptr;
    auto* tokens = layers_.memory().template take<Token>(count);
    cuda::logits<T>(
        *device_,
        {.rows = {{call.x.data, call.x.stride}, static_cast<int>(count), last_rows},
         .head = vocabulary_.head.data(),
         .vocabulary = shape_.vocabulary,
         .d_model = shape_.layer.d_model,
         .norm = {call.sums, static_cast<float>(shape_.layer.norm_epsilon)},
         .logits = {logits, shape_.vocabulary},
         .largest = layers_.memory().template take<cuda::MaxPart>(count * static_cast<std::size_t>(parts)),
         .tokens = tokens});
    if (draws)
      cuda::sample(*device_, {.logits = {logits, shape_.vocabulary},
                              .rows = static_cast<int>(count),
                              .vocabulary = shape_.vocabulary,
                              .temperature = static_cast<float>(wanted.sampling.temperature),
                              .top_k = wanted.sampling.top_k,
                              .top_p = wanted.sampling.top_p,
                              .uniforms = uniforms,
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

  Device* device_;
  ModelShape shape_;
  CacheLayout layout_;
  DeviceVocabulary<T, Device> vocabulary_;
  Layers layers_;
  std::vector<float> logits_;
};

// What launches kernels is defined here, not in the class: an inline member would compile them again in every
// file, `extern template` or not.

template <ModelSpec Spec, KernelDevice Device>
DeviceModel<Spec, Device>::DeviceModel(Device& device, const Weights& host)
    : device_(&device),
      shape_(host.shape),
      vocabulary_(device, host),
      layers_(device, shape_.layer, host.layers) {
  for (const auto& layer : host.layers) layout_.layers.push_back(layer_cache_layout(layer, shape_.layer));
}

template <ModelSpec Spec, KernelDevice Device>
std::vector<Token> DeviceModel<Spec, Device>::run(std::span<const Token> tokens,
                                                  std::span<const SequenceTokens> parts, Cache& cache,
                                                  const Wanted& wanted) {
  if (parts.empty()) return {};
  check_tokens(tokens, parts);
  const Call call = layers_.begin(parts, cache);
  std::vector<int> last_rows;
  for (const SequenceRows& sequence : call.sequences)
    last_rows.push_back(static_cast<int>(sequence.first_row + sequence.rows) - 1);
  const int* const last_rows_there = layers_.uploads().add(last_rows);
  const Token* const tokens_there = layers_.uploads().add(tokens);
  const double* const uniforms_there = layers_.uploads().add(wanted.uniforms);
  layers_.run(
      call, cache, [&] { embed(call, tokens_there); }, wanted.observer);
  return finish(call, wanted, last_rows_there, uniforms_there);
}

template <ModelSpec Spec, KernelDevice Device>
class Model<Spec, Device> : public DeviceModel<Spec, Device> {
 public:
  using DeviceModel<Spec, Device>::DeviceModel;
};

}  // namespace rf

#endif  // RECURFORMER_MODEL_DEVICE_MODEL_HPP
