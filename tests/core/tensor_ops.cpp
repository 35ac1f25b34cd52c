#include "recurformer/core/tensor_ops.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "../support/error_message.hpp"
#include "../support/fake_device.hpp"
#include "recurformer/core/random.hpp"

namespace {

using rf::bf16;
using rf::Dims;
using rf::dynamic;
using rf::Extents;
using rf::fp16;
using rf::Tensor;
using rf::TensorView;
using rf::test::FakeDevice;

constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

/// Elements 0, 1, 2, … in row-major order.
template <class T, class E>
Tensor<T, E> counting(const E& extents) {
  Tensor<T, E> out(extents);
  for (std::int64_t i = 0; i < out.size(); ++i) out.data()[i] = rf::convert<T>(i);
  return out;
}

template <class T, class E>
std::vector<double> values(const Tensor<T, E>& tensor) {
  std::vector<double> out;
  for (std::int64_t i = 0; i < tensor.size(); ++i) out.push_back(rf::convert<double>(tensor.data()[i]));
  return out;
}

/// A window of a larger NaN-filled buffer, in row-major order with gaps, and what has been written around it.
template <class T>
struct Guarded {
  Tensor<T, Dims<2>> buffer;
  TensorView<T, Dims<2>> window;

  Guarded(std::int64_t rows, std::int64_t columns) : buffer({rows + 2, columns + 3}) {
    rf::fill(buffer, not_a_number);
    window = buffer.view().slice(0, 1, rows + 1).slice(1, 1, columns + 1);
  }
  bool untouched_around() const {
    std::int64_t numbers = 0, inside = 0;
    for (const T x : buffer.view().span()) numbers += !std::isnan(rf::convert<float>(x));
    for (std::int64_t i = 0; i < window.extent(0); ++i)
      for (std::int64_t j = 0; j < window.extent(1); ++j)
        inside += !std::isnan(rf::convert<float>(window(i, j)));
    return numbers == inside;
  }
};

template <class Action>
std::string error(Action action) {
  return rf::test::message_of<rf::ArgumentError>([&] { (void)action(); });
}

}  // namespace

TEST_CASE("fill: every element of a tensor, or of a window and nothing else") {
  Tensor<bf16, Dims<3>> t({3, 1, 5});
  rf::fill(t, 1.5);
  CHECK(values(t) == std::vector<double>(15, 1.5));
  Guarded<float> guarded(3, 4);
  rf::fill(guarded.window, 2);
  CHECK(rf::sum(guarded.window) == 24);
  CHECK(guarded.untouched_around());
  rf::fill(guarded.window.transposed(), 3.0f);
  CHECK(rf::sum(guarded.window) == 36);
  CHECK(guarded.untouched_around());
  Tensor<float> none;
  rf::fill(none, 1);
  Tensor<std::int32_t, Extents<>> scalar;
  rf::fill(scalar, 7);
  CHECK(scalar() == 7);
  rf::fill(none.view(), bf16(2.0f));
}

TEST_CASE("copy: any strides to any strides, converting") {
  const auto a = counting<float>(Dims<2>(3, 4));
  Tensor<float, Dims<2>> transposed({4, 3});
  rf::copy(a.view().transposed(), transposed);
  CHECK(values(transposed) == std::vector<double>{0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11});
  Guarded<fp16> guarded(3, 4);
  rf::copy(a, guarded.window);
  CHECK(guarded.untouched_around());
  Tensor<double, Extents<3, 4>> back;
  rf::copy(guarded.window, back);
  CHECK(values(back) == values(a));
  Tensor<float, Extents<3, dynamic>> same({4});
  rf::copy(a, same);
  CHECK(values(same) == values(a));
  rf::copy(same, same);
  CHECK(values(same) == values(a));
  const auto b = counting<std::int64_t>(Dims<4>(2, 3, 2, 3));
  Tensor<std::int64_t, Dims<4>> c({3, 3, 2, 2});
  rf::copy(b.view().transposed(0, 3), c);
  CHECK(c(2, 1, 0, 1) == b(1, 1, 0, 2));
  CHECK(c(0, 2, 1, 1) == b(1, 2, 1, 0));
}

TEST_CASE("copy: the same type is copied bit by bit, NaN payloads too") {
  const auto payload = bf16::from_bits(0x7f81);  // a signalling NaN
  Tensor<bf16> a({3});
  rf::fill(a, 0.0f);
  a(1) = payload;
  Tensor<bf16> b({3});
  rf::copy(a, b);
  CHECK(b(1).bits == payload.bits);
}

