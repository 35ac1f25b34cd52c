#include "recurformer/model/plan_sizes.hpp"

#include <doctest/doctest.h>

#include "support/small_model.hpp"

TEST_CASE("a model's cache and parameters are known from its sizes and plan") {
  for (const bool tied : {true, false})
    for (const rf::Plan& plan : {small::hybrid_plan(), small::attention_plan()}) {
      auto model = small::model(plan, tied);
      const auto bound = rf::bind_plan<small::Spec::Kinds>(plan);
      std::int64_t parameters = 0;
      for (const auto& parameter : rf::parameter_refs(model.weights())) parameters += parameter.size;
      CHECK(rf::parameter_count(small::shape(tied), bound) == parameters);

      rf::ModelShape with_norms = small::shape(tied);
      with_norms.layer.qk_norm = true;
      CHECK(rf::parameter_count(with_norms, bound) == parameters + 2 * 2 * 16);
      with_norms.layer.heads_norm = true;
      CHECK(rf::parameter_count(with_norms, bound) == parameters + 2 * (2 * 16 + 8 * 16));

      const rf::CacheLayout found = rf::cache_layout(small::shape(tied), bound),
                            expected = model.cache_layout();
      CHECK_NOTHROW(rf::detail::check_same_layout("found", found, "expected", expected));
      for (const std::int64_t context : {1, 1000})
        CHECK(found.bytes(context, 4) == expected.bytes(context, 4));
    }
}
