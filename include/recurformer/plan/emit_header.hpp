#ifndef RECURFORMER_PLAN_EMIT_HEADER_HPP
#define RECURFORMER_PLAN_EMIT_HEADER_HPP

// A plan found at run time as C++: a header with one layer spec for each layer that differs from the earlier
// ones, and a model spec, for programs that want everything known when they are compiled:
//
//   #include "my_plan.hpp"        // written by emit_header<Kinds>(shape, plan, {.namespace_name = "my"})
//   rf::Model<my::Model> model;   // or rf::Layer<my::Layer0>
//
// Kernels are those of the same kinds in a model whose plan is data, so the results are the same bits.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "recurformer/core/error.hpp"
#include "recurformer/spec/model_spec.hpp"
#include "recurformer/spec/plan.hpp"
#include "recurformer/spec/plan_validation.hpp"

namespace rf {

/// What the text of an emitted header leaves open.
struct EmitOptions {
  std::string namespace_name = "emitted";  ///< e.g. "my_company::plans"
  std::string include_guard = "EMITTED_PLAN_HPP";
  std::string precision = "fp32";  ///< of the layers: residual stream, norms, W_O, MLP, embeddings
};

namespace detail {

inline bool is_identifier(std::string_view name) {
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; };
  return !name.empty() && letter(name[0]) &&
         std::all_of(name.begin(), name.end(), [&](char c) { return letter(c) || (c >= '0' && c <= '9'); });
}

/// Identifiers joined by "::".
inline bool is_namespace_name(std::string_view name) {
  const std::size_t end = name.find("::");
  return is_identifier(name.substr(0, end)) && (end == name.npos || is_namespace_name(name.substr(end + 2)));
}

/// "fp32" -> "rf::Fp32"
inline std::string precision_type(std::string_view name) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 6> known = {
      {{Fp32::name, "rf::Fp32"},
       {Bf16::name, "rf::Bf16"},
       {Fp16::name, "rf::Fp16"},
       {Int8Weights::name, "rf::Int8Weights"},
       {Int8Cache::name, "rf::Int8Cache"},
       {Int8::name, "rf::Int8"}}};
  for (const auto& [called, type] : known)
    if (called == name) return std::string(type);
  throw ArgumentError(text("emit_header: unknown precision \"", name,
                           "\"; known: fp32, bf16, fp16, int8_weights, int8_cache, int8"));
}

/// A kind as C++ says it, and the header that defines its mixer.
struct EmittedKind {
  std::string mixer, precision;
  std::string_view header;
};

template <class K>
EmittedKind emitted_kind(const typename K::Mixer& mixer) {
  using M = typename K::Mixer;
  if constexpr (MixerWithTypeName<M>)
    return {mixer.type_name(), precision_type(K::Precision::name), M::header};
  else
    throw ArgumentError(text("emit_header: the mixer ", M::name,
                             " does not say what C++ calls it; declare `header` and `type_name()` in it (see "
                             "recurformer/spec/mixer.hpp), or write its spec by hand"));
}

/// Finds a kind of the plan, and its options, in a set of kinds.
template <class... K>
EmittedKind emitted_kind(Kinds<K...> set, const KindChoice& choice) {
  std::tuple<typename K::Mixer...> mixers;
  const int found = bind_kind(set, choice, mixers);
  EmittedKind out;
  int position = 0;
  std::apply(
      [&](const auto&... mixer) {
        ((position++ == found ? void(out = emitted_kind<K>(mixer)) : void()), ...);
      },
      mixers);
  return out;
}

/// Comma-separated items after `head`, in lines of at most 100 columns.
inline std::string wrapped(std::string head, const std::vector<std::string>& items, std::string_view tail) {
  const std::string indent(head.find_first_not_of(' ') + 4, ' ');
  std::string out, line = std::move(head);
  for (std::size_t i = 0; i < items.size(); ++i) {
    const std::string item = items[i] + (i + 1 < items.size() ? "," : std::string(tail));
    const bool fits = line.size() + 1 + item.size() <= 100;
    if (!fits) {
      while (line.ends_with(' ')) line.pop_back();
      out += line + "\n";
      line = indent;
    }
    if (fits && i > 0) line += ' ';
    line += item;
  }
  return out + line + "\n";
}

/// The spec of one layer with these kinds.
inline std::string layer_struct(std::size_t index, const std::vector<EmittedKind>& kinds,
                                const std::vector<int>& kind_of_group, std::string_view precision) {
  std::vector<std::string> runs, order;
  std::vector<int> groups;
  for (std::size_t kind = 0; kind < kinds.size(); ++kind) {
    const std::size_t before = groups.size();
    for (std::size_t group = 0; group < kind_of_group.size(); ++group)
      if (kind_of_group[group] == static_cast<int>(kind)) groups.push_back(static_cast<int>(group));
    if (groups.size() > before)
      runs.push_back(text("rf::Run<", groups.size() - before, ", ", kinds[kind].mixer, ", ",
                          kinds[kind].precision, ">"));
  }
  for (const int group : groups) order.push_back(text(group));
  std::string out =
      text("struct Layer", index, " {\n  static constexpr rf::LayerShape shape = layer_shape;\n",
           "  using Precision = ", precision, ";\n");
  out += wrapped("  using Runs = rf::Runs<", runs, ">;");
  if (!std::is_sorted(groups.begin(), groups.end()))
    out += wrapped("  static constexpr std::array order{", order, "};");
  return out + "};\n";
}

