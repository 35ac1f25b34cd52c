#include "recurformer/cpu/gemm.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "recurformer/core/random.hpp"

namespace {

using rf::cpu::Accumulate;
using rf::cpu::GemmShape;
using rf::cpu::MatrixView;

constexpr float canary = 1234.5f;
constexpr float poison = std::numeric_limits<float>::quiet_NaN();

/// A matrix of random numbers behind any strides; elements between its own are NaN.
template <class T>
struct Matrix {
  std::vector<T> storage;
  MatrixView<T> view;

  Matrix(std::int64_t rows, std::int64_t columns, std::int64_t row_stride, std::int64_t column_stride,
         std::uint64_t seed)
      : storage(static_cast<std::size_t>(rows * row_stride + columns * column_stride + 1), T(poison)),
        view{storage.data(), row_stride, column_stride} {
    auto random = rf::Random::stream(11, seed);
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < columns; ++j)
        storage[static_cast<std::size_t>(i * row_stride + j * column_stride)] =
            T(static_cast<float>(random.normal()));
  }
  double at(std::int64_t i, std::int64_t j) const {
    return double(float(view.data[i * view.row_stride + j * view.column_stride]));
  }
};

/// C with a border of canaries: two elements right of every row and two rows below.
struct Output {
  std::int64_t rows, columns, stride;
  std::vector<float> storage;

  Output(std::int64_t m, std::int64_t n, float fill)
      : rows(m), columns(n), stride(n + 2), storage(static_cast<std::size_t>((m + 2) * (n + 2)), canary) {
    for (std::int64_t i = 0; i < m; ++i)
      for (std::int64_t j = 0; j < n; ++j) at(i, j) = fill;
  }
  float& at(std::int64_t i, std::int64_t j) { return storage[static_cast<std::size_t>(i * stride + j)]; }
  bool canaries_alive() {
    for (std::int64_t i = 0; i < rows + 2; ++i)
      for (std::int64_t j = 0; j < stride; ++j)
        if ((i >= rows || j >= columns) && at(i, j) != canary) return false;
    return true;
  }
};

enum class Layout { row_major, transposed, scattered };

template <class T>
Matrix<T> make(std::int64_t rows, std::int64_t columns, Layout layout, std::uint64_t seed) {
  if (layout == Layout::row_major) return {rows, columns, columns + 3, 1, seed};
  if (layout == Layout::transposed) return {rows, columns, 1, rows + 1, seed};
  return {rows, columns, 2 * columns + 1, 2, seed};
}

/// Largest error in units of the sum of the absolute products, which is what rounding scales with.
template <class TA, class TB>
double worst_error(GemmShape shape, const Matrix<TA>& a, const Matrix<TB>& b, Output& c, double start) {
  double worst = 0;
  for (std::int64_t i = 0; i < shape.rows; ++i)
    for (std::int64_t j = 0; j < shape.columns; ++j) {
      double sum = start, scale = std::fabs(start) + 1e-30;
      for (std::int64_t k = 0; k < shape.depth; ++k) {
        sum += a.at(i, k) * b.at(k, j);
        scale += std::fabs(a.at(i, k) * b.at(k, j));
      }
      const double error = std::fabs(sum - double(c.at(i, j))) / scale;
      worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : std::max(worst, error);
    }
  return worst;
}

template <class TA, class TB>
void compare(GemmShape shape, Layout layout_a, Layout layout_b) {
  CAPTURE(shape.rows);
  CAPTURE(shape.columns);
  CAPTURE(shape.depth);
  CAPTURE(static_cast<int>(layout_a));
  CAPTURE(static_cast<int>(layout_b));
  const auto a = make<TA>(shape.rows, shape.depth, layout_a, 1);
  const auto b = make<TB>(shape.depth, shape.columns, layout_b, 2);
  Output c(shape.rows, shape.columns, poison);
  rf::cpu::gemm(shape, a.view, b.view, c.storage.data(), c.stride);
  CHECK(worst_error(shape, a, b, c, 0) < 1e-6);
  CHECK(c.canaries_alive());
  Output added(shape.rows, shape.columns, 3.0f);
  rf::cpu::gemm(shape, a.view, b.view, added.storage.data(), added.stride, Accumulate::yes);
  CHECK(worst_error(shape, a, b, added, 3.0) < 1e-6);
  CHECK(added.canaries_alive());
}

