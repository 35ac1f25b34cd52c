// Linear layers: every tile, with norm, residual, SwiGLU, bias and gathered rows.
#include "recurformer/cuda/linear.hpp"

#include <doctest/doctest.h>

#include "cuda/gemm_harness.hpp"
#include "recurformer/cuda/pack_rows.hpp"
#include "support/error_message.hpp"

namespace {

using namespace rf::test;
using rf::cuda::DenseRows;
using rf::cuda::FewRowsTile;
using rf::cuda::GemmOperands;
using rf::cuda::NoNorm;
using rf::cuda::RmsNorm;

struct Shape {
  int rows, columns, inner;
};

std::size_t size(int rows, int columns) {
  return static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns);
}

/// y = x Wᵀ + b, in rows further apart than they are long.
template <class Tile, class Device>
void check_store(Device& device, Shape shape, double scale = 1) {
  using T = typename Tile::Element;
  CAPTURE(shape.rows);
  CAPTURE(shape.columns);
  CAPTURE(shape.inner);
  rf::Random random(1);
  const int a_stride = shape.inner + 8, out_stride = shape.columns + 16;
  const auto dense = random_values<T>(random, size(shape.rows, shape.inner), scale);
  const auto w = random_values<T>(random, size(shape.columns, shape.inner), scale);
  const auto bias = random_values<float>(random, size(1, shape.columns));
  std::vector<T> a(size(shape.rows, a_stride));
  std::fill(a.begin(), a.end(), T::from_bits(0xffff));
  for (int r = 0; r < shape.rows; ++r)
    std::copy_n(dense.begin() + r * shape.inner, shape.inner, a.begin() + r * a_stride);

  const GuardedArray<T, Device> device_a(device, a), device_w(device, w);
  const GuardedArray<float, Device> device_bias(device, bias);
  const GuardedArray<T, Device> out(device, size(shape.rows, out_stride));
  rf::cuda::launch_linear_tiles<Tile>(
      device,
      GemmOperands<DenseRows<T>>{.rows = {{device_a.data(), a_stride}, shape.rows},
                                 .weights = device_w.data(),
                                 .columns = shape.columns,
                                 .inner = shape.inner},
      NoNorm{},
      rf::cuda::Store<T>{
          .out = {out.data(), out_stride}, .columns = shape.columns, .bias = device_bias.data()});

  const std::vector<T> padded = out.to_host();
  std::vector<double> exact = product(to_double(dense), to_double(w), static_cast<std::size_t>(shape.inner));
  std::vector<T> ours;
  std::vector<double> plain;
  for (int r = 0; r < shape.rows; ++r)
    for (int c = 0; c < out_stride; ++c) {
      const T value = padded[size(r, out_stride) + static_cast<std::size_t>(c)];
      if (c >= shape.columns) {
        CHECK(value.bits == 0xffff);
        continue;
      }
      double& sum = exact[size(r, shape.columns) + static_cast<std::size_t>(c)];
      sum += static_cast<double>(bias[static_cast<std::size_t>(c)]);
      plain.push_back(rounded<T>(sum));
      ours.push_back(value);
    }
  check_as_good(ours, plain, exact);
}

