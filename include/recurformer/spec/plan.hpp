#ifndef RECURFORMER_SPEC_PLAN_HPP
#define RECURFORMER_SPEC_PLAN_HPP

// A plan says, for every layer and KV group, which kind of head it has. It is found at run time and names
// kinds by name; bind_plan() turns the names into positions in the set of kinds that a program was compiled
// for.

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "recurformer/core/error.hpp"
#include "recurformer/spec/run.hpp"

namespace rf {

/// One kind by name, with the run-time options of its mixer that differ from their defaults.
struct KindChoice {
  std::string mixer;      ///< e.g. "attention", "streaming", "mamba"
  std::string precision;  ///< e.g. "fp32", "bf16"
  std::vector<std::pair<std::string, std::int64_t>> options;

  std::string name() const { return mixer + ":" + precision; }
  friend bool operator==(const KindChoice&, const KindChoice&) = default;
};

/// kind_of_group[layer][group] indexes kinds.
struct Plan {
  std::vector<KindChoice> kinds;
  std::vector<std::vector<int>> kind_of_group;

  friend bool operator==(const Plan&, const Plan&) = default;
};

/// A plan with `groups` KV groups of one kind in each of `layers` layers: the unconverted model.
inline Plan uniform_plan(KindChoice kind, int layers, int groups) {
  Plan plan;
  plan.kinds.push_back(std::move(kind));
  plan.kind_of_group.assign(static_cast<std::size_t>(layers),
                            std::vector<int>(static_cast<std::size_t>(groups), 0));
  return plan;
}

/// Position of a kind in the plan's list, to which it is added if it is not there.
inline int with_kind(Plan& plan, const KindChoice& kind) {
  for (std::size_t i = 0; i < plan.kinds.size(); ++i)
    if (plan.kinds[i].name() == kind.name()) {
      plan.kinds[i].options = kind.options.empty() ? plan.kinds[i].options : kind.options;
      return static_cast<int>(i);
    }
  plan.kinds.push_back(kind);
  return static_cast<int>(plan.kinds.size()) - 1;
}

/// A plan in terms of a set of kinds: mixers with their options, and positions in the set.
template <class Set>
struct BoundPlan {
  typename Set::Mixers mixers;
  std::vector<std::vector<int>> kind_of_group;
};

namespace detail {

template <class M>
void set_option(M& mixer, const std::string& option, std::int64_t value) {
  if constexpr (MixerWithOptions<M>)
    for (std::size_t i = 0; i < M::option_names.size(); ++i)
      if (M::option_names[i] == option) {
        mixer.option(i) = value;
        return;
      }
  check(false, "plan: the mixer ", M::name, " has no option \"", option, "\"");
}

template <class... K>
std::string list_kinds(Kinds<K...>) {
  std::string out;
  ((out += (out.empty() ? "" : ", ") + kind_name<K>()), ...);
  return out;
}

/// Whether plans can tell the kinds of a set apart.
template <class... K>
constexpr bool names_are_distinct(Kinds<K...>) {
  const std::array names{
      std::pair{std::string_view(K::Mixer::name), std::string_view(K::Precision::name)}...};
  for (std::size_t i = 0; i < names.size(); ++i)
    for (std::size_t j = 0; j < i; ++j)
      if (names[i] == names[j]) return false;
  return true;
}

/// Position of a named kind in the set; sets its options on `mixers`.
template <class... K>
int bind_kind(Kinds<K...> set, const KindChoice& choice, std::tuple<typename K::Mixer...>& mixers) {
  static_assert(
      names_are_distinct(Kinds<K...>{}),
      "recurformer: two kinds of this program have one name, so a plan cannot tell them apart; leave "
      "one out, or derive a mixer from it with a name of its own");
  int position = 0, found = -1;
  (
      [&] {
        if (found < 0 && kind_name<K>() == choice.name()) found = position;
        ++position;
      }(),
      ...);
  check(found >= 0, "plan: this program has no kernels for \"", choice.name(), "\"; it has ",
        list_kinds(set));
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    (
        [&] {
          if (static_cast<int>(I) == found)
            for (const auto& [option, value] : choice.options) set_option(std::get<I>(mixers), option, value);
        }(),
        ...);
  }
  (std::index_sequence_for<K...>{});
  return found;
}

}  // namespace detail

/// Looks a plan's kinds up in the set `Set`. Errors name the kind and what the program has.
template <class Set>
BoundPlan<Set> bind_plan(const Plan& plan) {
  BoundPlan<Set> out;
  std::vector<int> position;
  for (const KindChoice& kind : plan.kinds) {
    position.push_back(detail::bind_kind(Set{}, kind, out.mixers));
    for (std::size_t i = 0; i + 1 < position.size(); ++i)
      check(position[i] != position.back(), "plan: the kind \"", kind.name(), "\" is listed twice");
  }
  for (std::size_t layer = 0; layer < plan.kind_of_group.size(); ++layer) {
    auto& groups = out.kind_of_group.emplace_back();
    for (const int kind : plan.kind_of_group[layer]) {
      check(kind >= 0 && kind < static_cast<int>(position.size()), "plan: layer ", layer, " names kind ",
            kind, "; the plan lists ", position.size(), " kinds");
      groups.push_back(position[static_cast<std::size_t>(kind)]);
    }
  }
  return out;
}

/// The KindChoice of kind K with its mixer's options.
template <class K>
KindChoice kind_choice(const typename K::Mixer& mixer = {}) {
  KindChoice out{std::string(K::Mixer::name), std::string(K::Precision::name), {}};
  if constexpr (MixerWithOptions<typename K::Mixer>)
    for (std::size_t i = 0; i < K::Mixer::option_names.size(); ++i)
      out.options.emplace_back(std::string(K::Mixer::option_names[i]), mixer.option(i));
  else
    (void)mixer;
  return out;
}

/// A bound plan by names: every kind of the set, used or not.
template <class... K>
Plan named_plan(const BoundPlan<Kinds<K...>>& plan) {
  Plan out;
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    (out.kinds.push_back(kind_choice<K>(std::get<I>(plan.mixers))), ...);
  }
  (std::index_sequence_for<K...>{});
  out.kind_of_group = plan.kind_of_group;
  return out;
}

}  // namespace rf

#endif  // RECURFORMER_SPEC_PLAN_HPP