const GemmShape hard_shapes[] = {{1, 1, 1},    {1, 49, 3},    {7, 1, 256},   {8, 48, 16},   {9, 47, 17},
                                 {5, 97, 255}, {33, 50, 257}, {50, 20, 600}, {200, 64, 31}, {13, 400, 40}};

TEST_CASE("gemm: float, every operand read along and across its rows") {
  for (const auto& shape : hard_shapes)
    for (const auto layout_a : {Layout::row_major, Layout::transposed, Layout::scattered})
      for (const auto layout_b : {Layout::row_major, Layout::transposed, Layout::scattered})
        compare<float, float>(shape, layout_a, layout_b);
}

TEST_CASE("gemm: bf16 and fp16 operands are widened exactly") {
  for (const auto& shape : hard_shapes)
    for (const auto layout : {Layout::row_major, Layout::transposed}) {
      compare<float, rf::bf16>(shape, Layout::row_major, layout);
      compare<rf::bf16, rf::fp16>(shape, layout, Layout::transposed);
    }
}

TEST_CASE("gemm: sizes of zero") {
  const Matrix<float> a(4, 4, 4, 1, 1);
  for (const GemmShape shape : {GemmShape{0, 4, 4}, GemmShape{4, 0, 4}, GemmShape{0, 0, 0}}) {
    Output c(4, 4, 7.0f);
    rf::cpu::gemm(shape, a.view, a.view, c.storage.data(), c.stride);
    for (std::int64_t i = 0; i < 16; ++i) CHECK(c.at(i / 4, i % 4) == 7.0f);
  }
  Output cleared(4, 4, poison), kept(4, 4, 7.0f);
  rf::cpu::gemm<float, float>({4, 4, 0}, {}, {}, cleared.storage.data(), cleared.stride);
  rf::cpu::gemm<float, float>({4, 4, 0}, {}, {}, kept.storage.data(), kept.stride, Accumulate::yes);
  for (std::int64_t i = 0; i < 16; ++i) {
    CHECK(cleared.at(i / 4, i % 4) == 0.0f);
    CHECK(kept.at(i / 4, i % 4) == 7.0f);
  }
  CHECK(cleared.canaries_alive());
}

TEST_CASE("gemm: huge, tiny and NaN values stay in their rows and columns") {
  Matrix<float> a(20, 40, 40, 1, 1), b(40, 60, 60, 1, 2);
  a.storage[3 * 40 + 5] = poison;
  b.storage[7 * 60 + 9] = std::numeric_limits<float>::infinity();
  for (int k = 0; k < 40; ++k) a.storage[static_cast<std::size_t>(4 * 40 + k)] *= 1e-30f;
  for (int k = 0; k < 40; ++k) b.storage[static_cast<std::size_t>(k * 60 + 11)] *= 1e30f;
  Output c(20, 60, poison);
  rf::cpu::gemm({20, 60, 40}, a.view, b.view, c.storage.data(), c.stride);
  for (std::int64_t i = 0; i < 20; ++i)
    for (std::int64_t j = 0; j < 60; ++j) CHECK(std::isfinite(c.at(i, j)) == (i != 3 && j != 9));
  double sum = 0;
  for (int k = 0; k < 40; ++k) sum += a.at(4, k) * b.at(k, 11);
  CHECK(std::fabs(sum - double(c.at(4, 11))) < 1e-5);
}