/// x += rms_norm(x') W, x' gathered from other rows, and the sums of squares of the result.
template <class Tile, class Device>
void check_norm_residual(Device& device, Shape shape, double scale) {
  using T = typename Tile::Element;
  CAPTURE(shape.rows);
  CAPTURE(shape.columns);
  CAPTURE(shape.inner);
  rf::Random random(2);
  const double epsilon = 1e-5;
  const int stored = 2 * shape.rows + 3, parts = 5;
  const auto stored_x = random_values<T>(random, size(stored, shape.inner), scale);
  const auto w = random_values<T>(random, size(shape.columns, shape.inner), 0.2);
  const auto gain = random_values<float>(random, size(1, shape.inner));
  const auto x = random_values<T>(random, size(shape.rows, shape.columns));
  std::vector<int> index;
  std::vector<double> gathered;
  for (int r = 0; r < shape.rows; ++r) {
    index.push_back((7 * r + 2) % stored);
    for (int k = 0; k < shape.inner; ++k)
      gathered.push_back(static_cast<double>(
          static_cast<float>(stored_x[size(index.back(), shape.inner) + static_cast<std::size_t>(k)])));
  }
  const auto sums = row_sums(to_double(stored_x), static_cast<std::size_t>(shape.inner), parts);

  const GuardedArray<T, Device> device_stored(device, stored_x), device_w(device, w), device_x(device, x);
  const GuardedArray<T, Device> packed(device, w.size());
  const GuardedArray<float, Device> device_gain(device, gain), device_sums(device, sums);
  const GuardedArray<int, Device> device_index(device, index);
  const int out_parts = rf::cuda::part_count<Tile>(shape.columns);
  const GuardedArray<float, Device> out_sums(device, size(shape.rows, out_parts));
  rf::cuda::pack_rows<T, T>(device, shape.columns,
                            {.weights = device_w.data(),
                             .gain = device_gain.data(),
                             .source = nullptr,
                             .out = packed.data(),
                             .inner = shape.inner});
  rf::cuda::launch_linear_tiles<Tile>(
      device,
      GemmOperands<rf::cuda::GatheredRows<T>>{
          .rows = {{device_stored.data(), shape.inner}, shape.rows, device_index.data()},
          .weights = packed.data(),
          .columns = shape.columns,
          .inner = shape.inner},
      RmsNorm{.sums = {device_sums.data(), parts}, .epsilon = static_cast<float>(epsilon)},
      rf::cuda::Residual<T>{.x = {device_x.data(), shape.columns},
                            .columns = shape.columns,
                            .sums = {out_sums.data(), out_parts}});

  const auto inner = static_cast<std::size_t>(shape.inner);
  std::vector<double> exact = product(normalised<T>(gathered, gain, epsilon, false), to_double(w), inner);
  std::vector<double> plain = product(normalised<T>(gathered, gain, epsilon, true), to_double(w), inner);
  for (std::size_t i = 0; i < exact.size(); ++i) {
    exact[i] += to_double(x)[i];
    plain[i] = rounded<T>(plain[i] + to_double(x)[i]);
  }
  const std::vector<T> ours = device_x.to_host();
  check_as_good(ours, plain, exact);

  const auto written = out_sums.to_host();
  for (int r = 0; r < shape.rows; ++r) {
    double sum = 0, of_x = 0;
    for (int part = 0; part < out_parts; ++part)
      sum += static_cast<double>(written[size(r, out_parts) + static_cast<std::size_t>(part)]);
    for (int c = 0; c < shape.columns; ++c)
      of_x += std::pow(
          static_cast<double>(static_cast<float>(ours[size(r, shape.columns) + static_cast<std::size_t>(c)])),
          2);
    CHECK(std::abs(sum - of_x) <= 1e-5 * of_x);
  }
}

