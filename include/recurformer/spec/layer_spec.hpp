#ifndef RECURFORMER_SPEC_LAYER_SPEC_HPP
#define RECURFORMER_SPEC_LAYER_SPEC_HPP

// A layer spec is a type that says, KV group by KV group, which mixer and which precision:
//
//   struct MyLayer {
//     static constexpr rf::LayerShape shape{.d_model = 896, .d_head = 64, .kv_groups = 14, .d_ff = 4864};
//     using Precision = rf::Bf16;                          // norms, W_O, MLP
//     using Runs = rf::Runs<rf::Run<4, rf::Attention<>, rf::Bf16>, rf::Run<10, rf::Mamba<>, rf::Bf16>>;
//     static constexpr std::array order{3, 7, 8, 12, 0, 1, …};   // optional: the KV groups of the first run,
//     then …
//   };

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "recurformer/core/error.hpp"
#include "recurformer/spec/layer_shape.hpp"
#include "recurformer/spec/run.hpp"

namespace rf {

template <class S>
concept HasLayerShape = requires {
  { S::shape } -> std::convertible_to<LayerShape>;
};
template <class S>
concept HasPrecision = Precision<typename S::Precision>;
template <class S>
concept HasRuns = requires {
  typename S::Runs;
  S::Runs::static_groups;
};
template <class S>
concept HasOrder = requires {
  S::order.size();
};

namespace detail {

template <class S>
constexpr bool order_is_permutation() {
  if constexpr (HasOrder<S>) {
    if (static_cast<int>(S::order.size()) != S::shape.kv_groups) return false;
    for (int group = 0; group < S::shape.kv_groups; ++group) {
      int found = 0;
      for (const int other : S::order) found += other == group ? 1 : 0;
      if (found != 1) return false;
    }
  }
  return true;
}

}  // namespace detail

/// Stops compilation with the rule that is broken. Instantiated by everything that takes a layer spec.
template <class S>
struct CheckedLayerSpec {
  static_assert(HasLayerShape<S>,
                "recurformer: a layer spec needs `static constexpr rf::LayerShape shape{...}`");
  static_assert(HasPrecision<S>,
                "recurformer: a layer spec needs `using Precision = rf::Bf16` (or another precision)");
  static_assert(HasRuns<S>, "recurformer: a layer spec needs `using Runs = rf::Runs<rf::Run<...>, ...>`");
  static_assert(
      is_supported_d_head(S::shape.d_head),
      "recurformer: d_head must be one of 16, 32, 64, 80, 96, 128, 256; kernels exist for no other");
  static_assert(S::shape.d_model >= 1,
                "recurformer: d_model must be at least 1; set it to the width of the residual stream");
  static_assert(S::shape.kv_groups >= 1,
                "recurformer: kv_groups must be at least 1; set it to the number of key/value heads");
  static_assert(S::shape.queries_per_group >= 1,
                "recurformer: queries_per_group must be at least 1; 1 is MHA, more is GQA");
  static_assert(S::shape.d_ff >= 0,
                "recurformer: d_ff must not be negative; write 0 for a layer without an MLP");
  static_assert(
      !S::Runs::is_static || S::Runs::static_groups == S::shape.kv_groups,
      "recurformer: the runs' KV groups must add up to shape.kv_groups; change a run's count or the shape");
  static_assert(
      S::Runs::is_static || S::Runs::static_groups <= S::shape.kv_groups,
      "recurformer: the static runs have more KV groups than shape.kv_groups; lower a run's count, or "
      "raise shape.kv_groups");
  static_assert(S::Runs::is_static || !HasOrder<S>,
                "recurformer: a layer with dynamic runs cannot have an order; remove it, make_weights() is "
                "told which KV group is in which run");
  static_assert(detail::order_is_permutation<S>(),
                "recurformer: order must name every KV group from 0 to kv_groups - 1 exactly once");
  static constexpr bool value = true;
};

template <class S>
concept LayerSpec = CheckedLayerSpec<S>::value;

namespace detail {

/// Throws ArgumentError unless run_of_group is the run, counted from 0, of every KV group of the spec.
template <LayerSpec S>
void check_dynamic_layer_plan(const std::vector<int>& run_of_group) {
  check(static_cast<int>(run_of_group.size()) == S::shape.kv_groups, "the runs of ", run_of_group.size(),
        " KV groups are given; the layer has ", S::shape.kv_groups);
  std::array<std::int64_t, S::Runs::size> count{};
  for (std::size_t group = 0; group < run_of_group.size(); ++group) {
    const int run = run_of_group[group];
    check(run >= 0 && run < static_cast<int>(count.size()), "KV group ", group, " is given to run ", run,
          "; the layer has runs 0 to ", count.size() - 1);
    ++count[static_cast<std::size_t>(run)];
  }
  for (std::size_t run = 0; run < count.size(); ++run)
    check(S::Runs::groups[run] == dynamic || S::Runs::groups[run] == count[run], "run ", run, " is given ",
          count[run], " KV groups; its spec says ", S::Runs::groups[run]);
}

}  // namespace detail

}  // namespace rf

#endif  // RECURFORMER_SPEC_LAYER_SPEC_HPP
