#include "recurformer/cpu/packed_matrix.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "recurformer/core/random.hpp"

namespace {

using rf::cpu::Accumulate;
using rf::cpu::PackedMatrix;

constexpr float canary = 1234.5f;
constexpr float poison = std::numeric_limits<float>::quiet_NaN();

template <class T>
std::vector<T> normals(std::int64_t count, std::uint64_t stream) {
  auto random = rf::Random::stream(21, stream);
  std::vector<T> out(static_cast<std::size_t>(count));
  for (T& value : out) value = T(static_cast<float>(random.normal()));
  return out;
}

/// One linear map with its operands; rows of x and y are longer than needed.
template <class T>
struct Case {
  std::int64_t rows, outputs, inputs;
  std::int64_t x_stride = inputs + 3, y_stride = outputs + 2;
  std::vector<float> x = normals<float>(rows * x_stride, 1);
  std::vector<T> w = normals<T>(outputs * inputs, 2);
  std::vector<float> bias = normals<float>(outputs, 3);
  std::vector<float> y = std::vector<float>(static_cast<std::size_t>((rows + 1) * y_stride), canary);

  PackedMatrix<T> pack() const { return {outputs, inputs, rf::cpu::row_major(w.data(), inputs)}; }
  void fill(float value) {
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t o = 0; o < outputs; ++o) y[static_cast<std::size_t>(r * y_stride + o)] = value;
  }
  /// Largest error in units of the sum of the absolute products; infinity for a dead canary or a NaN.
  double worst_error(double start, bool with_bias) const {
    double worst = 0;
    for (std::size_t i = 0; i < y.size(); ++i) {
      const auto r = static_cast<std::int64_t>(i) / y_stride, o = static_cast<std::int64_t>(i) % y_stride;
      if (r >= rows || o >= outputs) {
        if (y[i] != canary) return std::numeric_limits<double>::infinity();
        continue;
      }
      double sum = start + (with_bias ? double(bias[static_cast<std::size_t>(o)]) : 0.0);
      double scale = std::fabs(sum) + 1e-30;
      for (std::int64_t k = 0; k < inputs; ++k) {
        const double product = double(x[static_cast<std::size_t>(r * x_stride + k)]) *
                               double(float(w[static_cast<std::size_t>(o * inputs + k)]));
        sum += product;
        scale += std::fabs(product);
      }
      const double error = std::fabs(sum - double(y[i])) / scale;
      if (std::isnan(error)) return std::numeric_limits<double>::infinity();
      worst = std::max(worst, error);
    }
    return worst;
  }
};

template <class T>
void compare(std::int64_t rows, std::int64_t outputs, std::int64_t inputs) {
  CAPTURE(rows);
  CAPTURE(outputs);
  CAPTURE(inputs);
  Case<T> c{rows, outputs, inputs};
  const auto packed = c.pack();
  c.fill(poison);
  packed.multiply(c.x.data(), c.x_stride, rows, c.y.data(), c.y_stride);
  CHECK(c.worst_error(0, false) < 1e-6);
  c.fill(poison);
  packed.multiply(c.x.data(), c.x_stride, rows, c.y.data(), c.y_stride, Accumulate::no, c.bias.data());
  CHECK(c.worst_error(0, true) < 1e-6);
  c.fill(2.0f);
  packed.multiply(c.x.data(), c.x_stride, rows, c.y.data(), c.y_stride, Accumulate::yes);
  CHECK(c.worst_error(2, false) < 1e-6);
}

TEST_CASE_TEMPLATE("packed matrix: few and many rows", T, float, rf::bf16, rf::fp16) {
  for (const std::int64_t rows : {1, 2, 3, 5, 8, 9, 16, 17, 40}) {
    compare<T>(rows, 1, 1);
    compare<T>(rows, 50, 33);
    compare<T>(rows, 97, 256);
    compare<T>(rows, 144, 530);
  }
}

TEST_CASE_TEMPLATE("packed matrix: a row's bits do not depend on the rows beside it, nor on threads", T,
                   float, rf::bf16) {
  const int threads = rf::default_pool().threads();
  Case<T> c{41, 200, 600};
  const auto packed = c.pack();
  packed.multiply(c.x.data(), c.x_stride, c.rows, c.y.data(), c.y_stride, Accumulate::no, c.bias.data());
  for (const int count : {1, 3}) {
    rf::set_threads(count);
    for (const std::int64_t rows : {1, 2, 7, 8, 11, 16, 20}) {
      CAPTURE(rows);
      bool same = true;
      for (std::int64_t first = 0; first + rows <= c.rows; first += rows) {
        std::vector<float> y(static_cast<std::size_t>(rows * c.outputs), poison);
        packed.multiply(c.x.data() + first * c.x_stride, c.x_stride, rows, y.data(), c.outputs,
                        Accumulate::no, c.bias.data());
        for (std::int64_t r = 0; r < rows; ++r)
          same = same && std::memcmp(y.data() + r * c.outputs, c.y.data() + (first + r) * c.y_stride,
                                     static_cast<std::size_t>(c.outputs) * sizeof(float)) == 0;
      }
      CHECK(same);
    }
  }
  rf::set_threads(threads);
  std::vector<float> unpacked(static_cast<std::size_t>(c.rows * c.y_stride), canary), plain = unpacked;
  rf::cpu::gemm({c.rows, c.outputs, c.inputs}, rf::cpu::row_major(c.x.data(), c.x_stride),
                rf::cpu::row_major(c.w.data(), c.inputs).transposed(), unpacked.data(), c.y_stride);
  packed.multiply(c.x.data(), c.x_stride, c.rows, plain.data(), c.y_stride);
  CHECK(std::memcmp(unpacked.data(), plain.data(), plain.size() * sizeof(float)) == 0);
}

