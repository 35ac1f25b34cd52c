#ifndef RECURFORMER_MODEL_WEIGHTS_HPP
#define RECURFORMER_MODEL_WEIGHTS_HPP

// All parameters of a model, laid out for the kernels: per run one fused projection whose rows are
// [group][declared projection][unit][row], and the local parameters as (group, unit, slice). Gradients are
// the same structure in float.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "recurformer/core/parallel.hpp"
#include "recurformer/core/tensor.hpp"
#include "recurformer/model/cache_layout.hpp"
#include "recurformer/model/linear.hpp"
#include "recurformer/model/parameters.hpp"
#include "recurformer/spec/model_spec.hpp"

namespace rf {

/// A matrix of weights in this precision.
template <Precision P>
using LinearIn = Linear<typename P::Weight, PackedWeight<P>>;

/// The parameters of the groups of one kind in one layer.
template <class K>
struct RunWeights {
  using Kind = K;
  using Mixer = typename K::Mixer;
  using Matrix = LinearIn<typename K::Precision>;

  Mixer mixer;
  std::vector<int> groups;  ///< the layer's indices of this run's groups, ascending
  Matrix projection;
  std::vector<float> bias;                ///< of the projection; empty if the mixer declares none
  std::vector<std::vector<float>> local;  ///< declared order

  RunWeights() = default;
  RunWeights(const Mixer& which, std::vector<int> of_groups, const HeadShape& shape)
      : mixer(which), groups(std::move(of_groups)) {
    check(groups.empty() || has_any_width<Mixer> || is_supported_d_head(shape.d_head), "d_head is ",
          shape.d_head, "; kernels of ", Mixer::name, " exist for 16, 32, 64, 80, 96, 128 and 256");
    const auto count = static_cast<std::int64_t>(groups.size());
    const std::int64_t rows = count * projection_width(mixer, shape);
    projection = Matrix(rows, shape.d_model);
    for (const ParameterSpec& parameter : mixer.parameters(shape)) {
      if (parameter.role == Role::projection_bias) bias.resize(static_cast<std::size_t>(rows));
      if (parameter.role == Role::local)
        local.emplace_back(static_cast<std::size_t>(count * parameter.group_size(shape)));
    }
  }

  std::int64_t width(const HeadShape& shape) const { return projection_width(mixer, shape); }
};

/// Calls f(const ParameterSpec&, g, T* data) for each declared parameter and each group g (counting the run's
/// groups), where data points at the group's contiguous elements.
template <class K, class F>
void for_each_group_slice(RunWeights<K>& run, const HeadShape& shape, F&& f) {
  const std::int64_t width = run.width(shape);
  std::int64_t row = 0, bias_row = 0;
  std::size_t local = 0;
  for (const ParameterSpec& parameter : run.mixer.parameters(shape)) {
    const std::int64_t size = parameter.group_size(shape);
    for (std::size_t g = 0; g < run.groups.size(); ++g) {
      const auto group = static_cast<std::int64_t>(g);
      if (parameter.role == Role::projection)
        f(parameter, g, run.projection.data() + (group * width + row) * shape.d_model);
      else if (parameter.role == Role::projection_bias)
        f(parameter, g, run.bias.data() + group * width + bias_row);
      else
        f(parameter, g, run.local[local].data() + group * size);
    }
    if (parameter.role == Role::projection) {
      bias_row = row;  // a bias belongs to the projection declared just before it
      row += parameter.group_rows(shape);
    }
    if (parameter.role == Role::local) ++local;
  }
}

/// The parameters of one layer; Runs are in the order of the model's set of kinds, empty ones included.
template <class Set, class P>
struct LayerWeights;
template <class... K, class P>
struct LayerWeights<Kinds<K...>, P> {
  using Matrix = LinearIn<P>;

  std::vector<float> mixer_norm;            ///< (d_model)
  std::vector<float> query_norm, key_norm;  ///< (d_head), gains; empty without shape.qk_norm
  std::tuple<RunWeights<K>...> runs;
  std::vector<float> heads_norm;  ///< (heads · d_head), gain; empty without shape.heads_norm
  Matrix output;                  ///< W_O (d_model, heads · d_head), columns in the original order of heads
  std::vector<float> mlp_norm;    ///< (d_model)
  Matrix gate_up;                 ///< W_gate over W_up (2 · d_ff, d_model)
  Matrix down;                    ///< (d_model, d_ff)

