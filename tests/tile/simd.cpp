#include "recurformer/tile/simd.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>

namespace {

namespace simd = rf::simd;
using rf::bf16;
using rf::fp16;
using simd::Vec;
using simd::width;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

std::uint32_t bits_of(float x) { return std::bit_cast<std::uint32_t>(x); }

/// f of one number, computed in every lane; NaN if the lanes do not agree.
template <class F>
float in_all_lanes(F f, float x) {
  const Vec y = f(simd::broadcast(x));
  for (int i = 1; i < width; ++i)
    if (bits_of(y[i]) != bits_of(y[0])) return not_a_number;
  return y[0];
}

/// Largest relative error of f over about 500 000 floats of [low, high], spaced evenly in the exponent, of
/// both signs where the interval has them.
template <class F, class Exact>
double worst_error(float low, float high, F f, Exact exact) {
  const std::uint32_t step = 4001;  // a prime, so that all low bits occur
  const auto end = bits_of(std::max(std::abs(low), std::abs(high)));
  double worst = 0;
  float in[width], out[width];
  int filled = 0;
  const auto flush = [&] {
    std::fill(in + filled, in + width, low);
    simd::store(out, f(simd::load(in)));
    for (int i = 0; i < width; ++i) {
      const double expected = exact(double(in[i]));
      const double error = std::abs(double(out[i]) - expected) / std::abs(expected);
      worst = error <= worst ? worst : error;  // NaN becomes the worst and stays
    }
    filled = 0;
  };
  for (std::uint32_t u = bits_of(0x1p-126f); u <= end; u += step)
    for (const float x : {std::bit_cast<float>(u), -std::bit_cast<float>(u)}) {
      if (x < low || x > high) continue;
      in[filled++] = x;
      if (filled == width) flush();
    }
  flush();
  return worst;
}

double exact_sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double exact_softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }

/// Elements on the heap without a byte to spare, so that the address sanitizer sees any step outside.
template <class T>
std::unique_ptr<T[]> exactly(int n) {
  return std::make_unique<T[]>(static_cast<std::size_t>(n));
}

}  // namespace

TEST_CASE("simd: the width is that of the instruction set") {
  static_assert(width == 4 || width == 8 || width == 16);
  static_assert(sizeof(Vec) == width * sizeof(float));
  const Vec v = simd::iota() == simd::iota() ? simd::broadcast(3) : simd::zero();
  for (int i = 0; i < width; ++i) {
    CHECK(v[i] == 3);
    CHECK(simd::iota()[i] == i);
    CHECK(simd::zero()[i] == 0);
  }
}

TEST_CASE_TEMPLATE("simd: loads widen every 16-bit pattern as the scalar conversion does", T, bf16, fp16) {
  // A signalling NaN may become quiet on the way, as the instruction for fp16 makes it.
  const auto quiet = [](float x) { return std::isnan(x) ? bits_of(x) | 0x400000u : bits_of(x); };
  int wrong = 0;
  T in[width];
  for (unsigned first = 0; first < 0x10000u; first += width) {
    for (unsigned i = 0; i < width; ++i) in[i] = T::from_bits(static_cast<std::uint16_t>(first + i));
    const Vec v = simd::load(in);
    for (int i = 0; i < width; ++i) wrong += quiet(v[i]) != quiet(float(in[i]));
  }
  CHECK(wrong == 0);
}

