#include "recurformer/spec/plan.hpp"

#include <doctest/doctest.h>

#include <string>
#include <tuple>
#include <vector>

#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/mamba.hpp"
#include "recurformer/spec/streaming_attention.hpp"
#include "support/error_message.hpp"

namespace {

using Streaming = rf::Kind<rf::StreamingAttention<>, rf::Fp32>;
using Set = rf::Kinds<rf::Kind<rf::Attention<>, rf::Bf16>, Streaming, rf::Kind<rf::Mamba<>, rf::Fp32>>;

const rf::Plan plan{.kinds = {{"mamba", "fp32", {}},
                              {"streaming", "fp32", {{"window", 7}, {"sink", 2}}},
                              {"attention", "bf16", {}}},
                    .kind_of_group = {{2, 1, 0}, {0, 0, 0}}};

template <class Change>
std::string error(Change change) {
  rf::Plan other = plan;
  change(other);
  return rf::test::message_of<rf::ArgumentError>([&] { (void)rf::bind_plan<Set>(other); });
}

}  // namespace

TEST_CASE("binding a plan: positions in the program's set, and mixers with the plan's options") {
  const auto bound = rf::bind_plan<Set>(plan);
  CHECK(bound.kind_of_group == std::vector<std::vector<int>>{{0, 1, 2}, {2, 2, 2}});
  const auto& streaming = std::get<1>(bound.mixers);
  CHECK(streaming.window == 7);
  CHECK(streaming.sink == 2);
}

TEST_CASE("binding a plan: errors name the kind, the option or the layer") {
  CHECK(error([](rf::Plan& p) { p.kinds[0].precision = "bf16"; }) ==
        "plan: this program has no kernels for \"mamba:bf16\"; it has attention:bf16, streaming:fp32, "
        "mamba:fp32");
  CHECK(error([](rf::Plan& p) {
          p.kinds[0].options = {{"window", 3}};
        }) == "plan: the mixer mamba has no option \"window\"");
  CHECK(error([](rf::Plan& p) { p.kinds[1].options[0].first = "width"; }) ==
        "plan: the mixer streaming has no option \"width\"");
  CHECK(error([](rf::Plan& p) { p.kinds.push_back(p.kinds[0]); }) ==
        "plan: the kind \"mamba:fp32\" is listed twice");
  for (const int kind : {-1, 3})
    CHECK(error([kind](rf::Plan& p) { p.kind_of_group[1][2] = kind; }) ==
          rf::text("plan: layer 1 names kind ", kind, "; the plan lists 3 kinds"));
}

TEST_CASE("plans: uniform ones, and kinds added once") {
  rf::Plan uniform = rf::uniform_plan(plan.kinds[2], 2, 3);
  CHECK(uniform == rf::Plan{{plan.kinds[2]}, {{0, 0, 0}, {0, 0, 0}}});
  CHECK(rf::with_kind(uniform, plan.kinds[1]) == 1);
  CHECK(rf::with_kind(uniform, {"streaming", "fp32", {}}) == 1);  // keeps the options it has
  CHECK(uniform.kinds[1] == plan.kinds[1]);
  CHECK(rf::with_kind(uniform, {"streaming", "fp32", {{"window", 9}}}) == 1);
  CHECK(uniform.kinds[1].options == decltype(rf::KindChoice::options){{"window", 9}});
  CHECK(uniform.kinds.size() == 2);

  uniform.kind_of_group[1][0] = 1;  // now in use
  CHECK(rf::with_kind(uniform, {"streaming", "fp32", {{"window", 9}}}) == 1);
  CHECK(rf::with_kind(uniform, {"streaming", "fp32", {}}) == 1);
  CHECK(rf::test::message_of<rf::ArgumentError>([&] {
          rf::with_kind(uniform, {"streaming", "fp32", {{"window", 8}}});
        }).starts_with("the plan has groups of kind streaming:fp32 with other options"));
}

TEST_CASE("the choice of a kind lists its mixer's options") {
  rf::StreamingAttention<> mixer;
  mixer.sink = 1;
  mixer.window = 12;
  const rf::KindChoice choice = rf::kind_choice<Streaming>(mixer);
  CHECK(choice == rf::KindChoice{"streaming", "fp32", {{"sink", 1}, {"window", 12}}});
  CHECK(choice.name() == "streaming:fp32");
}
