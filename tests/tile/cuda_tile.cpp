#include "recurformer/tile/cuda_tile.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <type_traits>
#include <vector>

#include "recurformer/core/random.hpp"
#include "recurformer/cuda/device_array.hpp"
#include "support/test_device.hpp"

namespace {

template <int Columns>
void check_layout() {
  using Layout = rf::tile::SwizzledLayout<Columns>;
  constexpr int rows = 64;
  std::vector<int> used(rows * Layout::chunks);
  for (int row = 0; row < rows; ++row)
    for (int chunk = 0; chunk < Layout::chunks; ++chunk) {
      const int offset = Layout::offset(row, chunk);
      REQUIRE(offset % 16 == 0);
      REQUIRE(offset / Layout::row_bytes == row);
      ++used[static_cast<std::size_t>(offset / 16)];
    }
  CHECK(used == std::vector<int>(used.size(), 1));
  // eight rows of a chunk, from a multiple of eight on, lie in eight different groups of four banks
  for (int row = 0; row < rows; row += 8)
    for (int chunk = 0; chunk < Layout::chunks; ++chunk) {
      unsigned groups = 0;
      for (int r = row; r < row + 8; ++r) groups |= 1u << Layout::offset(r, chunk) / 16 % 8;
      CHECK(groups == 0xffu);
    }
}

/// One warp: scores of `Slabs` slabs of queries with Keys keys, their softmax relative to the maximum, and
/// o = 0.5 o + p v from o = 1.
template <class T, int D, int Slabs, int Keys, bool Stored>
struct TileKernel {
  struct Parameters {
    const T* queries;  // (16 · Slabs, D)
    const T* keys;     // (Keys, D)
    const T* values;   // (Keys, D)
    float unit;
    float* scores;   // (16 · Slabs, Keys), dot products
    float* maximum;  // (16 · Slabs)
    float* sum;
    float* output;  // (16 · Slabs, D)
  };
  static constexpr int threads = 32;
  static constexpr int blocks_per_multiprocessor = 1;
  using Queries = rf::tile::SharedTile<T, 16 * Slabs, D>;
  using KeyTile = rf::tile::SharedTile<T, Keys, D>;
  static constexpr int shared_bytes = Queries::bytes + 2 * KeyTile::bytes;

  template <int Rows>
  RECURFORMER_DEVICE static void fill(unsigned char* to, const T* from) {
    for (int i = rf::arch::lane_index(); i < Rows * D; i += 32) {
      const int row = i / D, column = i % D;
      const int at = rf::tile::SwizzledLayout<D>::offset(row, column / 8) + column % 8 * 2;
      *reinterpret_cast<T*>(to + at) = from[i];
    }
  }