inline std::string rope_scaling_text(const RopeScaling& scaling) {
  return text("{.rule = ", cpp_name(scaling.rule), ", .factor = ", scaling.factor,
              ", .original_positions = ", scaling.original_positions,
              ", .low_freq_factor = ", scaling.low_freq_factor,
              ", .high_freq_factor = ", scaling.high_freq_factor, ", .beta_fast = ", scaling.beta_fast,
              ", .beta_slow = ", scaling.beta_slow, ", .whole_pairs = ", scaling.whole_pairs,
              ", .magnitude = ", scaling.magnitude, "}");
}

inline std::string layer_shape_text(const LayerShape& shape) {
  std::vector<std::string> fields{
      text(".d_model = ", shape.d_model),     text(".d_head = ", shape.d_head),
      text(".kv_groups = ", shape.kv_groups), text(".queries_per_group = ", shape.queries_per_group),
      text(".d_ff = ", shape.d_ff),           text(".norm_epsilon = ", shape.norm_epsilon),
      text(".rope_base = ", shape.rope_base)};
  if (shape.rope_scaling != RopeScaling{})
    fields.push_back(text(".rope_scaling = ", rope_scaling_text(shape.rope_scaling)));
  if (shape.qk_norm) fields.push_back(".qk_norm = true");
  if (shape.heads_norm) fields.push_back(".heads_norm = true");
  if (shape.step_limits != StepLimits{})
    fields.push_back(text(".step_limits = {.least = ", shape.step_limits.least, ", .most = ",
                          std::isinf(shape.step_limits.most) ? std::string("rf::StepLimits{}.most")
                                                             : text(shape.step_limits.most),
                          "}"));
  return wrapped("inline constexpr rf::LayerShape layer_shape{", fields, "};");
}

}  // namespace detail

/// The text of a C++ header with the static model spec `<namespace>::Model` of this shape and plan, whose
/// kinds are looked up in `Set`, those of the program. ArgumentError if the plan does not fit the shape, or
/// if something in it is not in the set or has no C++ name.
template <class Set>
std::string emit_header(const ModelShape& shape, const Plan& plan, const EmitOptions& options = {}) {
  validate(shape);
  validate(plan, shape);
  check(detail::is_identifier(options.include_guard), "emit_header: the include guard \"",
        options.include_guard, "\" is not an identifier");
  check(detail::is_namespace_name(options.namespace_name), "emit_header: \"", options.namespace_name,
        "\" is not the name of a namespace");
  const Plan used = without_unused_kinds(plan);
  const std::string precision = detail::precision_type(options.precision);

  std::vector<detail::EmittedKind> kinds;
  std::vector<std::string_view> includes = {"recurformer/spec/model_spec.hpp"};
  for (const KindChoice& kind : used.kinds) {
    kinds.push_back(detail::emitted_kind(Set{}, kind));
    includes.push_back(kinds.back().header);
  }
  std::sort(includes.begin(), includes.end());
  includes.erase(std::unique(includes.begin(), includes.end()), includes.end());

  std::vector<std::vector<int>> distinct;
  std::vector<std::string> layers;
  for (const auto& kind_of_group : used.kind_of_group) {
    auto found = std::find(distinct.begin(), distinct.end(), kind_of_group);
    if (found == distinct.end()) found = distinct.insert(distinct.end(), kind_of_group);
    layers.push_back(text("Layer", found - distinct.begin()));
  }

  std::string out =
      text("#ifndef ", options.include_guard, "\n#define ", options.include_guard,
           "\n\n// Written by emit_header() of recurformer; change the plan instead of this file.\n",
           "\n#include <array>\n\n");
  for (const std::string_view include : includes) out += text("#include \"", include, "\"\n");
  out += text("\nnamespace ", options.namespace_name, " {\n\n", detail::layer_shape_text(shape.layer), "\n");
  for (std::size_t i = 0; i < distinct.size(); ++i)
    out += detail::layer_struct(i, kinds, distinct[i], precision) + "\n";
  out += "struct Model {\n";
  out += detail::wrapped("  static constexpr rf::ModelShape shape{",
                         {text(".vocabulary = ", shape.vocabulary), text(".layers = ", shape.layers),
                          ".layer = layer_shape", text(".tied_embeddings = ", shape.tied_embeddings)},
                         "};");
  out += detail::wrapped("  using Layers = rf::Layers<", layers, ">;");
  return out + text("};\n\n}  // namespace ", options.namespace_name, "\n\n#endif  // ",
                    options.include_guard, "\n");
}

}  // namespace rf

#endif  // RECURFORMER_PLAN_EMIT_HEADER_HPP