TEST_CASE("gemm: the bits depend neither on the number of threads nor on the number of rows") {
  const int threads = rf::default_pool().threads();
  const GemmShape shape{150, 200, 700};
  const auto x = make<float>(shape.rows, shape.depth, Layout::row_major, 3);
  const auto across = make<float>(shape.rows, shape.depth, Layout::transposed, 3);
  const auto w = make<rf::bf16>(shape.depth, shape.columns, Layout::transposed, 4);
  Output once(shape.rows, shape.columns, poison);
  rf::set_threads(1);
  rf::cpu::gemm(shape, x.view, w.view, once.storage.data(), once.stride);
  for (const int count : {2, 3, 7}) {
    rf::set_threads(count);
    Output c(shape.rows, shape.columns, poison), d(shape.rows, shape.columns, poison);
    rf::cpu::gemm(shape, x.view, w.view, c.storage.data(), c.stride);
    rf::cpu::gemm(shape, across.view, w.view, d.storage.data(), d.stride);
    CHECK(std::memcmp(once.storage.data(), c.storage.data(), once.storage.size() * 4) == 0);
    CHECK(std::memcmp(once.storage.data(), d.storage.data(), once.storage.size() * 4) == 0);
  }
  rf::set_threads(threads);
  for (const std::int64_t row : {0, 77, 149}) {
    Output c(1, shape.columns, poison);
    const MatrixView<float> one{x.view.data + row * x.view.row_stride, x.view.row_stride, 1};
    rf::cpu::gemm({1, shape.columns, shape.depth}, one, w.view, c.storage.data(), c.stride);
    CHECK(std::memcmp(&c.at(0, 0), &once.at(row, 0), static_cast<std::size_t>(shape.columns) * 4) == 0);
  }
}

template <class T>
void check_single_rows() {
  for (const GemmShape& shape : {GemmShape{3, 200, 700}, GemmShape{2, 5, 256}, GemmShape{2, 33, 15}}) {
    const auto x = make<float>(shape.rows, shape.depth, Layout::row_major, 3);
    const auto w = make<T>(shape.depth, shape.columns, Layout::transposed, 4);
    for (const Accumulate accumulate : {Accumulate::no, Accumulate::yes}) {
      Output all(shape.rows, shape.columns, 3.0f);
      rf::cpu::gemm(shape, x.view, w.view, all.storage.data(), all.stride, accumulate);
      for (std::int64_t row = 0; row < shape.rows; ++row) {
        Output c(1, shape.columns, 3.0f);
        const MatrixView<float> one{x.view.data + row * x.view.row_stride, x.view.row_stride, 1};
        rf::cpu::gemm({1, shape.columns, shape.depth}, one, w.view, c.storage.data(), c.stride, accumulate);
        CHECK(std::memcmp(&c.at(0, 0), &all.at(row, 0), static_cast<std::size_t>(shape.columns) * 4) == 0);
        CHECK(c.canaries_alive());
      }
    }
  }
}

TEST_CASE("gemm: a row alone has the bits that it has among others") {
  check_single_rows<float>();
  check_single_rows<rf::bf16>();
}

TEST_CASE("gemm: a large B goes through several chunks") {
  const GemmShape shape{200, 200, 30000};  // B is more than 16 MiB, C more than one block high
  const Matrix<float> a(shape.rows, shape.depth, shape.depth, 1, 5);
  std::vector<float> b(static_cast<std::size_t>(shape.depth * shape.columns));
  for (std::size_t i = 0; i < b.size(); ++i) b[i] = static_cast<float>(i % 200) - 100.0f;  // alike in all k
  Output c(shape.rows, shape.columns, poison);
  rf::cpu::gemm(shape, a.view, rf::cpu::row_major(b.data(), shape.columns), c.storage.data(), c.stride);
  for (std::int64_t i = 0; i < shape.rows; ++i) {
    double row_sum = 0, scale = 0, worst = 0;
    for (std::int64_t k = 0; k < shape.depth; ++k) row_sum += a.at(i, k), scale += std::fabs(a.at(i, k));
    for (std::int64_t j = 0; j < shape.columns; ++j) {
      const double error = std::fabs(row_sum * double(j - 100) - double(c.at(i, j)));
      worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : std::max(worst, error);
    }
    CHECK(worst < 1e-6 * scale * 100);
  }
  CHECK(c.canaries_alive());
}

TEST_CASE("gemm: shapes that cannot be meant are errors") {
  float c[4] = {};
  CHECK_THROWS_AS((rf::cpu::gemm<float, float>({-1, 1, 1}, {}, {}, c, 1)), rf::ArgumentError);
  CHECK_THROWS_WITH_AS((rf::cpu::gemm<float, float>({1, 3, 0}, {}, {}, c, 2)),
                       "gemm writes rows of 3 elements into C, whose rows are 2 apart; they would overlap",
                       rf::ArgumentError);
}

}  // namespace
