#ifndef RECURFORMER_PLAN_CONVERT_HPP
#define RECURFORMER_PLAN_CONVERT_HPP

// Conversion: a model with a plan -> the same model with another plan. Whatever both have is copied bit for
// bit; a group whose new mixer has parameters of its own gets them from the mixer's transfer rule.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "recurformer/model/model.hpp"
#include "recurformer/plan/transfer.hpp"
#include "recurformer/spec/attention.hpp"

namespace rf {

/// profiles[layer][head] of the original's heads; only those of replaced heads are looked at.
using ModelProfiles = std::vector<std::vector<DistanceProfile>>;

namespace detail {

template <class T, class U>
void copy_converted(const T* from, std::int64_t size, U* to) {
  if constexpr (std::is_same_v<T, U>)
    std::copy_n(from, size, to);
  else
    for (std::int64_t i = 0; i < size; ++i) to[i] = convert<U>(from[i]);
}

/// Calls f(spec, const T* data) for every parameter slice of the layer's group `group`.
template <class Set, class P, class F>
void for_group(LayerWeights<Set, P>& layer, const HeadShape& shape, int group, F&& f) {
  layer.for_each_run([&](std::size_t, auto& run) {
    for_each_group_slice(run, shape, [&](const ParameterSpec& spec, std::size_t g, auto* data) {
      if (run.groups[g] == group) f(run, spec, data);
    });
  });
}

/// The attention weights of one group; an error if the group is not attention any more.
template <class Set, class P>
AttentionGroup attention_group(LayerWeights<Set, P>& layer, const HeadShape& shape, std::size_t layer_index,
                               int group, const ModelProfiles& profiles) {
  AttentionGroup out{.shape = shape,
                     .query = {},
                     .key = {},
                     .value = {},
                     .query_bias = {},
                     .key_bias = {},
                     .value_bias = {},
                     .profiles = {}};
  for_group(layer, shape, group, [&]<class T>(const auto& run, const ParameterSpec& spec, const T* data) {
    using M = typename std::remove_cvref_t<decltype(run)>::Mixer;
    check(reuses_attention_weights<M>, "group ", group, " of layer ", layer_index, " is ", M::name,
          " already; only attention heads can be converted");
    const std::pair<std::string_view, std::vector<float>*> parts[] = {
        {"q_proj.weight", &out.query},    {"k_proj.weight", &out.key},    {"v_proj.weight", &out.value},
        {"q_proj.bias", &out.query_bias}, {"k_proj.bias", &out.key_bias}, {"v_proj.bias", &out.value_bias}};
    for (const auto& [name, values] : parts)
      if (spec.name == name) {
        values->resize(static_cast<std::size_t>(spec.group_size(shape)));
        copy_converted(data, spec.group_size(shape), values->data());
      }
  });
  check(layer_index < profiles.size(), "converting needs the distance profiles of layer ", layer_index);
  for (int head = 0; head < shape.queries_per_group; ++head) {
    const auto index = static_cast<std::size_t>(group * shape.queries_per_group + head);
    check(index < profiles[layer_index].size() && !profiles[layer_index][index].lag.empty(),
          "converting needs the distance profile of layer ", layer_index, ", head ", index,
          "; run the analysis first");
    out.profiles.push_back(profiles[layer_index][index]);
  }
  return out;
}

/// Fills group g (counted in the run) from its attention weights by the mixer's rule.
template <class K>
void transfer_group(RunWeights<K>& run, std::size_t g, const AttentionGroup& group) {
  std::vector<std::vector<float>> storage;
  std::vector<ParameterSlices> slices;
  storage.reserve(run.mixer.parameters(group.shape).size());
  for_each_group_slice(run, group.shape, [&](const ParameterSpec& spec, std::size_t index, auto* data) {
    if (index != g) return;
    auto& values = storage.emplace_back(static_cast<std::size_t>(spec.group_size(group.shape)));
    copy_converted(data, spec.group_size(group.shape), values.data());
    slices.push_back({spec, values});
  });
  Transfer<typename K::Mixer>::apply(run.mixer, group, slices);
  std::size_t next = 0;
  for_each_group_slice(run, group.shape, [&](const ParameterSpec& spec, std::size_t index, auto* data) {
    if (index == g) copy_converted(slices[next++].values.data(), spec.group_size(group.shape), data);
  });
}

/// The heads of `target`, initialised already, from those of the same layer of the original: kept where both
/// have the same tensors, else by the new mixer's transfer rule.
template <class Set, class P>
void convert_heads(LayerWeights<Set, P>& source, LayerWeights<Set, P>& target, const HeadShape& shape,
                   std::size_t layer, const ModelProfiles& profiles) {
  target.for_each_run([&](std::size_t, auto& run) {
    using Mixer = typename std::remove_cvref_t<decltype(run)>::Mixer;
    for (std::size_t g = 0; g < run.groups.size(); ++g) {
      std::size_t copied = 0, offered = 0;
      for_each_group_slice(run, shape, [&](const ParameterSpec& spec, std::size_t index, auto* data) {
        if (index != g) return;
        for_group(source, shape, run.groups[g],
                  [&](const auto& old_run, const ParameterSpec& old_spec, const auto* old_data) {
                    if (old_run.mixer.module != Mixer::module || old_spec.name != spec.name) return;
                    copy_converted(old_data, spec.group_size(shape), data);
                    ++copied;
                    offered = old_run.mixer.parameters(shape).size();
                  });
      });
      check(copied == offered, "group ", run.groups[g], " of layer ", layer, " has ", offered,
            " tensors (weights and biases); as ", Mixer::name,
            " it would lose some of them; choose a kind that has them all");
      if (copied == 0) transfer_group(run, g, attention_group(source, shape, layer, run.groups[g], profiles));
    }
  });
}

}  // namespace detail

/// A model with `plan` made from `original`. Groups that keep a mixer with the same tensors keep them bit for
/// bit. Parameters that a transfer rule leaves alone are initialised from the seed. ArgumentError where a
/// group is not attention any more, where its profiles are missing, and where its biases would be lost.
template <class M>
M convert_model(M& original, const Plan& plan, const ModelProfiles& profiles, std::uint64_t seed = 0) {
  M out(original.shape(), plan);
  auto& from = original.weights();
  auto& to = out.weights();
  initialise(to, seed);
  const HeadShape shape = original.shape().layer.head_shape();
  to.embedding = from.embedding.clone();
  to.head = from.head.clone();
  to.final_norm = from.final_norm;
  for (std::size_t l = 0; l < to.layers.size(); ++l) {
    auto& source = from.layers[l];
    auto& target = to.layers[l];
    target.mixer_norm = source.mixer_norm;
    target.query_norm = source.query_norm;
    target.key_norm = source.key_norm;
    target.heads_norm = source.heads_norm;
    target.mlp_norm = source.mlp_norm;
    target.output = source.output.clone();
    target.gate_up = source.gate_up.clone();
    target.down = source.down.clone();
    detail::convert_heads(source, target, shape, l, profiles);
  }
  return out;
}

}  // namespace rf

#endif  // RECURFORMER_PLAN_CONVERT_HPP
