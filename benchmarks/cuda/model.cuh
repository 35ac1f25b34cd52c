#ifndef RECURFORMER_BENCHMARKS_CUDA_MODEL_CUH
#define RECURFORMER_BENCHMARKS_CUDA_MODEL_CUH

// Whole models with random weights, and what a call of one costs at least.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "harness.cuh"
#include "locals.cuh"
#include "recurformer/core/random.hpp"
#include "recurformer/cuda.cuh"

namespace rf::benchmarks {

/// Attention and one recurrent mixer, in bf16.
template <class Recurrent, int d_head>
struct HybridSpec {
  using Kinds = rf::Kinds<Kind<Attention<>, Bf16>, Kind<Recurrent, Bf16>>;
  using Precision = Bf16;
  using Widths = std::integer_sequence<int, d_head>;
};

/// How many of a layer's groups are attention; the others are recurrent.
struct HybridPlan {
  ModelShape shape;
  int attention_groups = 0;

  friend bool operator==(const HybridPlan&, const HybridPlan&) = default;
};

namespace detail {

/// Fills bf16 matrices with numbers of deviation 0.02, drawn from a table: models have billions of them.
class WeightTable {
 public:
  WeightTable() {
    Random random(1);
    for (bf16& value : values_) value = bf16(static_cast<float>(random.uniform(-0.035, 0.035)));
  }
  void fill(bf16* out, std::int64_t count) {
    while (count > 0) {
      const auto piece = std::min<std::int64_t>(count, static_cast<std::int64_t>(values_.size() - next_));
      std::copy_n(values_.begin() + static_cast<std::ptrdiff_t>(next_), piece, out);
      out += piece, count -= piece;
      next_ = (next_ + static_cast<std::size_t>(piece)) % values_.size();
    }
  }

 private:
  std::vector<bf16> values_ = std::vector<bf16>(1'000'003);  // a prime: rows of matrices differ
  std::size_t next_ = 0;
};

}  // namespace detail

template <class Spec>
using HostWeights = ModelWeights<typename Spec::Kinds, typename Spec::Precision>;

/// Random weights: matrices from a table, the mixers' local parameters as they declare.
template <class Spec>
HostWeights<Spec> random_weights(const HybridPlan& plan) {
  const LayerShape& layer = plan.shape.layer;
  std::vector<int> groups(static_cast<std::size_t>(layer.kv_groups), 1);
  std::fill_n(groups.begin(), plan.attention_groups, 0);
  HostWeights<Spec> out(plan.shape, {{}, {static_cast<std::size_t>(plan.shape.layers), groups}});
  detail::WeightTable table;
  for (const ParameterRef& parameter : parameter_refs(out))
    if (parameter.dtype == DType::BF16) table.fill(static_cast<bf16*>(parameter.data), parameter.size);
  Random random(2);
  for (auto& weights : out.layers)
    weights.for_each_run([&](std::size_t, auto& run) {
      std::size_t local = 0;
      for (const ParameterSpec& parameter : run.mixer.parameters(layer.head_shape()))
        if (parameter.role == Role::local)
          fill_slices(parameter, layer.head_shape(), run.local[local++], random);
    });
  return out;
}

inline std::vector<Token> random_tokens(std::int64_t count, int vocabulary) {
  Random random(3);
  std::vector<Token> out;
  for (std::int64_t i = 0; i < count; ++i)
    out.push_back(static_cast<Token>(random.below(static_cast<std::uint64_t>(vocabulary))));
  return out;
}

/// A model of random weights and what it consists of.
template <class Spec>
class LoadedModel {
 public:
  explicit LoadedModel(const HybridPlan& plan) : LoadedModel(plan, random_weights<Spec>(plan)) {}

  const HybridPlan& plan() const { return plan_; }
  Model<Spec, Cuda>& model() { return model_; }
  /// Elements of all matrices that every token is multiplied with: those of the layers.
  double layer_weights() const { return layer_weights_; }

  /// A step of one new token in each of `sequences` sequences behind `past`: every weight once, the live
  /// cache once, states read and written.
  Work decode_work(std::int64_t sequences, std::int64_t past) const {
    const LayerShape& layer = plan_.shape.layer;
    const double head = static_cast<double>(plan_.shape.vocabulary) * layer.d_model;
    const auto count = static_cast<double>(sequences);
    return {.operations = 2 * count * (layer_weights_ + head + attended(static_cast<double>(past))),
            .bytes = 2 * (layer_weights_ + head) + count * cache_bytes(past)};
  }
  /// A prompt of one sequence: products with the layers' weights, scores and weighted sums of attention.
  Work prefill_work(std::int64_t tokens) const {
    const auto count = static_cast<double>(tokens);
    return {.operations = 2 * count * (layer_weights_ + attended(count / 2)), .bytes = 2 * layer_weights_};
  }

 private:
  LoadedModel(const HybridPlan& plan, const HostWeights<Spec>& weights)
      : plan_(plan), model_(gpu(), weights) {
    for (const auto& layer : weights.layers) {
      layer_weights_ += static_cast<double>(layer.output.size() + layer.gate_up.size() + layer.down.size());
      layer.for_each_run([&](std::size_t, const auto& run) {
        layer_weights_ += static_cast<double>(run.projection.size());
      });
    }
  }

  /// Multiply-adds of attention for a token that sees `keys` keys.
  double attended(double keys) const {
    const LayerShape& layer = plan_.shape.layer;
    return 2 * keys * plan_.shape.layers * plan_.attention_groups * layer.queries_per_group * layer.d_head;
  }
  /// Bytes of one sequence's cache that a step moves.
  double cache_bytes(std::int64_t past) const {
    double bytes = 0;
    for (const auto& layer : model_.cache_layout().layers)
      for (const RunLayout& run : layer)
        for (const FieldLayout& field : run.fields) {
          const auto block = static_cast<double>(field.block_bytes(0));
          bytes += field.field.kind == FieldKind::rows
                       ? block * static_cast<double>(past) / static_cast<double>(cache_page_rows)
                       : 2 * block;
        }
    return bytes;
  }

  HybridPlan plan_;
  Model<Spec, Cuda> model_;
  double layer_weights_ = 0;
};

/// The model of a plan, kept until another one is asked for: repetitions and sizes share it.
template <class Spec>
LoadedModel<Spec>& loaded_model(const HybridPlan& plan) {
  static std::unique_ptr<LoadedModel<Spec>> kept;
  if (!kept || !(kept->plan() == plan)) {
    kept.reset();
    kept = std::make_unique<LoadedModel<Spec>>(plan);
  }
  return *kept;
}

/// A cache whose sequences all hold the same `past` random tokens.
template <class Spec>
void feed(LoadedModel<Spec>& loaded, DeviceCache<Cuda>& cache, std::int64_t past) {
  const std::vector<Token> tokens = random_tokens(past, loaded.plan().shape.vocabulary);
  for (std::int64_t sequence = 0; sequence < cache.sequences(); ++sequence)
    loaded.model().next_logits(tokens, cache, sequence);
}

/// One token for each sequence of the cache.
template <class Spec>
void step(LoadedModel<Spec>& loaded, DeviceCache<Cuda>& cache, std::vector<Token>& tokens) {
  std::vector<SequenceTokens> parts;
  for (std::int64_t sequence = 0; sequence < cache.sequences(); ++sequence) parts.push_back({sequence, 1});
  tokens = loaded.model().greedy(tokens, parts, cache);
}

}  // namespace rf::benchmarks

#endif  // RECURFORMER_BENCHMARKS_CUDA_MODEL_CUH
