// The MLP in one launch: values, order of tickets, counters, few resident blocks.
#include "recurformer/cuda/mlp.hpp"

#include <doctest/doctest.h>

#include "cuda/gemm_harness.hpp"
#include "recurformer/cuda/pack_rows.hpp"
#include "support/error_message.hpp"

namespace {

using namespace rf::test;

struct Shape {
  int rows, d_model, d_ff;
};

std::size_t size(int rows, int columns) {
  return static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns);
}

/// x + down(swiglu(rms_norm(x))) in double; with rounding, as a plain implementation in T stores it.
template <class T>
std::vector<double> reference(const std::vector<double>& x, const std::vector<float>& gain,
                              const std::vector<double>& gate_up, const std::vector<double>& down, int d_ff,
                              bool rounding) {
  const auto keep = [&](double value) { return rounding ? rounded<T>(value) : value; };
  const std::size_t width = gain.size(), rows = x.size() / width, ff = static_cast<std::size_t>(d_ff);
  const auto sums = product(normalised<T>(x, gain, 1e-5, rounding), gate_up, width);
  std::vector<double> act(rows * ff);
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < ff; ++c) {
      const double gate = keep(sums[r * 2 * ff + c]), up = keep(sums[r * 2 * ff + ff + c]);
      act[r * ff + c] = keep(gate / (1 + std::exp(-gate)) * up);
    }
  auto out = product(act, down, ff);
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = keep(out[i] + x[i]);
  return out;
}

/// Two launches in a row on the same counters, the second from the first one's x and sums.
template <class Tile, class Device>
std::vector<typename Tile::Element> check_mlp(Device& device, Shape shape) {
  using T = typename Tile::Element;
  CAPTURE(shape.rows);
  CAPTURE(shape.d_ff);
  rf::Random random(6);
  const auto x0 = random_values<T>(random, size(shape.rows, shape.d_model));
  const auto w = random_values<T>(random, size(2 * shape.d_ff, shape.d_model), 0.2);
  const auto down = random_values<T>(random, size(shape.d_model, shape.d_ff), 0.2);
  const auto gain = random_values<float>(random, size(1, shape.d_model));
  const std::vector<int> source = rf::cuda::gate_up_rows(shape.d_ff);
  const auto packed_rows = static_cast<int>(source.size());
  const int parts = rf::cuda::part_count<Tile>(shape.d_model);

  const GuardedArray<T, Device> x(device, x0), device_w(device, w), device_down(device, down);
  const GuardedArray<T, Device> packed(device, size(packed_rows, shape.d_model));
  const GuardedArray<T, Device> workspace(device, size(shape.rows, shape.d_ff));
  const GuardedArray<float, Device> device_gain(device, gain);
  const GuardedArray<float, Device> sums(
      device,
      row_sums(to_double(x0), static_cast<std::size_t>(shape.d_model), static_cast<std::size_t>(parts)));
  const GuardedArray<int, Device> device_source(device, source);
  const GuardedArray<unsigned, Device> counters(device,
                                                std::vector<unsigned>(rf::cuda::mlp_counters(shape.rows)));
  rf::cuda::pack_rows<T, T>(device, packed_rows,
                            {.weights = device_w.data(),
                             .gain = device_gain.data(),
                             .source = device_source.data(),
                             .out = packed.data(),
                             .inner = shape.d_model});
  std::vector<T> before = x0;
  for (int launch = 0; launch < 2; ++launch) {
    rf::cuda::mlp_tiles<Tile>(device, {.x = {x.data(), shape.d_model},
                                       .rows = shape.rows,
                                       .d_model = shape.d_model,
                                       .d_ff = shape.d_ff,
                                       .gate_up = packed.data(),
                                       .down = device_down.data(),
                                       .norm = {.sums = {sums.data(), parts}, .epsilon = 1e-5f},
                                       .new_sums = {sums.data(), parts},
                                       .workspace = workspace.data(),
                                       .counters = {counters.data()}});
    const auto reference_of = [&](bool rounding) {
      return reference<T>(to_double(before), gain, to_double(w), to_double(down), shape.d_ff, rounding);
    };
    const std::vector<T> after = x.to_host();
    check_as_good(after, reference_of(true), reference_of(false));
    for (const unsigned counter : counters.to_host()) CHECK(counter == 0);
    before = after;
  }
  workspace.to_host();  // its canaries
  const auto expected_sums = row_sums(to_double(before), static_cast<std::size_t>(shape.d_model), 1);
  const auto written = sums.to_host();
  for (int r = 0; r < shape.rows; ++r) {
    double sum = 0;
    for (int part = 0; part < parts; ++part)
      sum += static_cast<double>(written[size(r, parts) + static_cast<std::size_t>(part)]);
    const auto exact = static_cast<double>(expected_sums[static_cast<std::size_t>(r)]);
    CHECK(std::abs(sum - exact) <= 1e-5 * exact);
  }
  return before;
}