  LayerWeights() = default;
  LayerWeights(const LayerShape& shape, const std::tuple<typename K::Mixer...>& mixers,
               const std::vector<int>& kind_of_group)
      : mixer_norm(static_cast<std::size_t>(shape.d_model), 1.0f),
        query_norm(static_cast<std::size_t>(shape.qk_norm ? shape.d_head : 0), 1.0f),
        key_norm(query_norm),
        heads_norm(static_cast<std::size_t>(shape.heads_norm ? shape.heads_width() : 0), 1.0f),
        output(shape.d_model, shape.heads_width()),
        mlp_norm(static_cast<std::size_t>(shape.d_ff > 0 ? shape.d_model : 0), 1.0f),
        gate_up(2 * shape.d_ff, shape.d_model),
        down(shape.d_model, shape.d_ff) {
    check(static_cast<int>(kind_of_group.size()) == shape.kv_groups, "the plan of a layer names ",
          kind_of_group.size(), " KV groups; the layer has ", shape.kv_groups);
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      ((std::get<I>(runs) = RunWeights<K>(std::get<I>(mixers), groups_of(kind_of_group, static_cast<int>(I)),
                                          shape.head_shape())),
       ...);
    }
    (std::index_sequence_for<K...>{});
  }

  /// Calls f(index of the run, run) for every run, empty ones included.
  template <class F>
  void for_each_run(F&& f) {
    [&]<std::size_t... I>(std::index_sequence<I...>) { (f(I, std::get<I>(runs)), ...); }
    (std::index_sequence_for<K...>{});
  }
  template <class F>
  void for_each_run(F&& f) const {
    [&]<std::size_t... I>(std::index_sequence<I...>) { (f(I, std::get<I>(runs)), ...); }
    (std::index_sequence_for<K...>{});
  }

 private:
  static std::vector<int> groups_of(const std::vector<int>& kind_of_group, int kind) {
    std::vector<int> out;
    for (std::size_t group = 0; group < kind_of_group.size(); ++group)
      if (kind_of_group[group] == kind) out.push_back(static_cast<int>(group));
    return out;
  }
};

/// The parameters of a model.
template <class Set, class P>
struct ModelWeights {
  using Matrix = LinearIn<P>;

  ModelShape shape;
  Matrix embedding;  ///< (vocabulary, d_model)
  std::vector<LayerWeights<Set, P>> layers;
  std::vector<float> final_norm;  ///< (d_model)
  Matrix head;                    ///< (vocabulary, d_model); empty if tied

  ModelWeights() = default;
  ModelWeights(const ModelShape& of_shape, const BoundPlan<Set>& plan)
      : shape(of_shape),
        embedding(of_shape.vocabulary, of_shape.layer.d_model),
        final_norm(static_cast<std::size_t>(of_shape.layer.d_model), 1.0f),
        head(of_shape.tied_embeddings ? 0 : of_shape.vocabulary, of_shape.layer.d_model) {
    validate(shape);
    check(static_cast<int>(plan.kind_of_group.size()) == shape.layers, "the plan has ",
          plan.kind_of_group.size(), " layers; the model has ", shape.layers);
    for (const auto& kind_of_group : plan.kind_of_group)
      layers.emplace_back(shape.layer, plan.mixers, kind_of_group);
  }

  /// The matrix that makes logits.
  const Matrix& logits() const { return shape.tied_embeddings ? embedding : head; }
  Matrix& logits() { return shape.tied_embeddings ? embedding : head; }
};

/// Cache layout of one layer.
template <class Set, class P>
std::vector<RunLayout> layer_cache_layout(const LayerWeights<Set, P>& weights, const LayerShape& shape) {
  std::vector<RunLayout> out;
  weights.for_each_run([&]<class K>(std::size_t, const RunWeights<K>& run) {
    out.push_back(run_layout<K>(run.mixer, shape.head_shape(), static_cast<std::int64_t>(run.groups.size())));
    out.back().members = run.groups;
  });
  return out;
}

namespace detail {

template <class Set>
struct FloatKinds;
template <class... K>
struct FloatKinds<Kinds<K...>> {
  using type = Kinds<Kind<typename K::Mixer, Fp32>...>;
};

}  // namespace detail

/// Gradients of ModelWeights<Set, P>: the same structure in float.
template <class Set>
using ModelGradients = ModelWeights<typename detail::FloatKinds<Set>::type, Fp32>;

