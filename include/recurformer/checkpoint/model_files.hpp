#ifndef RECURFORMER_CHECKPOINT_MODEL_FILES_HPP
#define RECURFORMER_CHECKPOINT_MODEL_FILES_HPP

// A model in a folder, as Hugging Face lays it out: config.json (see hf_config.hpp) and its
// tensors, in one file or several (see model_tensors.hpp); saving writes one.
//
// Loading checks names and shapes of all tensors before it changes a weight; then every tensor is copied
// piece by piece from the mapped file to where the kernels want it, converting between F32, BF16 and F16
// where the types differ. A new model takes matrices that lie in the file as the kernels want them where they
// are: most of the weights, for the projections of the heads alone are stored group by group. Saving writes
// each weight in the type it has in memory, so that a round trip gives the same bits. The weights file says
// which sizes and plan it was saved with, in words: many plans have tensors of the same names and shapes, and
// a save that was cut short over an older model leaves new weights beside an old config.
//
//   Model<AnyPlan> model = load_model<Model<AnyPlan>>("my-model");
//   …
//   save_model(model.weights(), model_config(model), "my-model-trained");
//
// Files hold no integers: Model::pack() makes them after loading, where the precision says so, and a packed
// model is not saved.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "recurformer/checkpoint/hf_config.hpp"
#include "recurformer/checkpoint/model_tensors.hpp"
#include "recurformer/checkpoint/safetensors.hpp"
#include "recurformer/checkpoint/untrusted.hpp"
#include "recurformer/core/parallel.hpp"
#include "recurformer/model/plan_sizes.hpp"
#include "recurformer/model/weights.hpp"

