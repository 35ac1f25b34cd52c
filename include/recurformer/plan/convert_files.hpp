#ifndef RECURFORMER_PLAN_CONVERT_FILES_HPP
#define RECURFORMER_PLAN_CONVERT_FILES_HPP

// Conversion from folder to folder, for models that do not fit in memory twice: tensors that the plan leaves
// as they are go from the mapped file to the new one; in memory are the mixers of the layers that change, in
// the file's own precision. What is written is what convert_model() makes.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <set>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "recurformer/checkpoint/hf_config.hpp"
#include "recurformer/checkpoint/model_files.hpp"
#include "recurformer/checkpoint/model_tensors.hpp"
#include "recurformer/checkpoint/safetensors.hpp"
#include "recurformer/core/precision.hpp"
#include "recurformer/model/plan_sizes.hpp"
#include "recurformer/model/weights.hpp"
#include "recurformer/plan/convert.hpp"

namespace rf {

namespace detail {

/// The same mixers in another precision.
template <class Set, class P>
struct KindsIn;
template <class... K, class P>
struct KindsIn<Kinds<K...>, P> {
  using type = Kinds<Kind<typename K::Mixer, P>...>;
};

/// Calls f with the precision whose weights have this dtype.
template <class F>
decltype(auto) with_precision(DType dtype, F&& f) {
  if (dtype == DType::BF16) return f(Bf16{});
  if (dtype == DType::F16) return f(Fp16{});
  return f(Fp32{});
}

/// The plan with this precision in place of its kinds' one. ArgumentError if they have several.
inline Plan in_precision(const Plan& plan, std::string_view precision) {
  Plan out = without_unused_kinds(plan);
  const std::string found = out.kinds.front().precision;
  for (KindChoice& kind : out.kinds) {
    check(kind.precision == found, "the plan has kinds of the precisions ", found, " and ", kind.precision,
          "; files are converted in one");
    kind.precision = precision;
  }
  return out;
}

/// ArgumentError if a model of this plan has its tensors under other names, or in other numbers, than here.
inline void check_own_tensors(const ModelShape& shape, const Plan& plan) {
  const Plan used = without_unused_kinds(plan);
  check(
      mamba_family_of(shape, used) == nullptr && falcon_h1_attention_groups(shape, used) == 0,
      "from folder to folder only models are converted whose files have Llama's tensors, not those of Mamba, "
      "Mamba-2 or Falcon-H1; load the model, convert_model() it and save it");
}

/// A tensor that conversion made.
struct MadeTensor {
  std::string name;
  DType dtype = DType::F32;
  std::vector<std::int64_t> shape;
  std::vector<std::byte> bytes;
};

/// The elements of a tensor's pieces in one type.
inline MadeTensor gather(const FileTensor& tensor, DType dtype) {
  MadeTensor out{tensor.name, dtype, tensor.shape, {}};
  std::int64_t size = 0;
  for (const FilePiece& piece : tensor.pieces) size += piece.size;
  out.bytes.resize(static_cast<std::size_t>(size) * size_of(dtype));
  with_elements(dtype, out.bytes.data(), [&]<class To>(To* to) {
    for (const FilePiece& piece : tensor.pieces)
      with_elements(piece.dtype, piece.data, [&](const auto* from) {
        copy_converted(from, piece.size, to);
        to += piece.size;
      });
  });
  return out;
}

/// Makes the mixers' tensors of every layer that changes.
template <class Set, class P>
class FileConversion {
 public:
  FileConversion(const ModelTensors& file, const ModelShape& shape, const Plan& from, const Plan& to,
                 const ModelProfiles& profiles, std::uint64_t seed)
      : file_(file),
        shape_(shape),
        from_(bind_plan<Set>(from)),
        to_(bind_plan<Set>(to)),
        profiles_(profiles),
        seed_(seed) {
    check_model_tensors<P>(file, shape, from_);
  }

  void convert_layer(std::size_t layer) {
    if (from_.kind_of_group[layer] == to_.kind_of_group[layer]) return;
    const HeadShape heads = shape_.layer.head_shape();
    const std::string prefix = layer_prefix(layer);
    LayerShape shape = shape_.layer;
    shape.d_ff = 0;  // the MLP stays in the file
    LayerWeights<Set, P> source(shape, from_.mixers, from_.kind_of_group[layer]);
    std::vector<FileTensor> tensors;
    add_mixer_tensors(source, heads, prefix, tensors);
    for (const FileTensor& tensor : tensors) {
      copy_tensor(*file_.find(tensor.name), tensor);
      replaced_.insert(tensor.name);
    }
    LayerWeights<Set, P> target(shape, to_.mixers, to_.kind_of_group[layer]);
    initialise_mixers(target, heads, seed_, first_stream<Set>(layer));
    convert_heads(source, target, heads, layer, profiles_);
    tensors.clear();
    add_mixer_tensors(target, heads, prefix, tensors);
    for (const FileTensor& tensor : tensors) {
      const TensorEntry* const old = file_.find(tensor.name);
      made_.push_back(gather(tensor, old == nullptr ? file_dtype(tensor) : old->dtype));
    }
  }

