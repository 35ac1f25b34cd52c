#ifndef RECURFORMER_SPEC_MODEL_SPEC_HPP
#define RECURFORMER_SPEC_MODEL_SPEC_HPP

// A model spec is a type, in one of two forms:
//
//   struct AnyPlan {                         // counts, order and sizes are data: what a CLI uses
//     using Kinds = rf::Kinds<rf::Kind<rf::Attention<>, rf::Fp32>, rf::Kind<rf::Mamba<>, rf::Fp32>>;
//     using Precision = rf::Fp32;            // embeddings, norms, W_O, MLP
//     using Widths = std::integer_sequence<int, 64, 128>;   // optional: the head widths to instantiate
//   };
//   struct ThisPlan {                        // everything is known when compiling: what the emitted header
//   has
//     static constexpr rf::ModelShape shape{.vocabulary = 256, .tied_embeddings = true};
//     using Layers = rf::Layers<Layer0, Layer1, …>;   // layer specs of one LayerShape
//   };

#include <array>
#include <cstddef>
#include <utility>

#include "recurformer/spec/layer_spec.hpp"
#include "recurformer/spec/plan.hpp"

namespace rf {

/// Sizes of a model; all its layers have one shape.
struct ModelShape {
  int vocabulary = 0;
  int layers = 0;
  LayerShape layer = {};
  bool tied_embeddings = false;  ///< logits use the embedding matrix

  friend constexpr bool operator==(const ModelShape&, const ModelShape&) = default;
};

/// Throws ArgumentError, naming the field, unless the shape can be computed with.
inline void validate(const ModelShape& shape) {
  check(shape.vocabulary >= 1, "vocabulary is ", shape.vocabulary, "; it must be at least 1");
  check(shape.layers >= 1, "layers is ", shape.layers, "; it must be at least 1");
  validate(shape.layer);
}

/// The layers of a static model spec, first to last.
template <class... L>
struct Layers {
  static_assert(sizeof...(L) > 0, "recurformer: a model needs at least one layer");
  static constexpr std::size_t size = sizeof...(L);
};

namespace detail {

template <class First, class... Rest>
struct StaticLayers {
  static_assert(LayerSpec<First> && (LayerSpec<Rest> && ...));
  static_assert(
      ((Rest::shape == First::shape) && ...),
      "recurformer: the layers of a model have different shapes; give every layer spec the same LayerShape");
  static_assert((std::is_same_v<typename Rest::Precision, typename First::Precision> && ...),
                "recurformer: the layers of a model have different Precisions; give every layer spec the "
                "same one (runs may differ)");
  static_assert(First::Runs::is_static && (Rest::Runs::is_static && ...),
                "recurformer: a model spec with Layers needs static runs; for plans known at run time write "
                "`using Kinds` instead of Layers");
  using Precision = typename First::Precision;
  static constexpr LayerShape shape = First::shape;
};

template <class Set, class... L>
struct UniteLayers {
  using type = Set;
};
template <class Set, class First, class... Rest>
struct UniteLayers<Set, First, Rest...> {
  using type =
      typename UniteLayers<typename UniteKinds<Set, typename First::Runs::Kinds>::type, Rest...>::type;
};

/// Kind of every group of one static layer, in the layer's original order of groups.
template <class Set, class L>
std::vector<int> static_layer_plan() {
  std::vector<int> kind_of_group(static_cast<std::size_t>(L::shape.kv_groups));
  std::size_t next = 0;
  const auto place = [&]<class K>(std::int64_t groups, K*) {
    for (std::int64_t i = 0; i < groups; ++i, ++next) {
      std::size_t group = next;
      if constexpr (HasOrder<L>) group = static_cast<std::size_t>(L::order[next]);
      kind_of_group[group] = static_cast<int>(kind_index<K, Set>);
    }
  };
  [&]<class... K>(Kinds<K...>) {
    std::size_t run = 0;
    (place(L::Runs::groups[run++], static_cast<K*>(nullptr)), ...);
  }(typename L::Runs::Kinds{});
  return kind_of_group;
}

template <class S>
struct WidthsOf {
  using type = AllWidths;
};
template <class S>
requires requires { typename S::Widths; }
struct WidthsOf<S> {
  using type = typename S::Widths;
};

template <class S>
struct ModelTraits;

template <class S>
requires requires {
  typename S::Kinds;
  typename S::Precision;
}
struct ModelTraits<S> {
  static_assert(Precision<typename S::Precision>, "recurformer: a model spec's Precision is not a precision");
  static constexpr bool is_static = false;
  using Kinds = typename S::Kinds;
  using Precision = typename S::Precision;
  using Widths = typename WidthsOf<S>::type;
};

template <class S>
requires requires { typename S::Layers; }
struct ModelTraits<S> {
  template <class T>
  struct Unpack;
  template <class... L>
  struct Unpack<Layers<L...>> {
    using Static = StaticLayers<L...>;
    using Kinds = typename UniteLayers<rf::Kinds<>, L...>::type;
    static BoundPlan<Kinds> plan() { return {{}, {static_layer_plan<Kinds, L>()...}}; }
  };
  static constexpr bool is_static = true;
  using Unpacked = Unpack<typename S::Layers>;
  using Kinds = typename Unpacked::Kinds;
  using Precision = typename Unpacked::Static::Precision;
  using Widths = std::integer_sequence<int, Unpacked::Static::shape.d_head>;
  static constexpr ModelShape shape() {
    ModelShape out = S::shape;
    out.layers = static_cast<int>(S::Layers::size);
    out.layer = Unpacked::Static::shape;
    return out;
  }
  static BoundPlan<Kinds> plan() { return Unpacked::plan(); }
};

}  // namespace detail

/// A type that Model can be instantiated with.
template <class S>
concept ModelSpec = requires {
  typename detail::ModelTraits<S>::Kinds;
};

}  // namespace rf

#endif  // RECURFORMER_SPEC_MODEL_SPEC_HPP
