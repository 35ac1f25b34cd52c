#ifndef RECURFORMER_SPEC_RUN_HPP
#define RECURFORMER_SPEC_RUN_HPP

// Kinds and runs: the compile-time description of which heads compute what, in which precision.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>
#include <type_traits>

#include "recurformer/core/precision.hpp"
#include "recurformer/core/shape.hpp"
#include "recurformer/spec/mixer.hpp"

namespace rf {

/// A kind of head: a mixer and the precision it runs in.
template <class M, class P>
struct Kind {
  static_assert(NamedMixer<M>,
                "recurformer: a mixer needs `static constexpr std::string_view name` and `module`");
  static_assert(
      MixerWithParameters<M>,
      "recurformer: a mixer needs `parameters(HeadShape) const` returning an array of ParameterSpec");
  static_assert(
      MixerWithCache<M>,
      "recurformer: a mixer needs `cache_fields(HeadShape) const` returning an array of CacheField");
  static_assert(rf::Mixer<M>, "recurformer: a mixer is a value type: default constructible and copyable");
  static_assert(
      rf::Precision<P>,
      "recurformer: a precision needs the types Weight, Cache, State (float, bf16 or fp16; Cache and Packed, "
      "which is optional, may be std::int8_t), Accumulator (float) and a name");
  using Mixer = M;
  using Precision = P;
};

/// "mamba:bf16": how plans and messages call a kind.
template <class K>
std::string kind_name() {
  return std::string(K::Mixer::name) + ":" + std::string(K::Precision::name);
}

/// A set of kinds. Kernels are instantiated for a set of kinds; how many groups there are of each, and where,
/// is data, so that all layers of a model share them.
template <class... K>
struct Kinds {
  static constexpr std::size_t size = sizeof...(K);
  static_assert(size > 0, "recurformer: a set of kinds cannot be empty");
  using Mixers = std::tuple<typename K::Mixer...>;
  template <std::size_t I>
  using At = std::tuple_element_t<I, std::tuple<K...>>;
};

/// `Groups` KV groups of one kind. `dynamic` leaves the number to run time (and it may then be 0).
template <std::int64_t Groups, class M, class P>
struct Run {
  static_assert(
      Groups != 0,
      "recurformer: a run of 0 KV groups; remove it, or write rf::dynamic if it is known at run time");
  static_assert(Groups > 0 || Groups == dynamic,
                "recurformer: a run has a negative number of KV groups; write at least 1, or rf::dynamic");
  static constexpr std::int64_t groups = Groups;
  using Kind = rf::Kind<M, P>;
};

namespace detail {

template <class K, class... Others>
inline constexpr bool kind_among = (std::is_same_v<K, Others> || ...);

template <class... K>
inline constexpr bool kinds_are_distinct = true;
template <class First, class... Rest>
inline constexpr bool kinds_are_distinct<First, Rest...> =
    !kind_among<First, Rest...> && kinds_are_distinct<Rest...>;

/// Kinds of A followed by those of B that A lacks.
template <class A, class B>
struct UniteKinds;
template <class... A>
struct UniteKinds<Kinds<A...>, Kinds<>> {
  using type = Kinds<A...>;
};
template <class... A, class First, class... Rest>
struct UniteKinds<Kinds<A...>, Kinds<First, Rest...>> {
  using type = typename std::conditional_t<kind_among<First, A...>, UniteKinds<Kinds<A...>, Kinds<Rest...>>,
                                           UniteKinds<Kinds<A..., First>, Kinds<Rest...>>>::type;
};

template <class K, class Set>
inline constexpr std::size_t index_in = 0;
template <class K, class First, class... Rest>
inline constexpr std::size_t index_in<K, Kinds<First, Rest...>> =
    std::is_same_v<K, First> ? 0 : 1 + index_in<K, Kinds<Rest...>>;

}  // namespace detail

template <>
struct Kinds<> {
  static constexpr std::size_t size = 0;
};

/// The runs of one layer, one per kind.
template <class... R>
struct Runs {
  static_assert(sizeof...(R) > 0, "recurformer: a layer needs at least one run");
  static_assert(
      detail::kinds_are_distinct<typename R::Kind...>,
      "recurformer: two runs of a layer have the same kind; write one run with the sum of their KV groups");
  using Kinds = rf::Kinds<typename R::Kind...>;
  static constexpr std::size_t size = sizeof...(R);
  static constexpr bool is_static = ((R::groups != dynamic) && ...);
  /// Groups of all static runs together.
  static constexpr std::int64_t static_groups = ((R::groups == dynamic ? 0 : R::groups) + ...);
  static constexpr std::array<std::int64_t, sizeof...(R)> groups = {R::groups...};
};

/// Position of kind K in a set of kinds.
template <class K, class Set>
inline constexpr std::size_t kind_index = detail::index_in<K, Set>;

}  // namespace rf

#endif  // RECURFORMER_SPEC_RUN_HPP