/// Every parameter in memory, in a fixed order that weights and gradients share.
template <class Set, class P>
std::vector<ParameterRef> parameter_refs(ModelWeights<Set, P>& weights) {
  std::vector<ParameterRef> out;
  int layer_index = -1, kind_index = -1;
  const auto matrix = [&](const std::string& name, auto& linear) {
    if (linear.size() > 0)
      out.push_back({name, dtype_of<std::remove_cvref_t<decltype(*linear.data())>>, linear.data(),
                     linear.size(), layer_index, kind_index, true});
  };
  const auto vector = [&](const std::string& name, std::vector<float>& values, bool weight_decay) {
    if (!values.empty())
      out.push_back({name, DType::F32, values.data(), static_cast<std::int64_t>(values.size()), layer_index,
                     kind_index, weight_decay});
  };
  matrix("embedding", weights.embedding);
  const HeadShape shape = weights.shape.layer.head_shape();
  for (auto& layer : weights.layers) {
    ++layer_index;
    const std::string prefix = text("layers.", layer_index, ".");
    vector(prefix + "mixer_norm", layer.mixer_norm, false);
    vector(prefix + "query_norm", layer.query_norm, false);
    vector(prefix + "key_norm", layer.key_norm, false);
    layer.for_each_run([&](std::size_t kind, auto& run) {
      if (run.groups.empty()) return;
      kind_index = static_cast<int>(kind);
      const std::string of_run = prefix + std::string(run.mixer.name) + ".";
      matrix(of_run + "projection", run.projection);
      vector(of_run + "bias", run.bias, false);
      std::size_t local = 0;
      for (const ParameterSpec& parameter : run.mixer.parameters(shape))
        if (parameter.role == Role::local)
          vector(of_run + std::string(parameter.name), run.local[local++], parameter.weight_decay);
      kind_index = -1;
    });
    vector(prefix + "heads_norm", layer.heads_norm, false);
    matrix(prefix + "output", layer.output);
    vector(prefix + "mlp_norm", layer.mlp_norm, false);
    matrix(prefix + "gate_up", layer.gate_up);
    matrix(prefix + "down", layer.down);
  }
  layer_index = -1;
  vector("final_norm", weights.final_norm, false);
  matrix("head", weights.head);
  return out;
}

/// Sets every gradient to zero.
template <class Set>
void clear(ModelWeights<Set, Fp32>& gradients) {
  for (const ParameterRef& gradient : parameter_refs(gradients))
    std::fill_n(static_cast<float*>(gradient.data), gradient.size, 0.0f);
}