/// silu(x W_gateᵀ) ∘ (x W_upᵀ).
template <class Tile, class Device>
void check_swiglu(Device& device, Shape shape, double scale) {
  using T = typename Tile::Element;
  CAPTURE(shape.rows);
  CAPTURE(shape.columns);
  rf::Random random(3);
  const auto a = random_values<T>(random, size(shape.rows, shape.inner), scale);
  const auto w = random_values<float>(random, size(2 * shape.columns, shape.inner), 0.3);
  const std::vector<int> source = rf::cuda::gate_up_rows(shape.columns);
  const int packed_rows = static_cast<int>(source.size());
  const GuardedArray<T, Device> device_a(device, a), packed(device, size(packed_rows, shape.inner));
  const GuardedArray<float, Device> device_w(device, w);
  const GuardedArray<int, Device> device_source(device, source);
  const GuardedArray<T, Device> out(device, size(shape.rows, shape.columns));
  rf::cuda::pack_rows<float, T>(device, packed_rows,
                                {.weights = device_w.data(),
                                 .gain = nullptr,
                                 .source = device_source.data(),
                                 .out = packed.data(),
                                 .inner = shape.inner});
  rf::cuda::launch_linear_tiles<Tile>(
      device,
      GemmOperands<DenseRows<T>>{.rows = {{device_a.data(), shape.inner}, shape.rows},
                                 .weights = packed.data(),
                                 .columns = packed_rows,
                                 .inner = shape.inner},
      NoNorm{}, rf::cuda::SwiGlu<T>{.out = {out.data(), shape.columns}, .columns = shape.columns});

  std::vector<double> stored_w;
  for (const float value : w) stored_w.push_back(rounded<T>(static_cast<double>(value)));
  const auto sums = product(to_double(a), stored_w, static_cast<std::size_t>(shape.inner));
  std::vector<double> exact, plain;
  for (int r = 0; r < shape.rows; ++r)
    for (int c = 0; c < shape.columns; ++c) {
      const std::size_t at = size(r, 2 * shape.columns) + static_cast<std::size_t>(c);
      const double gate = sums[at], up = sums[at + static_cast<std::size_t>(shape.columns)];
      exact.push_back(gate / (1 + std::exp(-gate)) * up);
      const double low = rounded<T>(gate);
      plain.push_back(rounded<T>(low / (1 + std::exp(-low)) * rounded<T>(up)));
    }
  check_as_good(out.to_host(), plain, exact);
}

/// A small tensor tile, so that shapes with several tiles stay small.
template <class T>
using SmallTile = rf::cuda::TensorTile<T, 32, 64, 16, 4>;

template <class Tile, class Device>
void check_tile(Device& device) {
  check_store<Tile>(device, {1, 8, 8});
  check_store<Tile>(device, {3, 72, 40});
  check_store<Tile>(device, {Tile::rows + 3, 136, 104});
  check_norm_residual<Tile>(device, {5, 88, 72}, 1);
  check_norm_residual<Tile>(device, {Tile::rows + 1, 64, 136}, 300);
  check_swiglu<Tile>(device, {2, 40, 32}, 1);
}

}  // namespace

TEST_CASE("linear: small tensor tiles under every schedule") {
  for (const auto& options : schedules()) {
    CAPTURE(options.seed);
    TestDevice device(options);
    check_tile<SmallTile<rf::bf16>>(device);
  }
}

TEST_CASE("linear: few-rows tiles under every schedule") {
  for (const auto& options : schedules()) {
    CAPTURE(options.seed);
    TestDevice device(options);
    check_tile<FewRowsTile<rf::bf16, 1>>(device);
  }
  TestDevice device({.seed = 5});
  check_tile<FewRowsTile<rf::fp16, 2>>(device);
  check_tile<FewRowsTile<rf::bf16, 4>>(device);
  check_store<FewRowsTile<rf::bf16, 1>>(device, {7, 24, 2120});  // more than one round of steps
}

TEST_CASE("linear: the tiles that ship") {
  TestDevice device({.seed = 1});
  check_store<rf::cuda::MediumTile<rf::bf16>>(device, {70, 136, 200});
  check_norm_residual<rf::cuda::MediumTile<rf::fp16>>(device, {9, 72, 40}, 1);
  check_store<rf::cuda::LargeTile<rf::bf16>>(device, {131, 136, 168});
  check_swiglu<rf::cuda::LargeTile<rf::bf16>>(device, {3, 72, 40}, 1);
}

TEST_CASE("linear: huge and tiny values") {
  TestDevice device;
  check_store<SmallTile<rf::bf16>>(device, {5, 16, 48}, 1e15);
  check_store<SmallTile<rf::bf16>>(device, {5, 16, 48}, 1e-15);
  check_store<FewRowsTile<rf::bf16, 1>>(device, {5, 16, 48}, 1e15);
  check_norm_residual<SmallTile<rf::bf16>>(device, {5, 64, 48}, 1e-6);  // epsilon decides
  check_norm_residual<FewRowsTile<rf::bf16, 1>>(device, {5, 64, 48}, 1e12);
  check_swiglu<SmallTile<rf::bf16>>(device, {4, 32, 16}, 1000);  // silu is 0 or the identity
  check_swiglu<FewRowsTile<rf::fp16, 1>>(device, {4, 32, 16}, 40);
}

