#include "recurformer/spec/plan_validation.hpp"

#include <doctest/doctest.h>

#include "../support/error_message.hpp"

namespace {

using rf::test::contains;
using rf::test::message_of;

const rf::ModelShape shape{.vocabulary = 8,
                           .layers = 2,
                           .layer = {.d_model = 16, .d_head = 16, .kv_groups = 3, .d_ff = 16},
                           .tied_embeddings = true};
const rf::Plan plan{.kinds = {{"a", "fp32", {}}, {"b", "fp32", {}}, {"c", "bf16", {}}},
                    .kind_of_group = {{2, 0, 2}, {0, 0, 2}}};

std::string error(const rf::Plan& of_plan) {
  return message_of<rf::ArgumentError>([&] { rf::validate(of_plan, shape); });
}

}  // namespace

TEST_CASE("plan: fits a shape, or the error says what does not") {
  CHECK(error(plan) == "no error");
  rf::Plan other = plan;
  other.kind_of_group.pop_back();
  CHECK(contains(error(other), "1 layers; the model has 2"));
  other = plan;
  other.kind_of_group[1].push_back(0);
  CHECK(contains(error(other), "4 KV groups in layer 1; the model has 3"));
  for (const int kind : {-1, 3}) {
    other = plan;
    other.kind_of_group[0][1] = kind;
    CHECK(contains(error(other), rf::text("layer 0 names kind ", kind, "; the plan lists 3 kinds")));
  }
}

TEST_CASE("plan: kinds that no group has are left out") {
  const rf::Plan used = rf::without_unused_kinds(plan);
  CHECK(used == rf::Plan{{plan.kinds[0], plan.kinds[2]}, {{1, 0, 1}, {0, 0, 1}}});
  CHECK(rf::without_unused_kinds(used) == used);
}