namespace detail {

template <class T>
void add_matrix(std::vector<FileTensor>& out, const std::string& name, T* data, std::int64_t rows,
                std::int64_t columns) {
  if (rows * columns > 0)
    out.push_back({name, {rows, columns}, dtype_of<T>, {{dtype_of<T>, data, rows * columns}}});
}
inline void add_vector(std::vector<FileTensor>& out, const std::string& name, std::vector<float>& values) {
  const auto size = static_cast<std::int64_t>(values.size());
  if (size > 0) out.push_back({name, {size}, DType::F32, {{DType::F32, values.data(), size}}});
}

inline constexpr std::string_view embedding_tensor = "model.embed_tokens.weight";
inline constexpr std::string_view final_norm_tensor = "model.norm.weight";
inline constexpr std::string_view head_tensor = "lm_head.weight";
inline std::string layer_prefix(std::size_t layer) { return text("model.layers.", layer, "."); }

/// The tensors of a layer's mixers.
template <class Set, class P>
void add_mixer_tensors(LayerWeights<Set, P>& layer, const HeadShape& shape, const std::string& prefix,
                       std::vector<FileTensor>& out) {
  struct GroupPiece {
    int group;
    FilePiece piece;
  };
  struct Gathered {
    FileTensor tensor;
    std::vector<GroupPiece> pieces;
  };
  std::vector<Gathered> gathered;
  layer.for_each_run([&](std::size_t, auto& run) {
    for_each_group_slice(run, shape, [&](const ParameterSpec& parameter, std::size_t g, auto* data) {
      const std::string name = prefix + std::string(run.mixer.module) + "." + std::string(parameter.name);
      const DType dtype = dtype_of<std::remove_cvref_t<decltype(*data)>>;
      auto found = std::find_if(gathered.begin(), gathered.end(),
                                [&](const Gathered& one) { return one.tensor.name == name; });
      if (found == gathered.end()) {
        FileTensor tensor{name, {0}, dtype, {}};
        if (parameter.slice.rank == 2) tensor.shape.push_back(parameter.slice.columns);
        found = gathered.insert(gathered.end(), Gathered{std::move(tensor), {}});
      }
      found->tensor.shape[0] += parameter.group_rows(shape);
      found->pieces.push_back({run.groups[g], {dtype, data, parameter.group_size(shape)}});
    });
  });
  for (Gathered& one : gathered) {
    std::sort(one.pieces.begin(), one.pieces.end(),
              [](const GroupPiece& a, const GroupPiece& b) { return a.group < b.group; });
    for (const GroupPiece& piece : one.pieces) one.tensor.pieces.push_back(piece.piece);
    out.push_back(std::move(one.tensor));
  }
}

/// All tensors of a layer.
template <class Set, class P>
void add_layer_tensors(LayerWeights<Set, P>& layer, const LayerShape& shape, std::size_t index,
                       std::vector<FileTensor>& out) {
  const std::string prefix = layer_prefix(index);
  add_vector(out, prefix + "input_layernorm.weight", layer.mixer_norm);
  add_vector(out, prefix + "self_attn.q_norm.weight", layer.query_norm);
  add_vector(out, prefix + "self_attn.k_norm.weight", layer.key_norm);
  add_mixer_tensors(layer, shape.head_shape(), prefix, out);
  add_vector(out, prefix + "self_attn.heads_norm.weight", layer.heads_norm);
  add_matrix(out, prefix + "self_attn.o_proj.weight", layer.output.data(), layer.output.out(),
             layer.output.in());
  add_vector(out, prefix + "post_attention_layernorm.weight", layer.mlp_norm);
  if (shape.d_ff == 0) return;
  auto* const gate = layer.gate_up.data();
  add_matrix(out, prefix + "mlp.gate_proj.weight", gate, shape.d_ff, shape.d_model);
  add_matrix(out, prefix + "mlp.up_proj.weight", gate + std::int64_t{shape.d_ff} * shape.d_model, shape.d_ff,
             shape.d_model);
  add_matrix(out, prefix + "mlp.down_proj.weight", layer.down.data(), shape.d_model, shape.d_ff);
}

}  // namespace detail

/// Every tensor of the model's checkpoint. Names and shapes are those of Hugging Face's Llama; a tensor of a
/// mixer holds the groups whose mixer declares it (under its module), in the original order of groups.
template <class Set, class P>
std::vector<FileTensor> file_tensors(ModelWeights<Set, P>& weights) {
  // On all threads, since a matrix that nobody has set yet gets its zeros here.
  std::vector<std::vector<FileTensor>> of_layer(weights.layers.size());
  parallel_for(static_cast<std::int64_t>(of_layer.size()), [&](std::int64_t layer) {
    const auto l = static_cast<std::size_t>(layer);
    detail::add_layer_tensors(weights.layers[l], weights.shape.layer, l, of_layer[l]);
  });
  std::vector<FileTensor> out;
  detail::add_matrix(out, std::string(detail::embedding_tensor), weights.embedding.data(),
                     weights.embedding.out(), weights.embedding.in());
  for (std::vector<FileTensor>& tensors : of_layer)
    out.insert(out.end(), std::move_iterator(tensors.begin()), std::move_iterator(tensors.end()));
  detail::add_vector(out, std::string(detail::final_norm_tensor), weights.final_norm);
  if (!weights.shape.tied_embeddings)
    detail::add_matrix(out, std::string(detail::head_tensor), weights.head.data(), weights.head.out(),
                       weights.head.in());
  return out;
}

namespace detail {
/// Calls f(matrix) for every matrix of a layer.
template <class Set, class P, class F>
void for_each_matrix(LayerWeights<Set, P>& layer, const F& f) {
  layer.for_each_run([&](std::size_t, auto& run) { f(run.projection); });
  f(layer.output);
  f(layer.gate_up);
  f(layer.down);
}
}  // namespace detail

/// Rearranges every matrix for inference; see Linear::pack.
template <class Set, class P>
void pack(ModelWeights<Set, P>& weights) {
  for (auto& layer : weights.layers) detail::for_each_matrix(layer, [](auto& matrix) { matrix.pack(); });
  weights.logits().pack(weights.shape.tied_embeddings ? KeepRows::yes : KeepRows::no);
}

