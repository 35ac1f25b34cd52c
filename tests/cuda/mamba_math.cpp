#include "recurformer/cuda/mamba_math.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "recurformer/cuda/device_array.hpp"
#include "support/test_device.hpp"

namespace {

using rf::test::TestDevice;

struct FunctionsKernel {
  struct Parameters {
    const float* x;
    float* softplus;
    float* sigmoid;
    int count;
  };
  static constexpr int threads = 64;
  static constexpr int blocks_per_multiprocessor = 1;
  RECURFORMER_DEVICE static void run(const Parameters& p) {
    for (int i = rf::arch::thread_index(); i < p.count; i += threads) {
      p.softplus[i] = rf::cuda::mamba::softplus(p.x[i]);
      p.sigmoid[i] = rf::cuda::mamba::sigmoid(p.x[i]);
    }
  }
};

template <class Device>
void check_functions(Device& device) {
  std::vector<float> x = {-1e30f, -200.0f, 200.0f, 1e30f, 0.0f};
  for (int i = -3000; i <= 3000; ++i) x.push_back(static_cast<float>(i) * 0.0271f);
  const rf::cuda::DeviceArray<float, Device> in(device, x), softplus(device, x.size()),
      sigmoid(device, x.size());
  device.template launch<FunctionsKernel>({}, {.x = in.data(),
                                               .softplus = softplus.data(),
                                               .sigmoid = sigmoid.data(),
                                               .count = static_cast<int>(x.size())});
  const std::vector<float> y = softplus.to_host(), s = sigmoid.to_host();
  double worst = 0, worst_sigmoid = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto exact = static_cast<double>(x[i]);
    // e^x in float costs 2^-24 of |x|; results below 2^-126 are 0
    const double tolerance = 5e-7 + std::abs(exact) * 1.2e-7;
    const auto error = [&](float got, double expected) {
      return expected < 1.2e-38 ? std::abs(static_cast<double>(got) - expected)
                                : std::abs(static_cast<double>(got) / expected - 1) / tolerance;
    };
    worst = std::max(worst, error(y[i], rf::softplus(exact)));
    worst_sigmoid = std::max(worst_sigmoid, error(s[i], rf::sigmoid(exact)));
  }
  CHECK(worst <= 1);
  CHECK(worst_sigmoid <= 1);
}

TEST_CASE("Mamba on CUDA: softplus and sigmoid keep their relative accuracy everywhere") {
  TestDevice device;
  check_functions(device);
}

template <int Lanes, int Count>
struct SumKernel {
  struct Parameters {
    float* out;  ///< (32, Count)
  };
  static constexpr int threads = 32;
  static constexpr int blocks_per_multiprocessor = 1;
  RECURFORMER_DEVICE static void run(const Parameters& p) {
    const int lane = rf::arch::thread_index();
    float value[Count];
    for (int i = 0; i < Count; ++i) value[i] = static_cast<float>(lane * lane + 1000 * i);
    rf::cuda::mamba::sum_over_lanes<Lanes>(value, lane % Lanes);
    for (int i = 0; i < Count; ++i) p.out[lane * Count + i] = value[i];
  }
};

template <int Lanes, int Count, class Device>
void check_sum(Device& device) {
  const rf::cuda::DeviceArray<float, Device> out(device, 32 * Count);
  device.template launch<SumKernel<Lanes, Count>>({}, {.out = out.data()});
  const std::vector<float> got = out.to_host();
  constexpr int kept = Count > Lanes ? Count / Lanes : 1;
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < kept; ++i) {
      float sum = 0;
      const int set = lane / Lanes * Lanes, value = lane % Lanes * Count / Lanes + i;
      for (int l = set; l < set + Lanes; ++l) sum += static_cast<float>(l * l + 1000 * value);
      CHECK(got[static_cast<std::size_t>(lane * Count + i)] == sum);
    }
}

TEST_CASE("Mamba on CUDA: sums over lanes") {
  for (const unsigned seed : {0u, 1u, 2u}) {
    TestDevice device({.seed = seed});
    check_sum<1, 1>(device);
    check_sum<1, 4>(device);
    check_sum<2, 2>(device);
    check_sum<2, 4>(device);
    check_sum<4, 1>(device);
    check_sum<4, 4>(device);
    check_sum<8, 1>(device);
    check_sum<8, 4>(device);
    check_sum<8, 8>(device);
  }
}

}  // namespace