namespace rf {

namespace detail {

inline std::string weights_path(const std::string& folder) {
  return (std::filesystem::path(folder) / "model.safetensors").string();
}

/// "'a', 'b', 'c' and 5 more"
inline std::string name_list(const std::vector<std::string>& names) {
  constexpr std::size_t most = 8;
  std::string out;
  for (std::size_t i = 0; i < std::min(names.size(), most); ++i)
    out += (i > 0 ? ", " : "") + printable(names[i]);
  if (names.size() > most) out += text(" and ", names.size() - most, " more");
  return out;
}

/// Buffers that `transformers` has saved at times and nobody needs.
inline bool is_ignored_tensor(std::string_view name, bool tied_embeddings) {
  return name.ends_with("rotary_emb.inv_freq") || (tied_embeddings && name == "lm_head.weight");
}

/// FileError unless the files hold these tensors, in these shapes, and no other.
inline void check_tensors(const ModelTensors& file, const std::vector<FileTensor>& tensors,
                          bool tied_embeddings) {
  std::vector<std::string> missing, extra;
  std::set<std::string_view> expected;
  for (const FileTensor& tensor : tensors) {
    expected.insert(tensor.name);
    if (file.find(tensor.name) == nullptr) missing.push_back(tensor.name);
  }
  for (const std::string& name : file.names())
    if (!expected.contains(name) && !is_ignored_tensor(name, tied_embeddings)) extra.push_back(name);
  const std::string unused =
      extra.empty() ? "" : text("; it has, beyond what is expected, ", name_list(extra));
  check_file(missing.empty(), file.path(), "lacks ", missing.size(), " of the ", tensors.size(),
             " tensors that the model asks for: ", name_list(missing), unused);
  check_file(extra.empty(), file.path(), "has ", extra.size(),
             " tensors that the model does not have: ", name_list(extra));
  for (const FileTensor& tensor : tensors) {
    const TensorEntry& found = *file.find(tensor.name);
    check_file(found.shape == tensor.shape, file.path_of(tensor.name), "tensor ", printable(tensor.name),
               " has shape ", shape_text(found.shape), "; expected ", shape_text(tensor.shape));
    check_file(found.dtype == DType::F32 || found.dtype == DType::BF16 || found.dtype == DType::F16,
               file.path_of(tensor.name), "tensor ", printable(tensor.name), " has dtype ",
               name_of(found.dtype), "; expected F32, BF16 or F16");
  }
}

inline constexpr const char* tensors_text_key = "recurformer_tensors";

/// FileError if the file says that it was saved with other sizes or another plan than `expected`.
inline void check_tensors_text(const ModelTensors& file, const std::string& expected) {
  const auto metadata = file.metadata();
  const auto said = metadata.find(tensors_text_key);
  if (said == metadata.end()) return;
  constexpr std::size_t longest = 2000;
  check_file(said->second == expected, file.path(),
             "was saved with another config.json than the one beside it, as when saving was cut short; save "
             "the model again. The weights are of ",
             one_line(said->second, longest), "; the config asks for ", one_line(expected, longest));
}

/// out[i] = element i of `bytes`, which may be unaligned, times the factor, rounded once.
template <class From, class To>
void copy_multiplied(std::span<const std::byte> bytes, float factor, To* out) {
  if (factor == 1) return copy_converted<From>(bytes, out);
  for (std::size_t i = 0; i < bytes.size() / sizeof(From); ++i) {
    float value = 0;
    copy_converted<From>(bytes.subspan(i * sizeof(From), sizeof(From)), &value);
    out[i] = convert<To>(factor * value);
  }
}

/// Bytes of a file tensor -> its pieces, unless they are the same memory.
inline void copy_tensor(const TensorEntry& from, const FileTensor& to) {
  std::span<const std::byte> rest = from.bytes, bytes;
  if (to.pieces.front().data == rest.data()) return;
  for (const FilePiece& piece : to.pieces) {
    if (!piece.again) {
      bytes = rest.first(static_cast<std::size_t>(piece.size) * size_of(from.dtype));
      rest = rest.subspan(bytes.size());
    }
    with_elements(piece.dtype, piece.data, [&](auto* out) {
      if (from.dtype == DType::F32) copy_multiplied<float>(bytes, piece.factor, out);
      if (from.dtype == DType::BF16) copy_multiplied<bf16>(bytes, piece.factor, out);
      if (from.dtype == DType::F16) copy_multiplied<fp16>(bytes, piece.factor, out);
    });
  }
}

/// The type a tensor has in a file: that of its pieces, or F32, which holds them all, where runs of one layer
/// have different precisions.
inline DType file_dtype(const FileTensor& tensor) {
  const DType first = tensor.pieces.front().dtype;
  const bool same = std::all_of(tensor.pieces.begin(), tensor.pieces.end(),
                                [&](const FilePiece& piece) { return piece.dtype == first; });
  return same ? first : DType::F32;
}

/// Appends a piece's bytes in this type, its own or F32.
inline void append_bytes(const FilePiece& piece, DType dtype, std::vector<std::byte>& out) {
  const auto append = [&](const auto* elements) {
    const auto bytes = std::as_bytes(std::span(elements, static_cast<std::size_t>(piece.size)));
    out.insert(out.end(), bytes.begin(), bytes.end());
  };
  with_elements(piece.dtype, piece.data, [&](const auto* elements) {
    if (piece.dtype == dtype) return append(elements);
    std::vector<float> wide(static_cast<std::size_t>(piece.size));
    for (std::size_t i = 0; i < wide.size(); ++i) wide[i] = convert<float>(elements[i]);
    append(wide.data());
  });
}

/// The kinds of a bound plan with their options.
template <class... K>
std::array<KindChoice, sizeof...(K)> kind_choices(const std::tuple<typename K::Mixer...>& mixers) {
  return std::apply([](const auto&... mixer) { return std::array{kind_choice<K>(mixer)...}; }, mixers);
}

/// The first group whose kind is another in the weights than in the plan, or runs with other options, as
/// text; empty if there is none.
template <class... K, class P>
std::string plan_difference(const ModelWeights<Kinds<K...>, P>& weights, const BoundPlan<Kinds<K...>>& plan) {
  const auto planned = kind_choices<K...>(plan.mixers);
  for (std::size_t layer = 0; layer < weights.layers.size(); ++layer) {
    std::string out;
    weights.layers[layer].for_each_run([&]<class Of>(std::size_t kind, const RunWeights<Of>& run) {
      const KindChoice actual = kind_choice<Of>(run.mixer);
      for (const int group : run.groups) {
        if (!out.empty()) return;
        const auto wanted =
            static_cast<std::size_t>(plan.kind_of_group[layer][static_cast<std::size_t>(group)]);
        if (wanted != kind)
          out = text("KV group ", group, " of layer ", layer, " is ", planned[wanted].name(), ", not ",
                     actual.name());
        else if (planned[kind] != actual)
          out = text("the options of ", actual.name(), " are others");
      }
    });
    if (!out.empty()) return out;
  }
  return {};
}

}  // namespace detail

/// The config of a model as it is: what save_model() writes with its weights.
template <class M>
ModelConfig model_config(const M& model) {
  ModelConfig config;
  config.shape = model.shape();
  config.plan = model.named_plan();
  config.dtype = dtype_of<typename M::Precision::Weight>;
  return config;
}

namespace detail {

/// Sizes, and of every layer what `of_kind` says of each KV group's KindChoice.
template <class OfKind>
std::string sizes_and_groups(const ModelShape& model, const Plan& plan, OfKind&& of_kind) {
  const LayerShape& shape = model.layer;
  std::string out =
      text("vocabulary=", model.vocabulary, " tied_embeddings=", model.tied_embeddings,
           " d_model=", shape.d_model, " d_head=", shape.d_head, " kv_groups=", shape.kv_groups,
           " queries_per_group=", shape.queries_per_group, " d_ff=", shape.d_ff,
           shape.qk_norm ? " qk_norm=true" : "", shape.heads_norm ? " heads_norm=true" : "", " layers:");
  for (const auto& kind_of_group : plan.kind_of_group) {
    out += " [";
    for (std::size_t group = 0; group < kind_of_group.size(); ++group)
      out += (group > 0 ? " " : "") + of_kind(plan.kinds[static_cast<std::size_t>(kind_of_group[group])]);
    out += "]";
  }
  return out;
}

inline std::string step_limits_text(const StepLimits& limits) {
  return limits == StepLimits{} ? "" : text(" step_limits=", limits.least, ",", limits.most);
}

inline std::string rope_text(const RopeScaling& scaling) {
  return scaling == RopeScaling{} ? "" : text(" rope_scaling=", rope_scaling_json(scaling).dump());
}

/// The plan that weights were made for.
template <class... K, class P>
Plan plan_of(const ModelWeights<Kinds<K...>, P>& weights) {
  BoundPlan<Kinds<K...>> plan;
  for (const auto& layer : weights.layers) {
    auto& kind_of_group =
        plan.kind_of_group.emplace_back(static_cast<std::size_t>(weights.shape.layer.kv_groups));
    layer.for_each_run([&](std::size_t kind, const auto& run) {
      for (const int group : run.groups)
        kind_of_group[static_cast<std::size_t>(group)] = static_cast<int>(kind);
    });
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      ((std::get<I>(plan.mixers) = std::get<I>(layer.runs).mixer), ...);
    }
    (std::index_sequence_for<K...>{});
  }
  return named_plan(plan);
}

/// What these files' tensors are beyond what shape and plan say of them, which is something for Falcon-H1
/// only.
inline FalconH1Form read_form(const ModelTensors& file, const ModelShape& shape, const Plan& plan) {
  if (falcon_h1_attention_groups(shape, without_unused_kinds(plan)) == 0) return {};
  const std::string path = config_path(file.folder());
  const nlohmann::json document = read_config_document(path);
  return read_falcon_h1_form(JsonReader(path, document), shape);
}

/// The tensors of a model in the names that its family has for them. Without a form: as they are written.
inline std::vector<FileTensor> in_family_names(const ModelShape& shape, const Plan& plan,
                                               std::vector<FileTensor> tensors,
                                               const FalconH1Form& form = {}) {
  const Plan used = without_unused_kinds(plan);
  if (mamba_family_of(shape, used) != nullptr) return as_mamba_tensors(std::move(tensors));
  const int attention_groups = falcon_h1_attention_groups(shape, used);
  if (attention_groups == 0) return tensors;
  const std::int64_t attention_width = attention_groups * shape.layer.head_shape().group_width();
  return as_falcon_h1_tensors(std::move(tensors), attention_width, form);
}
template <class Set, class P>
std::vector<FileTensor> checkpoint_tensors(ModelWeights<Set, P>& weights, const FalconH1Form& form = {}) {
  return in_family_names(weights.shape, plan_of(weights), file_tensors(weights), form);
}

}  // namespace detail

