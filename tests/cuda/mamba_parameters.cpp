#include "recurformer/cuda/mamba_parameters.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include "recurformer/cuda/device_array.hpp"
#include "support/test_device.hpp"

namespace {

using rf::Mamba;
using rf::ScanShape;
using rf::test::TestDevice;

// Sizes that need padding everywhere: 5 states, 2 values of δ.
using Head = rf::cuda::mamba::DimensionsOf<Mamba<ScanShape{.d_state = 5, .d_conv = 3, .dt_rank = 2}>, 16>;
using Layout = rf::cuda::mamba::ParameterLayout<Head>;
constexpr int heads = 2, d = 16, n = 5, taps = 3, rank = 2, rows = rank + 2 * n;

/// One declared parameter: element i of head h is 1000 · h + i, scaled.
std::vector<float> declared(int slice, float scale) {
  std::vector<float> out;
  for (int h = 0; h < heads; ++h)
    for (int i = 0; i < slice; ++i) out.push_back(scale * static_cast<float>(1000 * h + i));
  return out;
}

template <class Device>
std::vector<float> prepared(Device& device) {
  std::vector<rf::cuda::DeviceArray<float, Device>> arrays;
  std::vector<const float*> pointers;
  const int slices[] = {d * taps, d, rows * d, rows, d * rank, d, d * n, d};
  for (int i = 0; i < 8; ++i) {
    arrays.emplace_back(device, declared(slices[i], i == 6 ? 1e-3f : 1.0f));
    pointers.push_back(arrays.back().data());
  }
  const std::size_t bytes = rf::cuda::mamba::prepared_bytes<Head>(heads);
  const rf::cuda::DeviceArray<float, Device> out(device, bytes / sizeof(float));
  rf::cuda::mamba::prepare<Head>(device, rf::cuda::mamba::local_parameters<Head>(pointers), heads,
                                 out.data());
  return out.to_host();
}

/// Every element of `width` × d_head is element (channel, i) of the declared parameter.
void check_transposed(const float* out, int width, int head) {
  for (int i = 0; i < width; ++i)
    for (int c = 0; c < d; ++c) CHECK(out[i * d + c] == static_cast<float>(1000 * head + c * width + i));
}

template <class Device>
void check_prepared(Device& device) {
  const std::vector<float> all = prepared(device);
  REQUIRE(all.size() == std::size_t{heads * Layout::size});
  for (int h = 0; h < heads; ++h) {
    const float* const out = all.data() + h * Layout::size;
    check_transposed(out + Layout::conv_weight, taps, h);
    check_transposed(out + Layout::conv_bias, 1, h);
    check_transposed(out + Layout::dt_weight, rank, h);
    check_transposed(out + Layout::dt_bias, 1, h);
    check_transposed(out + Layout::skip, 1, h);
    // C: columns 0 to 4 are rows 7 to 11; B: columns 8 to 12 are rows 2 to 6; δ: columns 16, 17 are rows 0, 1
    for (int column = 0; column < Head::columns; ++column) {
      const int row = column < 5                   ? 7 + column
                      : 8 <= column && column < 13 ? column - 6
                      : column == 16               ? 0
                      : column == 17               ? 1
                                                   : -1;
      const auto base = static_cast<float>(1000 * h);
      CHECK(out[Layout::x_proj_bias + column] == (row < 0 ? 0.0f : base + static_cast<float>(row)));
      for (int c = 0; c < d; ++c)
        CHECK(out[Layout::x_proj + c * Head::columns + column] ==
              (row < 0 ? 0.0f : base + static_cast<float>(row * d + c)));
    }
    for (int state = 0; state < Head::padded_states; ++state)
      for (int c = 0; c < d; ++c) {
        const double rate =
            state < n ? -std::exp(1e-3 * (1000 * h + c * n + state)) * 1.4426950408889634 : 0.0;
        CHECK(std::abs(static_cast<double>(out[Layout::decay + state * d + c]) - rate) <=
              1e-6 * std::abs(rate));
      }
  }
}

TEST_CASE("Mamba on CUDA: prepared parameters, with padding") {
  static_assert(Head::columns == 20 && Head::padded_states == 8);
  for (const unsigned seed : {0u, 1u}) {
    TestDevice device({.seed = seed});
    check_prepared(device);
  }
}

TEST_CASE("Mamba on CUDA: a wrong number of parameters is refused") {
  const std::vector<const float*> seven(7, nullptr);
  CHECK_THROWS_WITH_AS(rf::cuda::mamba::local_parameters<Head>(seven), "Mamba has 8 local parameters, got 7",
                       rf::ArgumentError);
}

}  // namespace