TEST_CASE("copy: to and from another memory space") {
  const auto a = counting<float>(Dims<2>(3, 4));
  Tensor<float, Dims<2>, FakeDevice> device({3, 4});
  Tensor<float, Dims<2>> back({3, 4});
  const int to = FakeDevice::copies_to, from = FakeDevice::copies_from;
  rf::copy(a, device);
  rf::copy(device, back);
  CHECK(FakeDevice::copies_to == to + 1);
  CHECK(FakeDevice::copies_from == from + 1);
  CHECK(values(back) == values(a));
  rf::copy(device.view().sub(1), back.view().sub(0));
  CHECK(back(0, 3) == 7);
  CHECK(error([&] {
          rf::copy(device.view().transposed(), back.view().transposed());
          return 0;
        }) ==
        "copy: a view of shape (4, 3) to or from device memory is not contiguous; make it so on the host "
        "(rf::copy)");
}

TEST_CASE("cast: a new row-major tensor, each element rounded once") {
  Tensor<double, Dims<2>> a({2, 2});
  a(0, 1) = 1.0 + 0x1p-8 + 0x1p-40;  // rounds up to bf16, though the nearest float is the middle
  a(1, 0) = -3;
  a(1, 1) = std::numeric_limits<double>::quiet_NaN();
  const auto b = rf::cast<bf16>(a.view().transposed());
  static_assert(std::is_same_v<decltype(b), const Tensor<bf16, Dims<2>>>);
  CHECK(b(1, 0).bits == 0x3f81);
  CHECK(float(b(0, 1)) == -3);
  CHECK(std::isnan(float(b(1, 1))));
  rf::CountingMemory memory;
  const auto c = rf::cast<std::int8_t>(counting<float>(Extents<5>()), &memory);
  static_assert(std::is_same_v<decltype(c), const Tensor<std::int8_t, Extents<5>>>);
  CHECK(values(c) == std::vector<double>{0, 1, 2, 3, 4});
  CHECK(memory.live_bytes() == 5);
}

TEST_CASE("map and zip: functions see numbers, results are rounded to the output") {
  const auto a = counting<bf16>(Dims<2>(3, 4));
  Guarded<double> half(4, 3);
  rf::map(
      a.view().transposed(), [](float x) { return 0.5 * x; }, half.window);
  CHECK(half.window(3, 2) == 5.5);
  CHECK(half.window(1, 0) == 0.5);
  CHECK(half.untouched_around());

  Tensor<fp16, Dims<2>> product({3, 4});
  rf::zip(
      a, half.window.transposed(), [](float x, double y) { return x * y; }, product);
  CHECK(float(product(2, 3)) == 60.5f);
  CHECK(float(product(0, 1)) == 0.5f);
  rf::zip(
      product, a, [](float x, float y) { return x - y; }, product);  // in place
  CHECK(float(product(2, 3)) == 49.5f);

  Tensor<std::int32_t> integers({4});
  rf::map(
      counting<std::int32_t>(Dims<1>(4)), [](std::int32_t x) { return x * x; }, integers);
  CHECK(values(integers) == std::vector<double>{0, 1, 4, 9});
  Tensor<bool> odd({4});
  rf::map(
      integers, [](std::int32_t x) { return x % 2 == 1; }, odd);
  CHECK(values(odd) == std::vector<double>{0, 1, 0, 1});
}