TEST_CASE("packed matrix: transposed weights, moves, sizes of zero") {
  Case<float> c{3, 20, 30};
  std::vector<float> transposed(c.w.size());
  for (std::size_t o = 0; o < 20; ++o)
    for (std::size_t i = 0; i < 30; ++i) transposed[i * 20 + o] = c.w[o * 30 + i];
  PackedMatrix<float> packed;
  CHECK(packed.outputs() == 0);
  packed = PackedMatrix<float>(20, 30, rf::cpu::row_major(transposed.data(), 20).transposed());
  const PackedMatrix<float> moved = std::move(packed);
  CHECK(moved.outputs() == 20);
  CHECK(moved.inputs() == 30);
  CHECK(moved.bytes() >= 20 * 30 * sizeof(float));
  c.fill(poison);
  moved.multiply(c.x.data(), c.x_stride, 3, c.y.data(), c.y_stride);
  CHECK(c.worst_error(0, false) < 1e-6);
  c.fill(2.0f);
  moved.multiply(c.x.data(), c.x_stride, 0, c.y.data(), c.y_stride);
  CHECK(c.y[0] == 2.0f);
  const PackedMatrix<float> no_inputs(20, 0, {});
  no_inputs.multiply(c.x.data(), c.x_stride, 3, c.y.data(), c.y_stride, Accumulate::no, c.bias.data());
  for (std::size_t i = 0; i < 60; ++i) CHECK(c.y[i / 20 * 22 + i % 20] == c.bias[i % 20]);
  const PackedMatrix<float> no_outputs(0, 30, {});
  no_outputs.multiply(c.x.data(), c.x_stride, 3, nullptr, 0);
}

TEST_CASE("packed matrix: NaN in a row of x or of W reaches only its row or column of y") {
  Case<rf::bf16> c{20, 60, 40};
  c.x[static_cast<std::size_t>(3 * c.x_stride + 5)] = poison;
  c.w[7 * 40 + 9] = rf::bf16(poison);
  c.pack().multiply(c.x.data(), c.x_stride, c.rows, c.y.data(), c.y_stride);
  for (std::int64_t r = 0; r < c.rows; ++r)
    for (std::int64_t o = 0; o < c.outputs; ++o)
      CHECK(std::isfinite(c.y[static_cast<std::size_t>(r * c.y_stride + o)]) == (r != 3 && o != 7));
}

/// What integers make of W (outputs, inputs): its products with unit vectors.
std::vector<float> kept(const PackedMatrix<std::int8_t>& packed) {
  const std::int64_t outputs = packed.outputs(), inputs = packed.inputs();
  std::vector<float> units(static_cast<std::size_t>(inputs * inputs)),
      columns(static_cast<std::size_t>(inputs * outputs)), w(columns.size());
  for (std::int64_t k = 0; k < inputs; ++k) units[static_cast<std::size_t>(k * (inputs + 1))] = 1;
  packed.multiply(units.data(), inputs, inputs, columns.data(), outputs);
  for (std::int64_t o = 0; o < outputs; ++o)
    for (std::int64_t k = 0; k < inputs; ++k)
      w[static_cast<std::size_t>(o * inputs + k)] = columns[static_cast<std::size_t>(k * outputs + o)];
  return w;
}