/// What a model's tensors are: its sizes, and every KV group's mixer. Equal texts: the tensors of one model
/// fit the other and mean the same there.
inline std::string tensors_text(const ModelShape& shape, const Plan& plan) {
  return detail::sizes_and_groups(shape, plan, [](const KindChoice& kind) { return kind.mixer; });
}
template <class Set, class P>
std::string tensors_text(const ModelWeights<Set, P>& weights) {
  return tensors_text(weights.shape, detail::plan_of(weights));
}

/// What a model computes with them: the same with the mixers' options, and what else config.json says. Not
/// its precisions, which loading converts.
template <class Set, class P>
std::string model_text(const ModelWeights<Set, P>& weights) {
  const LayerShape& shape = weights.shape.layer;
  return detail::sizes_and_groups(weights.shape, detail::plan_of(weights),
                                  [](const KindChoice& kind) {
                                    std::string out = kind.mixer;
                                    for (const auto& [option, value] : kind.options)
                                      out += text(",", option, "=", value);
                                    return out;
                                  }) +
         text(" norm_epsilon=", shape.norm_epsilon, " rope_base=", shape.rope_base,
              detail::rope_text(shape.rope_scaling), detail::step_limits_text(shape.step_limits));
}

/// Reads a model's tensors into weights of the right shapes and plan. FileError naming the tensor if
/// one is missing, unknown or of another shape, or if the file says that it was saved with other sizes or
/// another plan (a file that save_model() did not write says nothing); the weights are then as before.
template <class Set, class P>
void load_weights(ModelWeights<Set, P>& weights, const ModelTensors& file) {
  detail::check_tensors_text(file, tensors_text(weights));
  const std::vector<FileTensor> tensors =
      detail::checkpoint_tensors(weights, detail::read_form(file, weights.shape, detail::plan_of(weights)));
  detail::check_tensors(file, tensors, weights.shape.tied_embeddings);
  parallel_for(static_cast<std::int64_t>(tensors.size()), [&](std::int64_t i) {
    const FileTensor& tensor = tensors[static_cast<std::size_t>(i)];
    detail::copy_tensor(*file.find(tensor.name), tensor);
  });
}
/// The same from the files in a folder.
template <class Set, class P>
void load_weights(ModelWeights<Set, P>& weights, const std::string& folder) {
  load_weights(weights, ModelTensors(folder));
}

