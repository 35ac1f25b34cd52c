#ifndef RECURFORMER_TESTS_CUDA_GEMM_HARNESS_HPP
#define RECURFORMER_TESTS_CUDA_GEMM_HARNESS_HPP

// Random inputs, guarded outputs and the criterion for tests of linear layers on a device.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "recurformer/core/dtype.hpp"
#include "recurformer/core/random.hpp"
#include "recurformer/cuda/device_array.hpp"
#include "support/test_device.hpp"

namespace rf::test {

/// Device memory between two canaries of 256 bytes; what is not given starts as 0xff, NaN in every type.
template <class T, class Device>
class GuardedArray {
 public:
  GuardedArray(Device& device, std::size_t count) : GuardedArray(device, poisoned(count)) {}
  GuardedArray(Device& device, const std::vector<T>& values)
      : count_(values.size()), array_(device, std::span<const T>(framed(values))) {}

  T* data() const { return array_.data() + pad; }
  std::vector<T> to_host() const {
    const std::vector<T> all = array_.to_host();
    std::vector<T> canary(pad);
    std::memset(static_cast<void*>(canary.data()), 0xff, pad * sizeof(T));
    CHECK(std::memcmp(all.data(), canary.data(), pad * sizeof(T)) == 0);
    CHECK(std::memcmp(all.data() + pad + count_, canary.data(), pad * sizeof(T)) == 0);
    return std::vector<T>(all.begin() + pad, all.end() - pad);
  }

 private:
  static constexpr std::ptrdiff_t pad = 256 / sizeof(T);
  static std::vector<T> poisoned(std::size_t count) {
    std::vector<T> out(count);
    if (count != 0) std::memset(static_cast<void*>(out.data()), 0xff, count * sizeof(T));
    return out;
  }
  static std::vector<T> framed(const std::vector<T>& values) {
    const std::vector<T> canary = poisoned(pad);
    std::vector<T> out = canary;
    out.insert(out.end(), values.begin(), values.end());
    out.insert(out.end(), canary.begin(), canary.end());
    return out;
  }

  std::size_t count_;
  cuda::DeviceArray<T, Device> array_;
};

/// `count` normal numbers times `scale`, as T.
template <class T>
std::vector<T> random_values(Random& random, std::size_t count, double scale = 1) {
  std::vector<T> out(count);
  for (T& value : out) value = convert<T>(static_cast<float>(scale * random.normal()));
  return out;
}

template <class T>
std::vector<double> to_double(const std::vector<T>& values) {
  std::vector<double> out(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) out[i] = static_cast<double>(static_cast<float>(values[i]));
  return out;
}

/// One unit in the last place of `value` in T.
template <class T>
double ulp_of(double value) {
  constexpr int digits = dtype_of<T> == DType::BF16 ? 8 : dtype_of<T> == DType::F16 ? 11 : 24;
  return value == 0 ? 0 : std::exp2(std::floor(std::log2(std::abs(value))) - (digits - 1));
}

/// The criterion for low precision: the error against `exact` is at most twice that of a plain implementation
/// in the same precision, and two units in the last place of the largest value, as RMS and as maximum.
template <class T>
void check_as_good(const std::vector<T>& ours, const std::vector<double>& plain,
                   const std::vector<double>& exact) {
  REQUIRE(ours.size() == exact.size());
  REQUIRE(plain.size() == exact.size());
  int nans = 0;
  double largest = 0, our_squares = 0, plain_squares = 0, our_most = 0, plain_most = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const double our_error = std::abs(static_cast<double>(static_cast<float>(ours[i])) - exact[i]);
    const double plain_error = std::abs(plain[i] - exact[i]);
    nans += our_error != our_error;
    largest = std::max(largest, std::abs(exact[i]));
    our_squares += our_error * our_error;
    plain_squares += plain_error * plain_error;
    our_most = std::max(our_most, our_error);
    plain_most = std::max(plain_most, plain_error);
  }
  const double count = std::max<double>(1, static_cast<double>(exact.size()));
  CHECK(nans == 0);
  CHECK(our_most <= 2 * plain_most + 2 * ulp_of<T>(largest));
  CHECK(std::sqrt(our_squares / count) <= 2 * std::sqrt(plain_squares / count) + 2 * ulp_of<T>(largest));
}

/// What a plain implementation in T keeps of a value.
template <class T>
double rounded(double value) {
  return static_cast<double>(static_cast<float>(convert<T>(value)));
}

/// y (rows, columns) = x (rows, inner) Wᵀ in double.
inline std::vector<double> product(const std::vector<double>& x, const std::vector<double>& w,
                                   std::size_t inner) {
  const std::size_t rows = x.size() / inner, columns = w.size() / inner;
  std::vector<double> y(rows * columns);
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < columns; ++c)
      for (std::size_t k = 0; k < inner; ++k) y[r * columns + c] += x[r * inner + k] * w[c * inner + k];
  return y;
}

/// rms_norm(x) of dense rows; with rounding, as a plain implementation stores it in T.
template <class T>
std::vector<double> normalised(const std::vector<double>& x, const std::vector<float>& gain, double epsilon,
                               bool rounding) {
  const std::size_t width = gain.size();
  std::vector<double> out(x.size());
  for (std::size_t first = 0; first < x.size(); first += width) {
    double squares = 0;
    for (std::size_t i = 0; i < width; ++i) squares += x[first + i] * x[first + i];
    const double scale = 1 / std::sqrt(squares / static_cast<double>(width) + epsilon);
    for (std::size_t i = 0; i < width; ++i) {
      const double value = x[first + i] * scale * static_cast<double>(gain[i]);
      out[first + i] = rounding ? rounded<T>(value) : value;
    }
  }
  return out;
}

/// Sums of squares of rows in `parts` parts: everything in the first, what a producer would spread.
inline std::vector<float> row_sums(const std::vector<double>& x, std::size_t width, std::size_t parts) {
  std::vector<float> out(x.size() / width * parts, 0.0f);
  for (std::size_t i = 0; i < x.size(); ++i)
    out[i / width * parts + i % width * parts / width] += static_cast<float>(x[i] * x[i]);
  return out;
}

}  // namespace rf::test

#endif  // RECURFORMER_TESTS_CUDA_GEMM_HARNESS_HPP
