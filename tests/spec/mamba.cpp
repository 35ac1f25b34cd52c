#include "recurformer/spec/mamba.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "recurformer/reference/mamba.hpp"

namespace {

using rf::HeadShape, rf::Mamba, rf::ParameterSpec, rf::ScanShape;
using Standard = Mamba<ScanShape{}, rf::standard_mamba>;

constexpr HeadShape shape = {.d_model = 48, .d_head = 32, .queries_per_group = 3};

static_assert(rf::Mixer<Mamba<>>);
static_assert(rf::Mixer<Standard>);
static_assert(rf::projection_width(Mamba<>{}, shape) == 2 * 3 * 32);
static_assert(Mamba<>::dt_rank({.d_head = 80}) == 5);
static_assert(Mamba<>::dt_rank({.d_head = 16}) == 1);
static_assert(Mamba<ScanShape{.dt_rank = 7}>::dt_rank({.d_head = 16}) == 7);

template <class Mixer>
std::string names() {
  std::string out;
  for (const ParameterSpec& p : Mixer{}.parameters(shape)) (out += p.name) += ' ';
  return out;
}

template <class Mixer>
ParameterSpec parameter(std::string_view name) {
  for (const ParameterSpec& p : Mixer{}.parameters(shape))
    if (p.name == name) return p;
  FAIL("no parameter ", std::string(name));
  return {};
}

template <class Mixer>
std::vector<float> start(std::string_view name) {
  const ParameterSpec spec = parameter<Mixer>(name);
  std::vector<float> slice(static_cast<std::size_t>(spec.slice.size()));
  rf::Random random(5);
  spec.initialise(slice, shape, random);
  return slice;
}

TEST_CASE("Mamba declares its tensors in the order of its columns and of the kernel") {
  CHECK(names<Mamba<>>() ==
        "in_proj_x.weight in_proj_z.weight conv1d.weight conv1d.bias x_proj.weight x_proj.bias "
        "dt_proj.weight dt_proj.bias A_log D ");
  CHECK(names<Standard>() ==
        "in_proj_x.weight in_proj_z.weight conv1d.weight conv1d.bias x_proj.weight dt_proj.weight "
        "dt_proj.bias A_log D ");
  for (const ParameterSpec& p : Mamba<>{}.parameters(shape)) CHECK(p.unit == rf::Unit::head);
  CHECK(parameter<Mamba<>>("in_proj_z.weight").slice == rf::slice_of(32, 48));
  CHECK(parameter<Mamba<>>("conv1d.weight").slice == rf::slice_of(32, 4));
  CHECK(parameter<Mamba<>>("x_proj.weight").slice == rf::slice_of(2 + 16 + 16, 32));
  CHECK(parameter<Mamba<>>("x_proj.bias").slice == rf::slice_of(2 + 16 + 16));
  CHECK(parameter<Mamba<>>("dt_proj.weight").slice == rf::slice_of(32, 2));
  CHECK(parameter<Mamba<>>("A_log").slice == rf::slice_of(32, 16));
}

TEST_CASE("Mamba: weight decay applies to matrices only") {
  for (const ParameterSpec& p : Mamba<>{}.parameters(shape)) {
    const bool matrix = p.name == "in_proj_x.weight" || p.name == "in_proj_z.weight" ||
                        p.name == "x_proj.weight" || p.name == "dt_proj.weight";
    CHECK(p.weight_decay == matrix);
  }
}

TEST_CASE("Mamba remembers its last inputs and its states") {
  const auto fields = Mamba<ScanShape{.d_state = 8, .d_conv = 3}>{}.cache_fields(shape);
  CHECK(fields[0].slice == rf::slice_of(2, 32));
  CHECK(fields[1].slice == rf::slice_of(8, 32));
  for (const auto& field : fields) {
    CHECK(field.kind == rf::FieldKind::state);
    CHECK(field.unit == rf::Unit::head);
  }
}

TEST_CASE("a converted head starts as an ungated moving average") {
  std::vector<std::vector<double>> values;
  rf::Random random(3);
  constexpr HeadShape one = {.d_model = 8, .d_head = 16};
  for (const ParameterSpec& p : Mamba<>{}.parameters(one)) {
    std::vector<float> slice(static_cast<std::size_t>(p.slice.size()));
    p.initialise(slice, one, random);
    if (p.role == rf::Role::local) values.emplace_back(slice.begin(), slice.end());
    if (p.name == "in_proj_z.weight") CHECK(slice == std::vector<float>(slice.size(), 0.0f));
  }
  const std::vector<std::span<const double>> local(values.begin(), values.end());
  // x = 1 for 3000 tokens, fifteen times the slowest state's memory, with the gate's input at zero
  constexpr std::int64_t rows = 3000;
  std::vector<double> projected(rows * 32, 0.0), out(rows * 16);
  for (std::size_t t = 0; t < rows; ++t)
    for (std::size_t c = 0; c < 16; ++c) projected[t * 32 + c] = 1.0;
  rf::reference::MambaState state;
  rf::reference::MixerReference<Mamba<>>::forward(
      {}, one, {.rows = rows, .projected = projected.data(), .local = local, .out = out.data()}, state);
  CHECK(out.back() == doctest::Approx(1.0).epsilon(1e-4));
  // the first token's output is its own weight: more than one of 200, less than all
  CHECK(out.front() > 0.1);
  CHECK(out.front() < 0.9);
}

TEST_CASE("standard Mamba starts as published") {
  const auto a_log = start<Standard>("A_log");
  for (std::size_t i = 0; i < a_log.size(); ++i)
    CHECK(std::exp(a_log[i]) == doctest::Approx(static_cast<double>(i % 16 + 1)).epsilon(1e-6));
  bool small = false, large = false;
  for (const float bias : start<Standard>("dt_proj.bias")) {
    const double delta = rf::softplus(static_cast<double>(bias));
    CHECK(delta > 0.00099);
    CHECK(delta < 0.101);
    small |= delta < 0.01;
    large |= delta > 0.01;
  }
  CHECK(small);
  CHECK(large);
  for (const float value : start<Standard>("D")) CHECK(value == 1.0f);
  for (const float value : start<Standard>("conv1d.weight")) CHECK(std::abs(value) <= 0.5f);
}

}  // namespace
