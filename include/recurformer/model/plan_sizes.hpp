#ifndef RECURFORMER_MODEL_PLAN_SIZES_HPP
#define RECURFORMER_MODEL_PLAN_SIZES_HPP

// What a model with a plan takes, from its sizes alone: for deciding before gigabytes are allocated.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <tuple>
#include <utility>
#include <vector>

#include "recurformer/model/cache_layout.hpp"
#include "recurformer/spec/model_spec.hpp"

namespace rf {

namespace detail {

/// Calls f(mixer of kind K, std::vector<int> groups) with K as a template argument, for every kind of the set
/// and the groups that have it in one layer, none included.
template <class... K, class F>
void for_each_kind(const std::tuple<typename K::Mixer...>& mixers, const std::vector<int>& kind_of_group,
                   Kinds<K...>, F&& f) {
  int kind = 0;
  const auto call = [&]<class Of>(const typename Of::Mixer& mixer) {
    std::vector<int> groups;
    for (std::size_t group = 0; group < kind_of_group.size(); ++group)
      if (kind_of_group[group] == kind) groups.push_back(static_cast<int>(group));
    f.template operator()<Of>(mixer, std::move(groups));
    ++kind;
  };
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    (call.template operator()<K>(std::get<I>(mixers)), ...);
  }
  (std::index_sequence_for<K...>{});
}

/// Parameters of the mixers of one layer, given the kind of its groups.
template <class Set>
std::int64_t mixer_parameter_count(const HeadShape& shape, const BoundPlan<Set>& plan, std::size_t layer) {
  std::int64_t count = 0;
  for_each_kind(plan.mixers, plan.kind_of_group[layer], Set{},
                [&]<class K>(const typename K::Mixer& mixer, const std::vector<int>& groups) {
                  for (const ParameterSpec& parameter : mixer.parameters(shape))
                    count += static_cast<std::int64_t>(groups.size()) * parameter.group_size(shape);
                });
  return count;
}

}  // namespace detail

/// The cache of a model with this plan: Model::cache_layout() without the model.
template <class Set>
CacheLayout cache_layout(const ModelShape& shape, const BoundPlan<Set>& plan) {
  const HeadShape heads = shape.layer.head_shape();
  CacheLayout out;
  for (const auto& kind_of_group : plan.kind_of_group) {
    auto& layer = out.layers.emplace_back();
    detail::for_each_kind(
        plan.mixers, kind_of_group, Set{},
        [&]<class K>(const typename K::Mixer& mixer, std::vector<int> groups) {
          layer.push_back(run_layout<K>(mixer, heads, static_cast<std::int64_t>(groups.size())));
          layer.back().members = std::move(groups);
        });
  }
  return out;
}

/// Parameters of a model with this plan.
template <class Set>
std::int64_t parameter_count(const ModelShape& shape, const BoundPlan<Set>& plan) {
  const LayerShape& layer = shape.layer;
  const std::int64_t d = layer.d_model, f = layer.d_ff;
  std::int64_t count = (shape.tied_embeddings ? 1 : 2) * std::int64_t{shape.vocabulary} * d + d;
  for (std::size_t l = 0; l < plan.kind_of_group.size(); ++l)
    count += detail::mixer_parameter_count(layer.head_shape(), plan, l) + d + d * layer.heads_width() +
             (f > 0 ? d + 3 * d * f : 0) + (layer.qk_norm ? 2 * layer.d_head : 0) +
             (layer.heads_norm ? layer.heads_width() : 0);
  return count;
}

}  // namespace rf

#endif  // RECURFORMER_MODEL_PLAN_SIZES_HPP
