#include "recurformer/cpu/swiglu.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "recurformer/core/random.hpp"
#include "recurformer/reference/swiglu.hpp"

namespace {

constexpr float canary = 1234.5f;
constexpr float poison = std::numeric_limits<float>::quiet_NaN();

std::vector<float> normals(std::size_t count, std::uint64_t stream) {
  auto random = rf::Random::stream(41, stream);
  std::vector<float> out(count);
  for (float& value : out) value = static_cast<float>(3 * random.normal());
  return out;
}
bool close(float got, double want, double scale) { return std::fabs(double(got) - want) <= 2e-6 * scale; }

TEST_CASE("swiglu: forward and backward agree with the reference, gate and up in one projection") {
  for (const std::size_t width : {1u, 5u, 16u, 37u, 9000u})
    for (const std::size_t rows : {1u, 3u}) {
      CAPTURE(width);
      CAPTURE(rows);
      const std::size_t stride = 2 * width + 1;
      const auto projected = normals(rows * stride, 1), d_act = normals(rows * width, 2);
      std::vector<float> act(rows * width + 1, poison), gradient(rows * stride, canary);
      act.back() = canary;
      const auto signed_stride = static_cast<std::int64_t>(stride);
      const auto signed_rows = static_cast<std::int64_t>(rows),
                 signed_width = static_cast<std::int64_t>(width);
      rf::cpu::swiglu(projected.data(), projected.data() + width, signed_stride, signed_rows, signed_width,
                      act.data());
      rf::cpu::swiglu_backward(projected.data(), projected.data() + width, signed_stride, d_act.data(),
                               signed_rows, signed_width, gradient.data(), gradient.data() + width);
      CHECK(act.back() == canary);
      bool forward = true, backward = true;
      for (std::size_t r = 0; r < rows; ++r) {
        CHECK(gradient[r * stride + 2 * width] == canary);
        for (std::size_t i = 0; i < width; ++i) {
          const double gate[] = {projected[r * stride + i]}, up[] = {projected[r * stride + width + i]};
          const double d[] = {d_act[r * width + i]};
          double want[1], d_gate[1], d_up[1];
          rf::reference::swiglu(gate, up, want);
          rf::reference::swiglu_backward(gate, up, d, d_gate, d_up);
          const double scale = (1 + std::fabs(gate[0])) * (1 + std::fabs(up[0]));
          forward = forward && close(act[r * width + i], want[0], scale);
          backward = backward && close(gradient[r * stride + i], d_gate[0], scale * std::fabs(d[0])) &&
                     close(gradient[r * stride + width + i], d_up[0], scale * std::fabs(d[0]));
        }
      }
      CHECK(forward);
      CHECK(backward);
    }
}

TEST_CASE("swiglu: the reference's gradients are those of its forward") {
  for (double gate : {-20.0, -1.3, 0.0, 0.4, 15.0}) {
    double up = 0.7;
    const double d_act[] = {1.9};
    double d_gate[1], d_up[1];
    rf::reference::swiglu_backward({&gate, 1}, {&up, 1}, d_act, d_gate, d_up);
    const auto slope = [&](double& parameter) {
      const double kept = parameter, step = 1e-5;
      double above[1], below[1];
      parameter = kept + step;
      rf::reference::swiglu({&gate, 1}, {&up, 1}, above);
      parameter = kept - step;
      rf::reference::swiglu({&gate, 1}, {&up, 1}, below);
      parameter = kept;
      return d_act[0] * (above[0] - below[0]) / (2 * step);
    };
    CHECK(d_gate[0] == doctest::Approx(slope(gate)).epsilon(1e-6));
    CHECK(d_up[0] == doctest::Approx(slope(up)).epsilon(1e-6));
  }
}

TEST_CASE("swiglu: huge gates, in place, no rows") {
  const std::vector<float> gate = {-1e30f, -100.0f, 0.0f, 100.0f, 1e30f}, up(5, 2.0f), ones(5, 1.0f);
  std::vector<float> act(5, poison), d_gate = gate, d_up = up;
  rf::cpu::swiglu(gate.data(), up.data(), 5, 1, 5, act.data());
  rf::cpu::swiglu_backward(d_gate.data(), d_up.data(), 5, ones.data(), 1, 5, d_gate.data(), d_up.data());
  const float expected[] = {0, 0, 0, 100, 1e30f}, slopes[] = {0, 0, 0.5f, 1, 1};
  for (std::size_t i = 0; i < 5; ++i) {
    CHECK(act[i] == doctest::Approx(2 * expected[i]));
    CHECK(d_up[i] == doctest::Approx(expected[i]));
    CHECK(d_gate[i] == doctest::Approx(2 * slopes[i]));
  }
  std::vector<float> in_place = gate;
  rf::cpu::swiglu(in_place.data(), up.data(), 5, 1, 5, in_place.data());
  CHECK(in_place == act);
  rf::cpu::swiglu(nullptr, nullptr, 5, 0, 5, nullptr);
  rf::cpu::swiglu_backward(nullptr, nullptr, 5, nullptr, 0, 5, nullptr, nullptr);
  CHECK_THROWS_AS(rf::cpu::swiglu(gate.data(), up.data(), 4, 1, 5, act.data()), rf::ArgumentError);
}

}  // namespace