TEST_CASE_TEMPLATE("packed matrix: integers are steps of their group's scale", T, float, rf::bf16, rf::fp16) {
  for (const auto& shape : {std::pair{1, 1}, {50, 33}, {97, 256}, {49, 530}}) {
    const int outputs = shape.first, inputs = shape.second;
    CAPTURE(inputs);
    Case<T> c{1, outputs, inputs};
    for (int k = 0; k < std::min(inputs, 64); ++k) c.w[static_cast<std::size_t>(k)] = T(0.0f);
    const PackedMatrix<std::int8_t> packed(outputs, inputs, rf::cpu::row_major(c.w.data(), inputs));
    const std::vector<float> w = kept(packed);
    double worst = 0;
    for (std::int64_t o = 0; o < outputs; ++o)
      for (std::int64_t first = 0; first < inputs; first += 64) {
        const auto at = static_cast<std::size_t>(o * inputs + first);
        const auto size = static_cast<std::size_t>(std::min<std::int64_t>(64, inputs - first));
        double largest = 0, error = 0;
        for (std::size_t i = at; i < at + size; ++i) {
          largest = std::max(largest, std::fabs(double(float(c.w[i]))));
          error = std::max(error, std::fabs(double(float(c.w[i])) - double(w[i])));
        }
        CHECK(error <= 0.5001 / 127 * largest);
        worst = std::max(worst, error);
      }
    CHECK((worst > 0) == (inputs > 1));
    const std::size_t padded =
        (static_cast<std::size_t>(outputs) + rf::simd::width - 1) / rf::simd::width * rf::simd::width;
    CHECK(packed.bytes() == padded * (static_cast<std::size_t>(inputs) +
                                      (static_cast<std::size_t>(inputs) + 63) / 64 * sizeof(float)));
  }
}

TEST_CASE(
    "packed matrix: integers give the products of the floats they stand for, and a row's bits are its own") {
  const int threads = rf::default_pool().threads();
  Case<float> c{41, 200, 600};
  const PackedMatrix<std::int8_t> packed(c.outputs, c.inputs, rf::cpu::row_major(c.w.data(), c.inputs));
  c.w = kept(packed);
  c.fill(2.0f);
  packed.multiply(c.x.data(), c.x_stride, c.rows, c.y.data(), c.y_stride, Accumulate::yes);
  CHECK(c.worst_error(2, false) < 1e-6);
  c.fill(poison);
  packed.multiply(c.x.data(), c.x_stride, c.rows, c.y.data(), c.y_stride, Accumulate::no, c.bias.data());
  CHECK(c.worst_error(0, true) < 1e-6);
  for (const int count : {1, 3}) {
    rf::set_threads(count);
    for (const std::int64_t rows : {1, 2, 7, 8, 11, 16, 17}) {
      CAPTURE(rows);
      std::vector<float> y(static_cast<std::size_t>(rows * c.outputs), poison);
      packed.multiply(c.x.data(), c.x_stride, rows, y.data(), c.outputs, Accumulate::no, c.bias.data());
      bool same = true;
      for (std::int64_t r = 0; r < rows; ++r)
        same = same && std::memcmp(y.data() + r * c.outputs, c.y.data() + r * c.y_stride,
                                   static_cast<std::size_t>(c.outputs) * sizeof(float)) == 0;
      CHECK(same);
    }
  }
  rf::set_threads(threads);

  // A view of the transposed matrix, and nothing to multiply.
  std::vector<float> transposed(c.w.size());
  for (std::size_t o = 0; o < 200; ++o)
    for (std::size_t i = 0; i < 600; ++i) transposed[i * 200 + o] = c.w[o * 600 + i];
  CHECK(kept({200, 600, rf::cpu::row_major(transposed.data(), 200).transposed()}) == kept(packed));
  const PackedMatrix<std::int8_t> no_inputs(20, 0, {});
  CHECK(no_inputs.bytes() == 0);
  no_inputs.multiply(c.x.data(), c.x_stride, 1, c.y.data(), c.y_stride, Accumulate::no, c.bias.data());
  for (std::size_t i = 0; i < 20; ++i) CHECK(c.y[i] == c.bias[i]);
}

TEST_CASE("packed matrix: NaN in W reaches only its output where it is packed as integers") {
  Case<float> c{20, 60, 140};
  c.w[7 * 140 + 9] = poison;
  c.w[11 * 140 + 139] = -std::numeric_limits<float>::infinity();
  const PackedMatrix<std::int8_t> packed(c.outputs, c.inputs, rf::cpu::row_major(c.w.data(), c.inputs));
  packed.multiply(c.x.data(), c.x_stride, c.rows, c.y.data(), c.y_stride);
  for (std::int64_t r = 0; r < c.rows; ++r)
    for (std::int64_t o = 0; o < c.outputs; ++o)
      CHECK(std::isfinite(c.y[static_cast<std::size_t>(r * c.y_stride + o)]) == (o != 7 && o != 11));
}

TEST_CASE("packed matrix: what cannot be meant is an error") {
  Case<float> c{2, 4, 4};
  const auto packed = c.pack();
  CHECK_THROWS_AS(packed.multiply(c.x.data(), 4, -1, c.y.data(), 4), rf::ArgumentError);
  CHECK_THROWS_AS(packed.multiply(c.x.data(), 4, 2, c.y.data(), 3), rf::ArgumentError);
  CHECK_THROWS_WITH_AS(
      packed.multiply(c.x.data(), 4, 2, c.y.data(), 4, Accumulate::yes, c.bias.data()),
      "PackedMatrix::multiply got a bias and Accumulate::yes; add the bias where y is first written",
      rf::ArgumentError);
}

}  // namespace