/// A small tensor tile: 16 x 64, one warp.
template <class T>
using SmallTile = rf::cuda::TensorTile<T, 16, 64, 16, 1>;

}  // namespace

TEST_CASE("mlp: every schedule, any number of resident blocks, the same bits") {
  std::vector<rf::bf16> first, first_few;
  for (const auto& options : schedules()) {
    CAPTURE(options.seed);
    TestDevice device(options);
    const auto out = check_mlp<SmallTile<rf::bf16>>(device, {150, 72, 40});  // 10 row tiles: two bands
    if (first.empty()) first = out;
    CHECK(out == first);
    const auto few = check_mlp<rf::cuda::FewRowsTile<rf::bf16, 1>>(device, {11, 40, 72});
    if (first_few.empty()) first_few = few;
    CHECK(few == first_few);
  }
}

TEST_CASE("mlp: shapes") {
  TestDevice device({.seed = 2});
  check_mlp<SmallTile<rf::fp16>>(device, {1, 8, 8});
  check_mlp<SmallTile<rf::bf16>>(device, {17, 136, 104});
  check_mlp<rf::cuda::FewRowsTile<rf::fp16, 2>>(device, {1, 136, 64});
  check_mlp<rf::cuda::FewRowsTile<rf::bf16, 4>>(device, {32, 16, 8});
  check_mlp<rf::cuda::MediumTile<rf::bf16>>(device, {65, 64, 32});
  check_mlp<rf::cuda::LargeTile<rf::bf16>>(device, {129, 64, 32});
}

TEST_CASE("mlp: the number of rows chooses the tile") {
  TestDevice device;
  rf::cuda::mlp(device, rf::cuda::MlpArguments<rf::bf16>{});  // no rows: nothing to do
  const GuardedArray<rf::bf16, TestDevice> x(device, 64);
  CHECK(contains(message_of<rf::ArgumentError>([&] {
                   rf::cuda::mlp(device, rf::cuda::MlpArguments<rf::bf16>{
                                             .x = {x.data(), 8}, .rows = 8, .d_model = 8, .d_ff = 8});
                 }),
                 "leaves 4 parts per row"));
}

TEST_CASE("mlp: tickets are all tiles once, and down waits for lower tickets only") {
  for (const int row_tiles : {1, 3, 8, 9, 16, 21}) {
    const rf::cuda::MlpOrder order{.row_tiles = row_tiles, .gate_up_tiles = 3, .down_tiles = 2};
    std::vector<int> gate_up(size(row_tiles, 3)), down(size(row_tiles, 2)), finished(size(row_tiles, 1));
    for (int ticket = 0; ticket < order.count(); ++ticket) {
      const rf::cuda::MlpStep step = order.at(ticket);
      REQUIRE(step.tile.row >= 0);
      REQUIRE(step.tile.row < row_tiles);
      REQUIRE(step.tile.column < (step.down ? 2 : 3));
      const auto row = static_cast<std::size_t>(step.tile.row),
                 column = static_cast<std::size_t>(step.tile.column);
      if (step.down) {
        CHECK(finished[row] == 3);
        ++down[row * 2 + column];
      } else {
        ++finished[row];
        ++gate_up[row * 3 + column];
      }
    }
    CHECK(std::count(gate_up.begin(), gate_up.end(), 1) == row_tiles * 3);
    CHECK(std::count(down.begin(), down.end(), 1) == row_tiles * 2);
  }
}