namespace detail {

/// Has the matrix use the rows of these tensors, one below the other, where they are, if they lie in the file
/// as in memory: in one piece, aligned, and of its type.
template <class T, class Packed>
void use_in_place(Linear<T, Packed>& matrix, const ModelTensors& file, std::span<const FileTensor> tensors) {
  const std::byte* end = nullptr;
  for (const FileTensor& tensor : tensors) {
    const TensorEntry* const found = file.find(tensor.name);
    if (found == nullptr || found->shape != tensor.shape || found->dtype != dtype_of<T>) return;
    const bool follows =
        found->bytes.data() == end && file.path_of(tensor.name) == file.path_of(tensors.front().name);
    if (end != nullptr && !follows) return;
    end = found->bytes.data() + found->bytes.size();
  }
  const std::shared_ptr<std::byte> bytes = file.share(tensors.front().name);
  if (reinterpret_cast<std::uintptr_t>(bytes.get()) % alignof(T) != 0) return;
  matrix = Linear<T, Packed>(matrix.out(), matrix.in(), {bytes, reinterpret_cast<T*>(bytes.get())});
}

}  // namespace detail

/// As load_weights(), for weights that are new: embeddings, W_O and the MLP's matrices become those of the
/// mapped file wherever it has them in the type they have in memory, and keep it mapped. Changing them does
/// not change the file. After a FileError, some may be in use already. Falcon-H1's, most of which are other
/// numbers in memory, are copied.
template <class Set, class P>
void map_weights(ModelWeights<Set, P>& weights, const ModelTensors& file) {
  const Plan plan = detail::plan_of(weights);
  if (detail::falcon_h1_attention_groups(weights.shape, without_unused_kinds(plan)) > 0)
    return load_weights(weights, file);
  const auto use = [&](auto& matrix, std::initializer_list<std::string> names) {
    if (matrix.size() == 0) return;
    std::vector<FileTensor> tensors;
    for (const std::string& name : names)
      tensors.push_back(
          {name, {matrix.out() / static_cast<std::int64_t>(names.size()), matrix.in()}, {}, {}});
    detail::use_in_place(matrix, file, detail::in_family_names(weights.shape, plan, std::move(tensors)));
  };
  use(weights.embedding, {std::string(detail::embedding_tensor)});
  for (std::size_t l = 0; l < weights.layers.size(); ++l) {
    const std::string prefix = detail::layer_prefix(l);
    use(weights.layers[l].output, {prefix + "self_attn.o_proj.weight"});
    use(weights.layers[l].gate_up, {prefix + "mlp.gate_proj.weight", prefix + "mlp.up_proj.weight"});
    use(weights.layers[l].down, {prefix + "mlp.down_proj.weight"});
  }
  use(weights.head, {std::string(detail::head_tensor)});
  load_weights(weights, file);
}