TEST_CASE("linear: the number of rows chooses the tile, and no rows are nothing to do") {
  const auto rows_of = [](int rows, int columns, int multiprocessors) {
    int out = 0;
    rf::cuda::with_tile<rf::bf16>(rows, columns, multiprocessors,
                                  [&]<class Tile>(Tile) { out = Tile::rows; });
    return out;
  };
  CHECK(rows_of(1, 896, 132) == 8);
  CHECK(rows_of(9, 896, 132) == 16);
  CHECK(rows_of(32, 896, 132) == 32);
  CHECK(rows_of(33, 896, 132) == 64);
  CHECK(rows_of(4096, 9728, 132) == 128);
  TestDevice device;
  check_store<SmallTile<rf::bf16>>(device, {0, 8, 8});
  rf::cuda::launch_linear(device, GemmOperands<DenseRows<rf::bf16>>{}, NoNorm{}, rf::cuda::Store<rf::bf16>{});
}

TEST_CASE("linear: what tiles cannot be made of is said") {
  TestDevice device;
  const GuardedArray<rf::bf16, TestDevice> a(device, 64);
  const auto message = [&](int columns, int inner, std::ptrdiff_t offset, int parts) {
    return message_of<rf::ArgumentError>([&] {
      rf::cuda::launch_linear(
          device,
          GemmOperands<DenseRows<rf::bf16>>{
              .rows = {{a.data() + offset, 8}, 1}, .weights = a.data(), .columns = columns, .inner = inner},
          NoNorm{},
          rf::cuda::Residual<rf::bf16>{.x = {a.data(), 8}, .columns = columns, .sums = {nullptr, parts}});
    });
  };
  CHECK(contains(message(8, 12, 0, 4), "W (8, 12); both must be multiples of 8"));
  CHECK(contains(message(12, 8, 0, 4), "W (12, 8)"));
  CHECK(contains(message(8, 8, 1, 4), "multiples of 16 bytes"));
  CHECK(contains(message(8, 8, 0, 1), "leaves 4 parts per row, but there is room for 1"));
}

TEST_CASE("linear: every tile of a grid is visited once") {
  for (const int rows : {1, 7, 8, 9, 16, 19})
    for (const int columns : {1, 3, 8}) {
      std::vector<int> visits(size(rows, columns));
      for (int i = 0; i < rows * columns; ++i) {
        const auto at = rf::cuda::tile_at(i, rows, columns);
        REQUIRE(at.row < rows);
        REQUIRE(at.column < columns);
        ++visits[size(at.row, columns) + static_cast<std::size_t>(at.column)];
      }
      CHECK(std::count(visits.begin(), visits.end(), 1) == rows * columns);
    }
}

TEST_CASE("linear: the same bits whatever the schedule") {
  const auto run = [](const rf::arch::SimulatorOptions& options) {
    TestDevice device(options);
    rf::Random random(9);
    const auto a = random_values<rf::bf16>(random, 6 * 64), w = random_values<rf::bf16>(random, 64 * 64);
    const auto x = random_values<rf::bf16>(random, 6 * 64);
    const GuardedArray<rf::bf16, TestDevice> device_a(device, a), device_w(device, w), out(device, x);
    const GuardedArray<float, TestDevice> sums(device, 6 * 4);
    rf::cuda::launch_linear(
        device,
        GemmOperands<DenseRows<rf::bf16>>{
            .rows = {{device_a.data(), 64}, 6}, .weights = device_w.data(), .columns = 64, .inner = 64},
        NoNorm{},
        rf::cuda::Residual<rf::bf16>{.x = {out.data(), 64}, .columns = 64, .sums = {sums.data(), 4}});
    return std::pair(out.to_host(), sums.to_host());
  };
  CHECK(rf::cuda::row_parts(6, 64) == 4);
  const auto first = run({});
  for (const auto& options : schedules()) CHECK(run(options) == first);
}