TEST_CASE("simd: pairs of bf16 are taken apart in memory's order") {
  bf16 in[2 * width];
  int wrong = 0;
  for (unsigned first = 0; first < 0x10000u; first += 2 * width) {
    for (unsigned i = 0; i < 2 * width; ++i) in[i] = bf16::from_bits(static_cast<std::uint16_t>(first + i));
    Vec pairs;
    std::memcpy(&pairs, in, sizeof pairs);
    const Vec even = simd::first_of_pairs(pairs), odd = simd::second_of_pairs(pairs);
    for (int i = 0; i < width; ++i)
      wrong +=
          bits_of(even[i]) != bits_of(float(in[2 * i])) || bits_of(odd[i]) != bits_of(float(in[2 * i + 1]));
  }
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("simd: stores round as the scalar conversion does", T, bf16, fp16) {
  // All upper halves of a float with lower halves around the middles between narrower numbers: for bf16 bit
  // 15 decides, for fp16 bit 12, or for subnormal numbers a higher one.
  const std::uint32_t lower[] = {0x0000, 0x0001, 0x0fff, 0x1000, 0x1001, 0x1fff, 0x2000, 0x2fff,
                                 0x3000, 0x3001, 0x7fff, 0x8000, 0x8001, 0xefff, 0xf000, 0xffff};
  int wrong = 0;
  for (std::uint32_t upper = 0; upper < 0x10000u; upper += width)
    for (const std::uint32_t low : lower) {
      float in[width];
      T out[width];
      for (std::uint32_t i = 0; i < width; ++i) in[i] = std::bit_cast<float>((upper + i) << 16 | low);
      simd::store(out, simd::load(in));
      for (int i = 0; i < width; ++i) wrong += out[i].bits != T(in[i]).bits;
    }
  CHECK(wrong == 0);
}

TEST_CASE("simd: 8-bit integers are widened, and numbers rounded to the nearest of them") {
  int wrong = 0;
  std::int8_t in[width], out[width];
  for (int first = -128; first < 128; first += width) {
    for (int i = 0; i < width; ++i) in[i] = static_cast<std::int8_t>(first + i);
    const Vec v = simd::load(in);
    for (int i = 0; i < width; ++i) wrong += v[i] != float(first + i);
    for (const float part : {0.0f, 0.49f, -0.49f, 0.5f, -0.5f}) {
      const Vec inexact = simd::min(simd::max(v + part, simd::broadcast(-128)), simd::broadcast(127));
      simd::store(out, inexact);
      for (int i = 0; i < width; ++i) wrong += float(out[i]) != std::nearbyint(inexact[i]);
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("simd: loads and stores touch their elements only, at any address", T, float, bf16, fp16,
                   std::int8_t) {
  const T canary = rf::convert<T>(-77);
  for (int offset = 0; offset < 3; ++offset) {
    const int n = offset + width;
    const auto in = exactly<T>(n);
    const auto out = exactly<T>(n + 1);
    for (int i = 0; i < n; ++i) in[static_cast<std::size_t>(i)] = rf::convert<T>(i);
    std::fill(out.get(), out.get() + n + 1, canary);
    simd::store(out.get() + offset, simd::load(in.get() + offset));
    CHECK(std::all_of(out.get(), out.get() + offset, [&](T x) { return x == canary; }));
    CHECK(std::equal(in.get() + offset, in.get() + n, out.get() + offset));
    CHECK(out[static_cast<std::size_t>(n)] == canary);
  }
}

TEST_CASE_TEMPLATE("simd: partial loads fill the other lanes, partial stores leave the other elements", T,
                   float, bf16, fp16) {
  const T canary = rf::convert<T>(-77);
  for (int n = 0; n < width; ++n) {
    CAPTURE(n);
    const auto in = exactly<T>(n);
    for (int i = 0; i < n; ++i) in[static_cast<std::size_t>(i)] = rf::convert<T>(i + 1);
    const Vec v = simd::load_partial(in.get(), n, 0.5f);
    const Vec zeros = simd::load_partial(in.get(), n);
    bool right = true;
    for (int i = 0; i < width; ++i)
      right = right && v[i] == (i < n ? float(i + 1) : 0.5f) && zeros[i] == (i < n ? float(i + 1) : 0.0f);
    CHECK(right);

    const auto exact = exactly<T>(n);
    simd::store_partial(exact.get(), v, n);
    CHECK(std::equal(in.get(), in.get() + n, exact.get()));
    T out[width];
    std::fill(out, out + width, canary);
    simd::store_partial(out, simd::broadcast(1 + 0x1p-12f), n);  // rounds to 1 in 16 bits
    CHECK(std::all_of(out, out + n, [](T x) { return x == rf::convert<T>(1 + 0x1p-12f); }));
    CHECK(std::all_of(out + n, out + width, [&](T x) { return x == canary; }));
  }
}

TEST_CASE("simd: for_lanes hands out every index once, whole vectors first") {
  for (int count = 0; count <= 3 * width + 1; ++count) {
    CAPTURE(count);
    const auto in = exactly<float>(count);
    const auto out = exactly<float>(count);
    for (int i = 0; i < count; ++i) in[static_cast<std::size_t>(i)] = float(i + 1);
    int calls = 0, partial = 0;
    std::int64_t next = 0;
    simd::for_lanes(count, [&](std::int64_t i, auto n) {
      constexpr bool whole = std::is_same_v<decltype(n), std::integral_constant<int, width>>;
      CHECK(i == next);
      next += n;
      ++calls;
      partial += !whole;
      const Vec v = simd::load_n(in.get() + i, n, -1.0f);
      for (int lane = n; lane < width; ++lane) CHECK(v[lane] == -1.0f);
      simd::store_n(out.get() + i, v * 2.0f, n);
    });
    CHECK(next == count);
    CHECK(calls == (count + width - 1) / width);
    CHECK(partial == (count % width == 0 ? 0 : 1));
    bool doubled = true;
    for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i)
      doubled = doubled && out[i] == 2 * in[i];
    CHECK(doubled);
  }
}

TEST_CASE("simd: select, max, min, abs") {
  Vec a = simd::zero(), b = simd::zero();
  for (int i = 0; i < width; ++i) {
    a[i] = float(i) - 1.5f;
    b[i] = i % 2 == 0 ? 1.0f : -infinity;
  }
  const Vec chosen = simd::select(a > 0.0f, a, b), high = simd::max(a, b), low = simd::min(a, b);
  for (int i = 0; i < width; ++i) {
    CHECK(chosen[i] == (a[i] > 0 ? a[i] : b[i]));
    CHECK(high[i] == std::max(a[i], b[i]));
    CHECK(low[i] == std::min(a[i], b[i]));
    CHECK(simd::abs(a)[i] == std::abs(a[i]));
    CHECK(simd::abs(b)[i] == std::abs(b[i]));
  }
  CHECK(bits_of(in_all_lanes([](Vec x) { return simd::abs(x); }, -0.0f)) == 0);
  CHECK(in_all_lanes([](Vec x) { return simd::max(x, simd::broadcast(2)); }, not_a_number) == 2);
  CHECK(in_all_lanes([](Vec x) { return simd::min(x, simd::broadcast(2)); }, not_a_number) == 2);
  CHECK(std::isnan(in_all_lanes([](Vec x) { return simd::max(simd::broadcast(2), x); }, not_a_number)));
  CHECK(std::isnan(in_all_lanes([](Vec x) { return simd::min(simd::broadcast(2), x); }, not_a_number)));
}

TEST_CASE("simd: sums of lanes are pairwise, upper half to lower half") {
  float lanes[width];
  for (int i = 0; i < width; ++i) lanes[i] = 0.1f * float(i + 1) + (i % 3 == 0 ? 1e6f : 0.0f);
  const float sum = simd::reduce_add(simd::load(lanes));
  for (int half = width / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  CHECK(sum == lanes[0]);
}

TEST_CASE("simd: the largest lane, wherever it is") {
  for (int position = 0; position < width; ++position) {
    Vec v = simd::broadcast(-infinity);
    CHECK(simd::reduce_max(v) == -infinity);
    v[position] = -3;
    CHECK(simd::reduce_max(v) == -3);
    v[(position + 1) % width] = -4;
    CHECK(simd::reduce_max(v) == -3);
  }
}

TEST_CASE("simd: square roots are correctly rounded") {
  const auto sqrt = [](float x) { return in_all_lanes([](Vec v) { return simd::sqrt(v); }, x); };
  int wrong = 0;
  for (std::uint32_t u = 0; u < 0x7f800000u; u += 40009)
    wrong += sqrt(std::bit_cast<float>(u)) != std::sqrt(std::bit_cast<float>(u));
  CHECK(wrong == 0);
  CHECK(sqrt(infinity) == infinity);
  CHECK(bits_of(sqrt(-0.0f)) == 0x80000000u);
  CHECK(std::isnan(sqrt(-1)));
  CHECK(std::isnan(sqrt(not_a_number)));
}

TEST_CASE("simd: error bounds of the functions, as documented") {
  const auto exp2 = [](Vec x) { return simd::exp2(x); };
  const auto exp = [](Vec x) { return simd::exp(x); };
  const auto log = [](Vec x) { return simd::log(x); };
  CHECK(worst_error(-126, 127.9999f, exp2, [](double x) { return std::exp2(x); }) < 1.5e-7);
  CHECK(worst_error(-87.33f, 88.72f, exp, [](double x) { return std::exp(x); }) < 1.5e-7);
  CHECK(worst_error(0x1p-126f, 3e38f, log, [](double x) { return std::log(x); }) < 1.5e-7);
  CHECK(worst_error(
            -87, 3e38f, [](Vec x) { return simd::sigmoid(x); }, exact_sigmoid) < 2.5e-7);
  CHECK(worst_error(
            -87, 3e38f, [](Vec x) { return simd::silu(x); }, [](double x) { return x * exact_sigmoid(x); }) <
        2.5e-7);
  CHECK(worst_error(
            -87, 3e38f, [](Vec x) { return simd::softplus(x); }, exact_softplus) < 3e-7);
}

TEST_CASE("simd: functions at 0, at their ends, beyond them, and of NaN") {
  const auto exp2 = [](float x) { return in_all_lanes([](Vec v) { return simd::exp2(v); }, x); };
  const auto exp = [](float x) { return in_all_lanes([](Vec v) { return simd::exp(v); }, x); };
  const auto log = [](float x) { return in_all_lanes([](Vec v) { return simd::log(v); }, x); };
  const auto sigmoid = [](float x) { return in_all_lanes([](Vec v) { return simd::sigmoid(v); }, x); };
  const auto silu = [](float x) { return in_all_lanes([](Vec v) { return simd::silu(v); }, x); };
  const auto softplus = [](float x) { return in_all_lanes([](Vec v) { return simd::softplus(v); }, x); };
  for (int k = -126; k <= 127; ++k) CHECK(exp2(float(k)) == std::ldexp(1.0f, k));  // powers of two are exact
  for (const float x : {-126.001f, -127.0f, -1000.0f, -3e38f, -infinity}) CHECK(bits_of(exp2(x)) == 0);
  for (const float x : {128.0f, 1000.0f, 3e38f, infinity}) CHECK(exp2(x) == infinity);

  CHECK(exp(0) == 1);
  CHECK(exp(-0.0f) == 1);
  for (const float x : {-87.34f, -88.0f, -1000.0f, -3e38f, -infinity}) CHECK(bits_of(exp(x)) == 0);
  for (const float x : {88.73f, 100.0f, 3e38f, infinity}) CHECK(exp(x) == infinity);

  CHECK(bits_of(log(1)) == 0);
  CHECK(log(0) == -infinity);
  CHECK(log(infinity) == infinity);
  CHECK(std::isnan(log(-1)));
  CHECK(std::isnan(log(-infinity)));
  CHECK(log(0x1p-130f) > -88.1f);  // subnormal numbers, as documented
  CHECK(log(0x1p-130f) < -87.3f);

  CHECK(sigmoid(0) == 0.5f);
  CHECK(sigmoid(infinity) == 1);
  CHECK(sigmoid(-infinity) == 0);
  CHECK(silu(0) == 0);
  CHECK(silu(1e30f) == 1e30f);
  CHECK(silu(-1e30f) == 0);
  CHECK(softplus(0) == doctest::Approx(0.6931472).epsilon(1e-7));
  CHECK(softplus(1e30f) == 1e30f);
  CHECK(softplus(infinity) == infinity);
  CHECK(bits_of(softplus(-1e30f)) == 0);
  CHECK(bits_of(softplus(-infinity)) == 0);

  for (const auto f : {+exp2, +exp, +log, +sigmoid, +silu, +softplus}) {
    CHECK(std::isnan(f(not_a_number)));
    CHECK(std::isnan(f(-not_a_number)));
  }
}

TEST_CASE("simd: lanes do not disturb each other") {
  // Special values in all lanes but one, an ordinary number in that one.
  const float special[] = {not_a_number, infinity, -infinity, 3e38f, -3e38f, 0.0f};
  const auto alone = in_all_lanes([](Vec v) { return simd::softplus(v); }, 0.75f);
  bool same = true;
  for (int lane = 0; lane < width; ++lane)
    for (const float other : special) {
      Vec v = simd::broadcast(other);
      v[lane] = 0.75f;
      const Vec y = simd::softplus(v);
      same = same && bits_of(y[lane]) == bits_of(alone);
    }
  CHECK(same);
}