/// Writes a model into a folder, made if there is none: weights first, then the config, each completely or
/// not at all; if only the weights are written over an older model, loading says so. ArgumentError if the
/// config is not that of the weights, or if they were packed; FileError if writing fails.
template <class Set, class P>
void save_model(ModelWeights<Set, P>& weights, const ModelConfig& config, const std::string& folder) {
  check(config.shape == weights.shape, "save_model: the config's sizes are not those of the weights");
  check(config.dtype == dtype_of<typename P::Weight>, "save_model: the config's dtype is ",
        name_of(config.dtype), "; the weights are ", name_of(dtype_of<typename P::Weight>));
  validate(config.plan, config.shape);
  const std::string difference = detail::plan_difference(weights, bind_plan<Set>(config.plan));
  check(difference.empty(), "save_model: the config's plan is not that of the weights: ", difference);

  SafetensorsWriter writer;
  writer.metadata("format", "pt");  // `transformers` demands it
  writer.metadata(detail::tensors_text_key, tensors_text(weights));
  std::vector<std::vector<std::byte>> gathered;
  for (FileTensor& tensor : detail::checkpoint_tensors(weights)) {
    const DType dtype = detail::file_dtype(tensor);
    const FilePiece& first = tensor.pieces.front();
    std::span bytes(static_cast<const std::byte*>(first.data),
                    static_cast<std::size_t>(first.size) * size_of(dtype));
    if (tensor.pieces.size() > 1) {
      auto& all = gathered.emplace_back();
      for (const FilePiece& piece : tensor.pieces) detail::append_bytes(piece, dtype, all);
      bytes = all;
    }
    writer.add(tensor.name, dtype, std::move(tensor.shape), bytes);
  }
  std::error_code code;
  std::filesystem::create_directories(folder, code);
  check_file(!code, folder, "cannot be made a folder: ", code.message());
  writer.write(detail::weights_path(folder));
  write_model_config(config, folder);
}

