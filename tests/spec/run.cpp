#include "recurformer/spec/run.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cstdint>
#include <type_traits>

#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/mamba.hpp"
#include "recurformer/spec/streaming_attention.hpp"

namespace {

using Attention = rf::Kind<rf::Attention<>, rf::Bf16>;
using Streaming = rf::Kind<rf::StreamingAttention<>, rf::Bf16>;
using Mamba = rf::Kind<rf::Mamba<>, rf::Fp32>;

}  // namespace

TEST_CASE("kinds are called by mixer and precision") {
  CHECK(rf::kind_name<Attention>() == "attention:bf16");
  CHECK(rf::kind_name<Mamba>() == "mamba:fp32");
}

TEST_CASE("runs: their kinds in order, their groups, and whether all are known") {
  using Static = rf::Runs<rf::Run<4, rf::Attention<>, rf::Bf16>, rf::Run<10, rf::Mamba<>, rf::Fp32>>;
  CHECK(std::is_same_v<Static::Kinds, rf::Kinds<Attention, Mamba>>);
  CHECK(Static::is_static);
  CHECK(Static::static_groups == 14);
  CHECK(Static::groups == std::array<std::int64_t, 2>{4, 10});
  using Open = rf::Runs<rf::Run<rf::dynamic, rf::Attention<>, rf::Bf16>, rf::Run<10, rf::Mamba<>, rf::Fp32>>;
  CHECK_FALSE(Open::is_static);
  CHECK(Open::static_groups == 10);
}

TEST_CASE("sets of kinds: positions, and unions that keep the order of the first") {
  using Set = rf::Kinds<Attention, Mamba>;
  CHECK(rf::kind_index<Attention, Set> == 0);
  CHECK(rf::kind_index<Mamba, Set> == 1);
  using Union = rf::detail::UniteKinds<Set, rf::Kinds<Mamba, Streaming, Attention>>::type;
  CHECK(std::is_same_v<Union, rf::Kinds<Attention, Mamba, Streaming>>);
}
