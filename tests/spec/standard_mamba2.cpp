#include "recurformer/spec/standard_mamba2.hpp"

#include <doctest/doctest.h>

#include <string>

namespace {

using rf::HeadShape, rf::ParameterSpec, rf::SsdShape, rf::StandardMamba2;

constexpr HeadShape shape = {.d_model = 48, .d_head = 32, .queries_per_group = 3};
using Mixer = StandardMamba2<SsdShape{.d_state = 64, .d_conv = 3}>;

static_assert(rf::Mixer<StandardMamba2<>>);
static_assert(rf::projection_width(Mixer{}, shape) == 2 * 3 * 32 + 2 * 64 + 3);
static_assert(Mixer::channels(shape) == 3 * 32 + 2 * 64);

TEST_CASE("standard Mamba-2 declares its tensors in the order of its columns and of a checkpoint's") {
  std::string names;
  for (const ParameterSpec& p : Mixer{}.parameters(shape)) (names += p.name) += ' ';
  CHECK(names ==
        "in_proj_z.weight in_proj_x.weight in_proj_b.weight in_proj_c.weight in_proj_dt.weight "
        "conv1d_x.weight conv1d_b.weight conv1d_c.weight conv1d_x.bias conv1d_b.bias conv1d_c.bias "
        "dt_bias A_log D ");
  for (const ParameterSpec& p : Mixer{}.parameters(shape)) {
    const bool of_group = p.name.find("_b.") != p.name.npos || p.name.find("_c.") != p.name.npos;
    CHECK((p.unit == rf::Unit::group) == of_group);
    CHECK(p.weight_decay == (p.role == rf::Role::projection));
  }
}

TEST_CASE("standard Mamba-2 remembers its group's last inputs and its heads' states") {
  const auto fields = Mixer{}.cache_fields(shape);
  CHECK(fields[0].unit == rf::Unit::group);
  CHECK(fields[0].slice == rf::slice_of(2, 3 * 32 + 2 * 64));
  CHECK(fields[1].unit == rf::Unit::head);
  CHECK(fields[1].slice == rf::slice_of(64, 32));
}

TEST_CASE("standard Mamba-2 by its C++ name") {
  CHECK(StandardMamba2<>::type_name() == "rf::StandardMamba2<>");
  CHECK(Mixer::type_name() == "rf::StandardMamba2<rf::SsdShape{.d_state = 64, .d_conv = 3}>");
}

}  // namespace
