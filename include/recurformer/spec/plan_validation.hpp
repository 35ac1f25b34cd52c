#ifndef RECURFORMER_SPEC_PLAN_VALIDATION_HPP
#define RECURFORMER_SPEC_PLAN_VALIDATION_HPP

// What everything that writes a plan down does first.

#include <algorithm>
#include <cstddef>
#include <vector>

#include "recurformer/core/error.hpp"
#include "recurformer/spec/model_spec.hpp"
#include "recurformer/spec/plan.hpp"

namespace rf {

/// Throws ArgumentError unless the plan names one of its kinds for every KV group of a model of this shape.
inline void validate(const Plan& plan, const ModelShape& shape) {
  check(plan.kind_of_group.size() == static_cast<std::size_t>(shape.layers), "the plan has ",
        plan.kind_of_group.size(), " layers; the model has ", shape.layers);
  for (std::size_t layer = 0; layer < plan.kind_of_group.size(); ++layer) {
    const auto& groups = plan.kind_of_group[layer];
    check(groups.size() == static_cast<std::size_t>(shape.layer.kv_groups), "the plan names ", groups.size(),
          " KV groups in layer ", layer, "; the model has ", shape.layer.kv_groups);
    for (const int kind : groups)
      check(kind >= 0 && kind < static_cast<int>(plan.kinds.size()), "the plan's layer ", layer,
            " names kind ", kind, "; the plan lists ", plan.kinds.size(), " kinds");
  }
}

/// The same plan without the kinds that no group has, so that no program is asked for their kernels in vain.
/// The plan must be valid.
inline Plan without_unused_kinds(const Plan& plan) {
  Plan out;
  std::vector<int> position(plan.kinds.size(), -1);
  for (std::size_t kind = 0; kind < plan.kinds.size(); ++kind) {
    const auto has_kind = [&](const std::vector<int>& groups) {
      return std::find(groups.begin(), groups.end(), static_cast<int>(kind)) != groups.end();
    };
    if (std::none_of(plan.kind_of_group.begin(), plan.kind_of_group.end(), has_kind)) continue;
    position[kind] = static_cast<int>(out.kinds.size());
    out.kinds.push_back(plan.kinds[kind]);
  }
  for (const auto& groups : plan.kind_of_group) {
    auto& row = out.kind_of_group.emplace_back();
    for (const int kind : groups) row.push_back(position[static_cast<std::size_t>(kind)]);
  }
  return out;
}

}  // namespace rf

#endif  // RECURFORMER_SPEC_PLAN_VALIDATION_HPP
