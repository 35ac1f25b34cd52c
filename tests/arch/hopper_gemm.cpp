// A GEMM of TMA, mbarriers, wgmma and setmaxnreg, right by every schedule, and what becomes of mistakes in
// it.
#include "arch/hopper_gemm.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "recurformer/cuda/device_array.hpp"
#include "support/error_message.hpp"
#include "support/test_device.hpp"

namespace {

using namespace rf;
using arch::CopyTiming;
using arch::Major;
using test::contains;
using test::HopperGemm;
using test::Mistake;
using test::TestDevice;

/// Largest difference from fp64, in ulps of T at the largest |reference|; canaries around C are checked.
template <class T, int N, Major MajorB, Mistake mistake = Mistake::none, class Device>
double gemm_error(Device& device, int m, int n, int k, float scale = 1) {
  const auto padded = [](int x) { return (x + 7) / 8 * 8; };
  const int a_stride = padded(k) + 8, b_rows = MajorB == Major::k ? n : k, c_stride = padded(n) + 8;
  const int b_columns = MajorB == Major::k ? k : n, b_stride = padded(b_columns);
  std::mt19937 dice(3);
  std::normal_distribution<float> normal(0, scale);
  const auto size = [](int rows, int stride) { return static_cast<std::size_t>(rows * stride); };
  // what lies between the rows must not be read
  std::vector<T> a(size(m, a_stride), T(std::nanf(""))), b(size(b_rows, b_stride), T(std::nanf("")));
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < k; ++j) a[size(i, a_stride) + static_cast<std::size_t>(j)] = T(normal(dice));
  for (int i = 0; i < b_rows; ++i)
    for (int j = 0; j < b_columns; ++j) b[size(i, b_stride) + static_cast<std::size_t>(j)] = T(normal(dice));
  const cuda::DeviceArray<T, Device> da(device, a), db(device, b), dc(device, size(m + 2, c_stride));
  test::launch_hopper_gemm<HopperGemm<T, N, MajorB, mistake>, T, MajorB, N>(
      device, da.data(), db.data(), dc.data() + c_stride, m, n, k, a_stride, b_stride, c_stride);
  const std::vector<T> c = dc.to_host();
  double worst = 0, largest = 0;
  int overruns = 0;
  for (int i = -1; i <= m; ++i)
    for (int j = 0; j < c_stride; ++j) {
      const T got = c[size(i + 1, c_stride) + static_cast<std::size_t>(j)];
      if (i < 0 || i == m || j >= n) {
        overruns += got.bits != 0xffff;
        continue;
      }
      double sum = 0;
      for (int l = 0; l < k; ++l) {
        const std::size_t at = MajorB == Major::k ? size(j, b_stride) + static_cast<std::size_t>(l)
                                                  : size(l, b_stride) + static_cast<std::size_t>(j);
        sum += static_cast<double>(static_cast<float>(a[size(i, a_stride) + static_cast<std::size_t>(l)])) *
               static_cast<double>(static_cast<float>(b[at]));
      }
      const double error = std::fabs(sum - static_cast<double>(static_cast<float>(got)));
      if (!(error <= worst)) worst = error;
      largest = std::max(largest, std::fabs(sum));
    }
  CHECK(overruns == 0);
  const double ulp = largest * (dtype_of<T> == DType::BF16 ? 0x1p-7 : 0x1p-10);
  return worst / ulp;
}

TEST_CASE("a warp-specialised GEMM of TMA, mbarriers and wgmma, by every schedule") {
  if (test::lacks_hopper()) return;
  for (const CopyTiming copies : {CopyTiming::early, CopyTiming::late, CopyTiming::random})
    for (unsigned seed = 0; seed < (arch::simulator::sanitized ? 2 : 4); ++seed) {
      CAPTURE(static_cast<int>(copies));
      CAPTURE(seed);
      TestDevice device({.seed = seed, .copies = copies});
      CHECK(gemm_error<bf16, 64, Major::k>(device, 130, 72, 330) <= 1);
      CHECK(gemm_error<fp16, 128, Major::mn>(device, 64, 129, 257) <= 1);
    }
}

TEST_CASE("shapes of a GEMM that hurt") {
  if (test::lacks_hopper()) return;
  TestDevice device({.seed = 1});
  CHECK(gemm_error<bf16, 64, Major::k>(device, 1, 1, 1) <= 1);
  CHECK(gemm_error<bf16, 64, Major::mn>(device, 129, 8, 65) <= 1);
  CHECK(gemm_error<bf16, 192, Major::k>(device, 65, 193, 63) <= 1);
  CHECK(gemm_error<bf16, 64, Major::k>(device, 63, 65, 128, 1e15f) <= 1);
  CHECK(gemm_error<bf16, 64, Major::k>(device, 63, 65, 128, 1e-15f) <= 1);
}

#if !defined(__CUDACC__)  // only the simulator says what is wrong

using arch::SimulationError;

/// What becomes of a mistake under the schedules: an error, or a wrong result.
struct Outcome {
  std::string message = "no error";
  int runs = 0, errors = 0, wrong = 0;
};
template <Mistake mistake>
Outcome outcome() {
  Outcome out;
  for (const CopyTiming copies : {CopyTiming::early, CopyTiming::late, CopyTiming::random})
    for (const unsigned seed : {0u, 1u}) {
      ++out.runs;
      TestDevice device({.seed = seed, .copies = copies});
      double error = 0;
      const std::string message = test::message_of<SimulationError>(
          [&] { error = gemm_error<bf16, 64, Major::k, mistake>(device, 128, 64, 330); });
      if (message != "no error") {
        ++out.errors;
        if (out.message == "no error" || message < out.message) out.message = message;
      } else {
        out.wrong += !(error <= 1);
      }
    }
  return out;
}

TEST_CASE("mistakes in the GEMM are caught by every schedule") {
  const auto always = [](const Outcome& out, const char* part) {
    CAPTURE(out.message);
    CHECK(out.errors == out.runs);
    CHECK(contains(out.message, part));
  };
  always(outcome<Mistake::half_the_bytes>(), "expect the bytes of a copy");
  always(outcome<Mistake::twice_the_bytes>(), "expects 24576 bytes");
  always(outcome<Mistake::wrong_parity>(), "");
  always(outcome<Mistake::arrives_twice>(), "");
  always(outcome<Mistake::no_register_fence>(), "fence_multiplies");
  always(outcome<Mistake::unnamed_accumulators>(), "name their accumulators");
  always(outcome<Mistake::no_proxy_fence>(), "after the last fence");
}

TEST_CASE("accumulators are NaN until the wait") {
  const Outcome out = outcome<Mistake::no_multiply_wait>();
  CHECK(out.wrong == out.runs);
}

#ifndef RECURFORMER_SIMULATOR_TSAN  // which reports these races, and is right
TEST_CASE("mistakes in the GEMM that only some schedules bring to light") {
  const auto sometimes = [](const Outcome& out) { CHECK(out.errors + out.wrong > 0); };
  sometimes(outcome<Mistake::no_empty_wait>());
  sometimes(outcome<Mistake::no_full_wait>());
  sometimes(outcome<Mistake::early_release>());
  sometimes(outcome<Mistake::one_warp_releases>());
  sometimes(outcome<Mistake::no_store_wait>());
}
#endif

#endif

}  // namespace