  RECURFORMER_DEVICE static void run(const Parameters& p) {
    auto* shared = rf::arch::shared_memory<unsigned char>();
    fill<16 * Slabs>(shared, p.queries);
    fill<Keys>(shared + Queries::bytes, p.keys);
    fill<Keys>(shared + Queries::bytes + KeyTile::bytes, p.values);
    rf::arch::sync_warp();
    const rf::arch::SharedAddress at = rf::arch::shared_address(shared);
    const KeyTile keys{at + Queries::bytes}, values{at + Queries::bytes + KeyTile::bytes};

    rf::tile::RegisterOperand<T, Slabs, D> loaded;
    loaded.fill_from(Queries{at}, 0);
    rf::tile::ScoreFragment<Slabs, Keys> scores;
    scores.unit = p.unit;
    if constexpr (Stored) {
      rf::arch::sync_warp();
      rf::tile::StoredOperand<T, Slabs, D> stored(shared);
      stored.fill_from(loaded);
      multiply_abt(scores, stored, keys);
    } else {
      multiply_abt(scores, loaded, keys);
    }
    scores.each([&](float& x, int i, int half, int column) {
      p.scores[row(i, half) * Keys + rf::tile::fragment_column() + column] = x;
    });

    rf::tile::FragmentRows<Slabs> maximum, sum, half_of;
    maximum.each([](float& x, int, int) { x = rf::arch::minus_infinity(); });
    sum.each([](float& x, int, int) { x = 0.0f; });
    half_of.each([](float& x, int, int) { x = 0.5f; });
    maximum = row_max(maximum, scores, Keys);
    exponentiate(scores, maximum, sum, Keys);
    sum = row_total(sum);
    rf::tile::Fragment<Slabs, D> output;
    output.fill(1.0f);
    scale_multiply_ab(output, half_of, scores, values);

    if (rf::arch::lane_index() % 4 == 0) {
      maximum.each([&](float& x, int i, int half) { p.maximum[row(i, half)] = x; });
      sum.each([&](float& x, int i, int half) { p.sum[row(i, half)] = x; });
    }
    output.each([&](float& x, int i, int half, int column) {
      p.output[row(i, half) * D + rf::tile::fragment_column() + column] = x;
    });
  }
  RECURFORMER_DEVICE static int row(int slab, int half) { return 16 * slab + rf::tile::fragment_row(half); }
};

template <class T, int D, int Slabs, int Keys, bool Stored, class Device>
void check_verbs(Device& device) {
  using Kernel = TileKernel<T, D, Slabs, Keys, Stored>;
  constexpr std::size_t rows = 16 * Slabs, keys = Keys, width = D;
  rf::Random random(11);
  const auto draw = [&](std::size_t count) {
    std::vector<T> values;
    for (std::size_t i = 0; i < count; ++i) values.push_back(T(static_cast<float>(random.normal())));
    return values;
  };
  const auto q = draw(rows * width), k = draw(keys * width), v = draw(keys * width);
  const auto poison = [&](std::size_t count) {
    const std::vector<float> values(count, std::numeric_limits<float>::quiet_NaN());
    return rf::cuda::DeviceArray<float, Device>(device, std::span(values));
  };
  const rf::cuda::DeviceArray<T, Device> queries(device, std::span(q)), key_rows(device, std::span(k)),
      value_rows(device, std::span(v));
  const auto scores = poison(rows * keys), maximum = poison(rows), sum = poison(rows),
             output = poison(rows * width);
  const float unit = 0.3f;
  device.template launch<Kernel>({.blocks = {.x = 1}, .shared_bytes = Kernel::shared_bytes},
                                 {.queries = queries.data(),
                                  .keys = key_rows.data(),
                                  .values = value_rows.data(),
                                  .unit = unit,
                                  .scores = scores.data(),
                                  .maximum = maximum.data(),
                                  .sum = sum.data(),
                                  .output = output.data()});
  const auto got_scores = scores.to_host(), got_maximum = maximum.to_host(), got_sum = sum.to_host(),
             got_output = output.to_host();
  const auto number = [](const std::vector<T>& from, std::size_t i) { return double(float(from[i])); };
  double worst = 0;
  const auto compare = [&](float got, double want, double scale) {
    const double error = std::abs(double(got) - want) / scale;
    worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : std::max(worst, error);
  };
  for (std::size_t r = 0; r < rows; ++r) {
    std::array<double, keys> want{};
    double largest = -1e30, total = 0;
    for (std::size_t j = 0; j < keys; ++j) {
      for (std::size_t d = 0; d < width; ++d) want[j] += number(q, r * width + d) * number(k, j * width + d);
      compare(got_scores[r * keys + j], want[j], 10);
      largest = std::max(largest, want[j] * double(unit));
    }
    compare(got_maximum[r], largest, 10);
    std::array<double, keys> weights{};
    for (std::size_t j = 0; j < keys; ++j) total += weights[j] = std::exp2(want[j] * double(unit) - largest);
    compare(got_sum[r], total, 10);
    for (std::size_t d = 0; d < width; ++d) {
      double expected = 0.5, magnitude = 1;
      for (std::size_t j = 0; j < keys; ++j) {
        const double rounded = double(float(T(static_cast<float>(weights[j]))));
        expected += rounded * number(v, j * width + d);
        magnitude += std::abs(rounded * number(v, j * width + d));
      }
      // a weight next to the middle between two 16-bit numbers may be rounded the other way
      compare(got_output[r * width + d], expected, magnitude * 3000);
    }
  }
  CHECK(worst < 2e-6);
}

}  // namespace

TEST_CASE("CUDA tile: the swizzle keeps every chunk in its row and ldmatrix free of bank conflicts") {
  check_layout<16>();
  check_layout<32>();
  check_layout<48>();
  check_layout<64>();
  check_layout<80>();
  check_layout<96>();
  check_layout<112>();
  check_layout<128>();
  check_layout<192>();
  check_layout<256>();
}

TEST_CASE("CUDA tile: products, maxima, weights") {
  for (const unsigned seed : {0u, 1u}) {
    rf::test::TestDevice device({.seed = seed});
    check_verbs<rf::bf16, 16, 1, 16, false>(device);
    check_verbs<rf::fp16, 32, 2, 32, true>(device);
    check_verbs<rf::fp16, 80, 1, 48, true>(device);
    check_verbs<rf::bf16, 96, 2, 16, false>(device);
    check_verbs<rf::bf16, 64, 2, 64, false>(device);
    check_verbs<rf::bf16, 128, 2, 16, true>(device);
  }
}