TEST_CASE("map: visits elements in row-major order, contiguous or not") {
  const auto a = counting<std::int32_t>(Dims<3>(2, 3, 2));
  Tensor<std::int32_t, Dims<3>> out({2, 3, 2});
  std::vector<std::int32_t> seen;
  const auto note = [&](std::int32_t x) { return seen.emplace_back(x); };
  rf::map(a, note, out);
  CHECK(seen == std::vector<std::int32_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
  seen.clear();
  rf::map(a.view().transposed(0, 2), note, out.view().transposed(0, 2));
  CHECK(seen == std::vector<std::int32_t>{0, 6, 2, 8, 4, 10, 1, 7, 3, 9, 5, 11});
}

TEST_CASE("reduce, sum, max_abs") {
  const auto a = counting<float>(Dims<2>(2, 3));
  const auto digits = [](double number, float digit) { return 10 * number + digit; };
  CHECK(rf::reduce(a, 0.0, digits) == 12345);
  CHECK(rf::reduce(a.view().transposed(), 0.0, digits) == 31425);
  CHECK(rf::sum(a) == 15);
  static_assert(std::is_same_v<decltype(rf::sum(a)), double>);
  CHECK(rf::sum(Tensor<float>()) == 0);
  CHECK(rf::sum(counting<bf16>(Dims<1>(17))) == 136);

  Tensor<std::int64_t> large({2});
  rf::fill(large, (std::int64_t{1} << 53) + 1);
  CHECK(rf::sum(large) == (std::int64_t{1} << 54) + 2);  // integers stay exact
  Tensor<float> cancelling({3});
  cancelling(0) = 1e8f;
  cancelling(1) = 1;
  cancelling(2) = -1e8f;
  CHECK(rf::sum(cancelling) == 1);  // in double

  Tensor<fp16> b({3});
  b(0) = fp16(1.0f);
  b(1) = fp16(-4.0f);
  CHECK(rf::max_abs(b) == 4);
  b(2) = fp16(infinity);
  CHECK(rf::max_abs(b) == std::numeric_limits<double>::infinity());
  b(0) = fp16(not_a_number);
  CHECK(std::isnan(rf::max_abs(b)));
  CHECK(rf::max_abs(Tensor<double>()) == 0);
}

TEST_CASE("matmul: against a sum in double, for shapes on either side of a block") {
  rf::Random random(11);
  const auto normal = [&](auto) { return random.normal(); };
  const std::int64_t sizes[][3] = {{1, 1, 1},    {3, 5, 7}, {2, 1, 64}, {4, 9, 65},
                                   {1, 70, 129}, {5, 0, 3}, {0, 2, 3},  {2, 3, 0}};
  for (const auto& size : sizes) {
    const std::int64_t m = size[0], k = size[1], n = size[2];
    CAPTURE(m);
    CAPTURE(k);
    CAPTURE(n);
    Tensor<float, Dims<2>> a({m, k});
    Tensor<bf16, Dims<2>> b_transposed({n, k});
    rf::map(a, normal, a);
    rf::map(b_transposed, normal, b_transposed);
    const auto b = b_transposed.view().transposed();
    Guarded<float> out(m, n);
    rf::matmul(a, b, out.window);
    double worst = 0;
    for (std::int64_t i = 0; i < m; ++i)
      for (std::int64_t j = 0; j < n; ++j) {
        double expected = 0, magnitude = 1e-30;
        for (std::int64_t d = 0; d < k; ++d) {
          expected += double(a(i, d)) * double(float(b(d, j)));
          magnitude += std::abs(double(a(i, d)) * double(float(b(d, j))));
        }
        const double difference = std::abs(double(out.window(i, j)) - expected) / magnitude;
        worst = difference <= worst ? worst : difference;  // NaN stays
      }
    CHECK(worst < 5e-6);
    CHECK(out.untouched_around());
  }
}

TEST_CASE("matmul: integers are exact, double is double, outputs are rounded once") {
  const auto a = counting<std::int32_t>(Extents<2, 3>());
  const auto b = counting<std::int32_t>(Extents<3, 2>());
  Tensor<std::int64_t, Extents<2, 2>> c;
  rf::matmul(a, b, c);
  CHECK(values(c) == std::vector<double>{10, 13, 28, 40});
  Tensor<double, Dims<2>> row({1, 3}), column({3, 1}), out({1, 1});
  row(0, 0) = 1e16;
  row(0, 1) = 1;
  row(0, 2) = -1e16;
  rf::fill(column, 1);
  column(1, 0) = 4;
  rf::matmul(row, column, out);
  CHECK(out(0, 0) == 4);
  Tensor<bf16, Dims<2>> rounded({1, 1});
  row(0, 0) = 1.0 + 0x1p-8;
  row(0, 1) = 0x1p-42;
  row(0, 2) = 0;
  rf::matmul(row, column, rounded);
  CHECK(rounded(0, 0).bits == 0x3f81);
}

TEST_CASE("all_close") {
  Tensor<float> a({2});
  Tensor<double> b({2});
  a(0) = 1;
  b(0) = 1 + 1e-6;
  CHECK(rf::all_close(a, b));
  CHECK(!rf::all_close(a, b, {.relative = 1e-7}));
  CHECK(rf::all_close(a, b, {.relative = 0, .absolute = 2e-6}));
  b(1) = 1e-9;
  CHECK(rf::all_close(a, b));
  CHECK(!rf::all_close(a, b, {.absolute = 0}));
  a(1) = infinity;
  CHECK(!rf::all_close(a, b));
  b(1) = -std::numeric_limits<double>::infinity();
  CHECK(!rf::all_close(a, b));
  a(1) = -infinity;
  CHECK(rf::all_close(a, b));
  a(1) = not_a_number;
  b(1) = not_a_number;
  CHECK(!rf::all_close(a, b));
  CHECK(rf::all_close(Tensor<float>(), Tensor<float>()));
}

TEST_CASE("operations: shapes that differ are errors that name both") {
  Tensor<float, Dims<2>> a({2, 3}), b({3, 2});
  const std::string differ = ": shapes (2, 3) and (3, 2) differ; they must be equal";
  CHECK(error([&] {
          rf::copy(a, b);
          return 0;
        }) == "copy" + differ);
  CHECK(error([&] {
          rf::map(
              a, [](float x) { return x; }, b);
          return 0;
        }) == "map" + differ);
  const auto add = [](float x, float y) { return x + y; };
  CHECK(error([&] {
          rf::zip(a, b, add, a);
          return 0;
        }) == "zip" + differ);
  CHECK(error([&] {
          rf::zip(a, a, add, b);
          return 0;
        }) == "zip" + differ);
  CHECK(error([&] { return rf::all_close(a, b); }) == "all_close" + differ);
  CHECK(error([&] {
          rf::matmul(a, a, b);
          return 0;
        }) == "matmul: (2, 3) times (2, 3) into (3, 2); allowed: (m, k) times (k, n) into (m, n)");
  CHECK(error([&] {
          rf::matmul(a, b, b);
          return 0;
        }) == "matmul: (2, 3) times (3, 2) into (3, 2); allowed: (m, k) times (k, n) into (m, n)");
}

TEST_CASE("to_text: numbers in columns, brackets as NumPy sets them") {
  auto a = counting<float>(Dims<2>(2, 3));
  CHECK(rf::to_text(a) == "[[0 1 2]\n [3 4 5]]");
  a(1, 0) = -1.25f;
  CHECK(rf::to_text(a) == "[[    0     1     2]\n [-1.25     4     5]]");
  CHECK(rf::to_text(a.view().transposed()) == "[[    0 -1.25]\n [    1     4]\n [    2     5]]");
  CHECK(rf::to_text(a.view().sub(0)) == "[0 1 2]");
  CHECK(rf::to_text(a.view().sub(1).sub(0)) == "-1.25");
  CHECK(rf::to_text(counting<std::int8_t>(Extents<2, 1, 2>())) == "[[[0 1]]\n\n [[2 3]]]");
  CHECK(rf::to_text(Tensor<float>()) == "[]");
  CHECK(rf::to_text(Tensor<float, Dims<2>>({2, 0})) == "[[]\n []]");
  CHECK(rf::to_text(Tensor<bool>({2})) == "[0 0]");
}

TEST_CASE("to_text: digits, infinities, NaN") {
  Tensor<double> a({4});
  a(0) = 3.14159265;
  a(1) = 1e-20;
  a(2) = -std::numeric_limits<double>::infinity();
  a(3) = not_a_number;
  CHECK(rf::to_text(a) == "[3.14159   1e-20    -inf     nan]");
  CHECK(rf::to_text(a, {.significant_digits = 2}) == "[  3.1 1e-20  -inf   nan]");
  Tensor<bf16> b({1});
  rf::fill(b, 0.1f);
  CHECK(rf::to_text(b) == "[0.100098]");
}

TEST_CASE("to_text: long tensors show their edges") {
  CHECK(rf::to_text(counting<std::int32_t>(Dims<1>(1001))) == "[   0    1    2 ...  998  999 1000]");
  CHECK(rf::to_text(counting<std::int32_t>(Dims<1>(7)), {.threshold = 6}) == "[0 1 2 ... 4 5 6]");
  CHECK(rf::to_text(counting<std::int32_t>(Dims<1>(7)), {.threshold = 7}) == "[0 1 2 3 4 5 6]");
  CHECK(rf::to_text(counting<std::int32_t>(Dims<2>(3, 4)), {.edge = 1, .threshold = 0}) ==
        "[[ 0 ...  3]\n ...\n [ 8 ... 11]]");
  CHECK(rf::to_text(counting<std::int32_t>(Dims<1>(6)), {.edge = 3, .threshold = 0}) == "[0 1 2 3 4 5]");
}

TEST_CASE("to_text: options out of range are errors") {
  const Tensor<float> a({2});
  CHECK(error([&] { return rf::to_text(a, {.significant_digits = 0}); }) ==
        "to_text: significant_digits is 0; allowed: 1 to 20");
  CHECK_THROWS_AS((void)rf::to_text(a, {.significant_digits = 21}), rf::ArgumentError);
  CHECK(error([&] { return rf::to_text(a, {.edge = 0}); }) == "to_text: edge is 0; allowed: 1 or more");
}