namespace detail {

template <class T>
void fill_normal(T* data, std::int64_t size, double deviation, Random random) {
  for (std::int64_t i = 0; i < size; ++i)
    data[i] = convert<T>(static_cast<float>(deviation * random.normal()));
}

inline double fan_in_deviation(std::int64_t n) {
  return 1.0 / std::sqrt(static_cast<double>(std::max<std::int64_t>(n, 1)));
}

/// Streams of random numbers that a layer takes: one per run, then W_O, gate and up, down.
template <class... K>
constexpr std::uint64_t streams_per_layer(Kinds<K...>) {
  return sizeof...(K) + 3;
}

/// The first stream of a layer of a model, whose embedding has the one before.
template <class Set>
constexpr std::uint64_t first_stream(std::size_t layer) {
  return 1 + layer * streams_per_layer(Set{});
}

/// Fresh parameters of the layer's mixers, from the streams `stream`, `stream` + 1, …
template <class Set, class P>
void initialise_mixers(LayerWeights<Set, P>& layer, const HeadShape& shape, std::uint64_t seed,
                       std::uint64_t stream) {
  layer.for_each_run([&](std::size_t, auto& run) {
    Random random = Random::stream(seed, stream++);
    for_each_group_slice(run, shape, [&](const ParameterSpec& parameter, std::size_t, auto* data) {
      std::vector<float> slice(static_cast<std::size_t>(parameter.slice.size()));
      for (int unit = 0; unit < parameter.units_per_group(shape); ++unit) {
        parameter.initialise(slice, shape, random);
        for (const float value : slice) *data++ = convert<std::remove_cvref_t<decltype(*data)>>(value);
      }
    });
  });
}

/// One of `layers` layers, from its streams_per_layer() streams.
template <class Set, class P>
void initialise_layer(LayerWeights<Set, P>& layer, const LayerShape& shape, int layers, std::uint64_t seed,
                      std::uint64_t stream) {
  initialise_mixers(layer, shape.head_shape(), seed, stream);
  stream += Set::size;
  const double residual = 1.0 / std::sqrt(2.0 * layers);
  const auto fill = [&](auto& matrix, double factor) {
    fill_normal(matrix.data(), matrix.size(), factor * fan_in_deviation(matrix.in()),
                Random::stream(seed, stream++));
  };
  fill(layer.output, residual);
  fill(layer.gate_up, 1);
  fill(layer.down, residual);
}

}  // namespace detail

/// Fresh parameters: normal with deviation 1/√fan_in, output projections scaled by 1/√(2·layers), embeddings
/// 0.02, mixers as they declare. Depends on the seed only.
template <class Set, class P>
void initialise(ModelWeights<Set, P>& weights, std::uint64_t seed) {
  detail::fill_normal(weights.embedding.data(), weights.embedding.size(), 0.02, Random::stream(seed, 0));
  for (std::size_t l = 0; l < weights.layers.size(); ++l)
    detail::initialise_layer(weights.layers[l], weights.shape.layer, weights.shape.layers, seed,
                             detail::first_stream<Set>(l));
  if (!weights.shape.tied_embeddings)
    detail::fill_normal(weights.head.data(), weights.head.size(), detail::fan_in_deviation(weights.head.in()),
                        Random::stream(seed, detail::first_stream<Set>(weights.layers.size())));
}

/// The same for a layer by itself.
template <class Set, class P>
void initialise(LayerWeights<Set, P>& weights, const LayerShape& shape, std::uint64_t seed) {
  detail::initialise_layer(weights, shape, 1, seed, 0);
}

/// The parameters of Layer<Spec> on the host, whatever the backend.
template <LayerSpec Spec>
struct LayerParameters {
  using Kinds = typename Spec::Runs::Kinds;
  using Weights = LayerWeights<Kinds, typename Spec::Precision>;

  /// Of the right shapes, not yet set.
  static Weights make_weights() requires(Spec::Runs::is_static) {
    return Weights(Spec::shape, {}, detail::static_layer_plan<Kinds, Spec>());
  }
  /// The same where runs are dynamic: run_of_group names, for every KV group, the run of the spec that it
  /// belongs to, counted from 0. ArgumentError if it does not fit the spec.
  static Weights make_weights(const std::vector<int>& run_of_group) requires(!Spec::Runs::is_static) {
    detail::check_dynamic_layer_plan<Spec>(run_of_group);
    return Weights(Spec::shape, {}, run_of_group);
  }
};

}  // namespace rf

#endif  // RECURFORMER_MODEL_WEIGHTS_HPP