namespace detail {

/// Names, shapes and types of all tensors of a model whose weights are not in memory.
template <class P, class Set>
std::vector<FileTensor> declared_tensors(const ModelShape& shape, const BoundPlan<Set>& plan) {
  constexpr DType dtype = dtype_of<typename P::Weight>;
  const std::int64_t d = shape.layer.d_model;
  std::vector<FileTensor> out;
  out.push_back({std::string(embedding_tensor), {shape.vocabulary, d}, dtype, {}});
  for (std::size_t l = 0; l < plan.kind_of_group.size(); ++l) {
    LayerWeights<Set, P> layer(shape.layer, plan.mixers, plan.kind_of_group[l]);
    add_layer_tensors(layer, shape.layer, l, out);
  }
  out.push_back({std::string(final_norm_tensor), {d}, DType::F32, {}});
  if (!shape.tied_embeddings) out.push_back({std::string(head_tensor), {shape.vocabulary, d}, dtype, {}});
  for (FileTensor& tensor : out) tensor.pieces.clear();  // the layers are gone
  return out;
}

}  // namespace detail

/// The tensors of a model of this shape and plan, without pieces, once the files are known to have all of
/// them and no others; FileError as load_weights(). One layer at a time is in memory.
template <class P, class Set>
std::vector<FileTensor> check_model_tensors(const ModelTensors& file, const ModelShape& shape,
                                            const BoundPlan<Set>& plan) {
  detail::check_tensors_text(file, tensors_text(shape, named_plan(plan)));
  std::vector<FileTensor> tensors =
      detail::in_family_names(shape, named_plan(plan), detail::declared_tensors<P>(shape, plan),
                              detail::read_form(file, shape, named_plan(plan)));
  detail::check_tensors(file, tensors, shape.tied_embeddings);
  return tensors;
}

/// FileError if the files' weights are much too few for a model of this shape and plan: a config of a few
/// bytes can ask for more memory than there is, and loading checks tensors only when it is allocated. If only
/// some are missing, load_weights() says which.
template <class Set>
void check_weights_size(const ModelShape& shape, const BoundPlan<Set>& plan, const ModelTensors& file) {
  const std::int64_t parameters = parameter_count(shape, plan);
  check_file(parameters <= 2 * file.bytes(), file.path(), "has ", file.bytes(),
             " bytes of tensors; the config asks for a model of ", parameters, " parameters");
}

/// The model in a folder, its heads in the precision of this name (Int8::name, say) where one is given,
/// otherwise in those that its config names. FileError if something is wrong with the files, if the program
/// has no kernels for the plan, or (for a model spec with static layers) if it was compiled for another shape
/// or plan.
template <class M>
M load_model(const std::string& folder, std::string_view precision = {}) {
  ModelConfig config = read_model_config(folder);
  if (!precision.empty())
    for (KindChoice& kind : config.plan.kinds) kind.precision = precision;
  const std::string path = detail::config_path(folder);
  const auto plan = [&] {
    try {
      return bind_plan<typename M::Kinds>(config.plan);
    } catch (const ArgumentError& error) {
      throw FileError(text(path, ": ", error.what()));
    }
  }();
  if constexpr (std::is_default_constructible_v<M>) {
    M model;
    check_file(model.shape() == config.shape, path, "the sizes are not those this program was compiled for");
    const std::string difference = detail::plan_difference(model.weights(), plan);
    check_file(difference.empty(), path,
               "the plan is not the one this program was compiled for: ", difference);
    map_weights(model.weights(), ModelTensors(folder));
    return model;
  } else {
    const ModelTensors file(folder);
    check_weights_size(config.shape, plan, file);
    M model(config.shape, plan);
    map_weights(model.weights(), file);
    return model;
  }
}

}  // namespace rf

#endif  // RECURFORMER_CHECKPOINT_MODEL_FILES_HPP