  /// Adds the tensors that were made, and the file's others.
  void add_tensors(SafetensorsWriter& writer) const {
    for (const MadeTensor& tensor : made_) writer.add(tensor.name, tensor.dtype, tensor.shape, tensor.bytes);
    for (const std::string& name : file_.names()) {
      if (replaced_.contains(name) || is_ignored_tensor(name, shape_.tied_embeddings)) continue;
      const TensorEntry& tensor = *file_.find(name);
      writer.add(name, tensor.dtype, tensor.shape, tensor.bytes);
    }
  }

 private:
  const ModelTensors& file_;
  const ModelShape& shape_;
  BoundPlan<Set> from_, to_;
  const ModelProfiles& profiles_;
  std::uint64_t seed_;
  std::set<std::string> replaced_;
  std::vector<MadeTensor> made_;
};

}  // namespace detail

/// Bytes of memory that convert_files() takes beside the files, which it does not copy: the new mixers of
/// layers that change, in the model's precision, and those layers themselves while they are converted.
template <class Set>
std::int64_t conversion_memory(const ModelConfig& config, const Plan& plan) {
  const auto bound = [](const Plan& of) {
    return bind_plan<typename detail::KindsIn<Set, Fp32>::type>(detail::in_precision(of, Fp32::name));
  };
  const auto from = bound(config.plan), to = bound(plan);
  const HeadShape heads = config.shape.layer.head_shape();
  const std::int64_t output = std::int64_t{config.shape.layer.d_model} * config.shape.layer.heads_width();
  std::int64_t made = 0, largest = 0;
  for (std::size_t l = 0; l < from.kind_of_group.size(); ++l) {
    if (from.kind_of_group[l] == to.kind_of_group[l]) continue;
    const std::int64_t parameters = detail::mixer_parameter_count(heads, to, l);
    made += parameters;
    largest = std::max(largest, 2 * output + parameters + detail::mixer_parameter_count(heads, from, l));
  }
  return (made + largest) * static_cast<std::int64_t>(size_of(config.dtype));
}

/// Converts the model in folder `from` to `plan` and writes it to folder `to`, made if there is none. The
/// kinds of both are those of `Set` by their mixers; the precision is that of the model, whatever the plan
/// says. progress(layers done, layers) is called after each. ArgumentError as from convert_model(); FileError
/// if a tensor is missing, unknown or of another shape, or if writing fails.
template <class Set>
void convert_files(const std::string& from, const Plan& plan, const ModelProfiles& profiles,
                   std::uint64_t seed, const std::string& to,
                   const std::function<void(std::int64_t, std::int64_t)>& progress = {}) {
  ModelConfig config = read_model_config(from);
  validate(plan, config.shape);
  detail::check_own_tensors(config.shape, config.plan);
  detail::check_own_tensors(config.shape, plan);
  const ModelTensors file(from);
  detail::with_precision(config.dtype, [&]<class P>(P) {
    using FileSet = typename detail::KindsIn<Set, P>::type;
    const Plan old_plan = detail::in_precision(config.plan, P::name);
    config.plan = without_unused_kinds(named_plan(bind_plan<FileSet>(detail::in_precision(plan, P::name))));
    check_weights_size(config.shape, bind_plan<FileSet>(old_plan), file);
    detail::FileConversion<FileSet, P> conversion(file, config.shape, old_plan, config.plan, profiles, seed);
    const auto layers = static_cast<std::size_t>(config.shape.layers);
    for (std::size_t l = 0; l < layers; ++l) {
      conversion.convert_layer(l);
      if (progress) progress(static_cast<std::int64_t>(l + 1), config.shape.layers);
    }
    SafetensorsWriter writer;
    writer.metadata("format", "pt");  // `transformers` demands it
    writer.metadata(detail::tensors_text_key, tensors_text(config.shape, config.plan));
    conversion.add_tensors(writer);
    std::error_code code;
    std::filesystem::create_directories(to, code);
    check_file(!code, to, "cannot be made a folder: ", code.message());
    writer.write(detail::weights_path(to));
  });
  write_model_config(config, to);
}

}  // namespace rf

#endif  // RECURFORMER_PLAN_CONVERT_FILES_HPP
