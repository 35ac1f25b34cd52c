#include "recurformer/cpu/rms_norm.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "recurformer/core/random.hpp"
#include "recurformer/reference/rms_norm.hpp"

namespace {

using rf::cpu::Accumulate;
constexpr float canary = 1234.5f;
constexpr float poison = std::numeric_limits<float>::quiet_NaN();
constexpr double epsilon = 1e-5;

std::vector<float> normals(std::int64_t count, std::uint64_t stream, double scale = 1) {
  auto random = rf::Random::stream(31, stream);
  std::vector<float> out(static_cast<std::size_t>(count));
  for (float& value : out) value = static_cast<float>(scale * random.normal());
  return out;
}
std::vector<double> widen(const std::vector<float>& x) { return {x.begin(), x.end()}; }
/// An output to be overwritten, with a canary behind it.
std::vector<float> output(std::int64_t count) {
  std::vector<float> out(static_cast<std::size_t>(count), poison);
  out.push_back(canary);
  return out;
}

/// Largest |got - want| over the largest |want|; infinity for NaN or a dead canary.
double error(const std::vector<float>& got, const std::vector<double>& want) {
  if (got.size() > want.size() && got.back() != canary) return std::numeric_limits<double>::infinity();
  double worst = 0, scale = 1e-30;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double difference = std::fabs(double(got[i]) - want[i]);
    worst = std::isnan(difference) ? std::numeric_limits<double>::infinity() : std::max(worst, difference);
    scale = std::max(scale, std::fabs(want[i]));
  }
  return worst / scale;
}

TEST_CASE("rms_norm: forward agrees with the reference") {
  for (const std::int64_t width : {1, 7, 16, 33, 128, 1000})
    for (const std::int64_t rows : {1, 3, 20})
      for (const double size : {1e-12, 1.0, 1e15}) {
        CAPTURE(width);
        CAPTURE(rows);
        CAPTURE(size);
        const auto x = normals(rows * width, 1, size), gain = normals(width, 2);
        auto y = output(rows * width), scale = output(rows);
        rf::cpu::rms_norm(x.data(), gain.data(), epsilon, rows, width, y.data(), scale.data());
        std::vector<double> want(x.size());
        rf::reference::rms_norm(widen(x), widen(gain), epsilon, want);
        CHECK(error(y, want) < 1e-6);
        CHECK(scale.back() == canary);
        std::vector<float> in_place = x;
        rf::cpu::rms_norm(in_place.data(), gain.data(), epsilon, rows, width, in_place.data());
        CHECK(std::memcmp(in_place.data(), y.data(), x.size() * sizeof(float)) == 0);
      }
}

TEST_CASE("rms_norm: the reference's gradients are those of its forward") {
  const std::size_t rows = 2, width = 5;
  auto x = widen(normals(rows * width, 1)), gain = widen(normals(width, 2));
  const auto dy = widen(normals(rows * width, 3));
  const auto loss = [&] {
    std::vector<double> y(x.size());
    rf::reference::rms_norm(x, gain, epsilon, y);
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * dy[i];
    return sum;
  };
  std::vector<double> dx(x.size(), 99.0), d_gain(width, 0.5);
  rf::reference::rms_norm_backward(x, gain, epsilon, dy, dx, d_gain);
  const auto slope = [&](double& parameter) {
    const double kept = parameter, step = 1e-5;
    parameter = kept + step;
    const double above = loss();
    parameter = kept - step;
    const double below = loss();
    parameter = kept;
    return (above - below) / (2 * step);
  };
  for (std::size_t i = 0; i < x.size(); ++i) CHECK(dx[i] == doctest::Approx(slope(x[i])).epsilon(1e-7));
  for (std::size_t i = 0; i < width; ++i)
    CHECK(d_gain[i] - 0.5 == doctest::Approx(slope(gain[i])).epsilon(1e-7));
}

TEST_CASE("rms_norm: backward agrees with the reference") {
  for (const std::int64_t width : {1, 7, 16, 33, 128})
    for (const std::int64_t rows : {1, 3, 20, 1100})
      for (const double size : {1e-12, 1.0, 1e15}) {
        CAPTURE(width);
        CAPTURE(rows);
        CAPTURE(size);
        const auto x = normals(rows * width, 1, size), gain = normals(width, 2),
                   dy = normals(rows * width, 3);
        std::vector<float> y(x.size()), scale(static_cast<std::size_t>(rows));
        rf::cpu::rms_norm(x.data(), gain.data(), epsilon, rows, width, y.data(), scale.data());
        auto dx = output(rows * width);
        std::vector<float> d_gain(static_cast<std::size_t>(width), 0.0f);
        d_gain.push_back(canary);
        rf::cpu::rms_norm_backward(x.data(), gain.data(), scale.data(), dy.data(), rows, width, dx.data(),
                                   Accumulate::no, d_gain.data());
        std::vector<double> want_x(x.size()), want_gain(gain.size(), 0.0);
        rf::reference::rms_norm_backward(widen(x), widen(gain), epsilon, widen(dy), want_x, want_gain);
        // With one element the gradient is a small difference of large numbers: s · dy · gain · epsilon · s².
        if (width > 1) CHECK(error(dx, want_x) < 2e-6);
        CHECK(dx.back() == canary);
        CHECK(error(d_gain, want_gain) < 3e-6);
      }
}

TEST_CASE("rms_norm: accumulation, in-place gradients, no rows") {
  const std::int64_t rows = 5, width = 40;
  const auto x = normals(rows * width, 1), gain = normals(width, 2), dy = normals(rows * width, 3);
  std::vector<float> y(x.size()), scale(5), dx(x.size(), poison), added(x.size(), 2.0f), in_place = dy;
  std::vector<float> once(40, 0.0f), twice(40, 0.0f);
  rf::cpu::rms_norm(x.data(), gain.data(), epsilon, rows, width, y.data(), scale.data());
  const auto backward = [&](const float* gradient, float* out, Accumulate accumulate,
                            std::vector<float>& d_gain) {
    rf::cpu::rms_norm_backward(x.data(), gain.data(), scale.data(), gradient, rows, width, out, accumulate,
                               d_gain.data());
  };
  backward(dy.data(), dx.data(), Accumulate::no, once);
  backward(dy.data(), added.data(), Accumulate::yes, twice);
  backward(in_place.data(), in_place.data(), Accumulate::no, twice);
  for (std::size_t i = 0; i < dx.size(); ++i) {
    CHECK(added[i] == doctest::Approx(dx[i] + 2.0f).epsilon(1e-6));
    CHECK(in_place[i] == dx[i]);
  }
  for (std::size_t i = 0; i < 40; ++i) CHECK(twice[i] == doctest::Approx(2 * once[i]).epsilon(1e-6));
  rf::cpu::rms_norm(nullptr, gain.data(), epsilon, 0, width, nullptr);
  rf::cpu::rms_norm_backward(nullptr, gain.data(), nullptr, nullptr, 0, width, nullptr, Accumulate::no,
                             nullptr);
  CHECK_THROWS_AS(rf::cpu::rms_norm(x.data(), gain.data(), epsilon, 1, 0, y.data()), rf::ArgumentError);
}

TEST_CASE("rms_norm: the bits do not depend on the number of threads") {
  const int threads = rf::default_pool().threads();
  const std::int64_t rows = 300, width = 70;
  const auto x = normals(rows * width, 1), gain = normals(width, 2), dy = normals(rows * width, 3);
  std::vector<std::vector<float>> gains;
  for (const int count : {1, 2, 5}) {
    rf::set_threads(count);
    std::vector<float> y(x.size()), scale(300), dx(x.size()), d_gain(70, 1.0f);
    rf::cpu::rms_norm(x.data(), gain.data(), epsilon, rows, width, y.data(), scale.data());
    rf::cpu::rms_norm_backward(x.data(), gain.data(), scale.data(), dy.data(), rows, width, dx.data(),
                               Accumulate::no, d_gain.data());
    gains.push_back(d_gain);
  }
  rf::set_threads(threads);
  CHECK(gains[0] == gains[1]);
  CHECK(gains[0] == gains[2]);
}

}  // namespace
