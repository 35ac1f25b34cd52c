#include "recurformer/core/dtype.hpp"

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace {

using rf::bf16;
using rf::convert;
using rf::DType;
using rf::fp16;

/// How a 16-bit type splits its bits; the independent definition that the conversions are compared with.
struct Format {
  int significand_bits;
  int bias;
};
constexpr Format format_of(bf16) { return {7, 127}; }
constexpr Format format_of(fp16) { return {10, 15}; }

constexpr int exponent_field(Format format, unsigned bits) {
  return static_cast<int>((bits & 0x7fffu) >> format.significand_bits);
}
constexpr int largest_exponent(Format format) { return (1 << (15 - format.significand_bits)) - 1; }
constexpr unsigned significand_field(Format format, unsigned bits) {
  return bits & ((1u << format.significand_bits) - 1);
}
bool is_nan_pattern(Format format, unsigned bits) {
  return exponent_field(format, bits) == largest_exponent(format) && significand_field(format, bits) != 0;
}

/// The value of a pattern that is not NaN, by the definition of IEEE formats.
double value_of(Format format, unsigned bits) {
  const int exponent = exponent_field(format, bits);
  const double sign = (bits & 0x8000u) != 0 ? -1.0 : 1.0;
  const unsigned hidden = exponent == 0 ? 0u : 1u << format.significand_bits;
  if (exponent == largest_exponent(format)) return sign * std::numeric_limits<double>::infinity();
  return sign * std::ldexp(static_cast<double>(significand_field(format, bits) | hidden),
                           (exponent == 0 ? 1 : exponent) - format.bias - format.significand_bits);
}

template <class Small>
std::uint16_t rounded(float value) {
  return Small(value).bits;
}

}  // namespace

TEST_CASE_TEMPLATE("dtype: every 16-bit pattern widens to its value and narrows back", Small, bf16, fp16) {
  const Format format = format_of(Small{});
  int wrong_values = 0, wrong_round_trips = 0, wrong_nans = 0;
  for (unsigned bits = 0; bits < 0x10000u; ++bits) {
    const auto pattern = static_cast<std::uint16_t>(bits);
    const float value = float(Small::from_bits(pattern));
    if (is_nan_pattern(format, bits)) {
      // Still NaN, of the same sign and payload, and quiet when it comes back.
      const auto back = rounded<Small>(value);
      const auto quiet = static_cast<std::uint16_t>(pattern | 1u << (format.significand_bits - 1));
      wrong_nans += !std::isnan(value) || back != quiet;
    } else {
      wrong_values += double(value) != value_of(format, bits) || std::signbit(value) != (bits >= 0x8000u);
      wrong_round_trips += rounded<Small>(value) != pattern;
    }
  }
  CHECK(wrong_values == 0);
  CHECK(wrong_round_trips == 0);
  CHECK(wrong_nans == 0);
}

TEST_CASE_TEMPLATE("dtype: between any two neighbours, floats round to the nearer and the middle to even",
                   Small, bf16, fp16) {
  const Format format = format_of(Small{});
  const auto infinity = static_cast<unsigned>(largest_exponent(format)) << format.significand_bits;
  int wrong_middles = 0, wrong_below = 0, wrong_above = 0;
  for (unsigned low = 0; low < infinity; ++low) {
    // The middle between the largest number and what would follow it without an end decides about infinity.
    const double a = value_of(format, low);
    const double step = low + 1 < infinity ? value_of(format, low + 1) - a : a - value_of(format, low - 1);
    const double exact_middle = a + step / 2;
    if (exact_middle > double(std::numeric_limits<float>::max())) continue;
    const auto middle = static_cast<float>(exact_middle);
    REQUIRE(double(middle) == exact_middle);
    for (const unsigned sign : {0u, 0x8000u}) {
      const float side = sign == 0 ? 1.0f : -1.0f;
      const float inf = std::numeric_limits<float>::infinity();
      wrong_middles += rounded<Small>(side * middle) != (sign | (low + (low & 1u)));
      wrong_below += rounded<Small>(side * std::nextafter(middle, 0.0f)) != (sign | low);
      wrong_above += rounded<Small>(side * std::nextafter(middle, inf)) != (sign | (low + 1));
    }
  }
  CHECK(wrong_middles == 0);
  CHECK(wrong_below == 0);
  CHECK(wrong_above == 0);
}

TEST_CASE_TEMPLATE("dtype: ends of the range", Small, bf16, fp16) {
  const Format format = format_of(Small{});
  const auto infinity = static_cast<std::uint16_t>(largest_exponent(format) << format.significand_bits);
  const float inf = std::numeric_limits<float>::infinity();
  CHECK(rounded<Small>(inf) == infinity);
  CHECK(rounded<Small>(-inf) == (infinity | 0x8000u));
  CHECK(rounded<Small>(std::numeric_limits<float>::max()) == infinity);
  CHECK(rounded<Small>(-std::numeric_limits<float>::max()) == (infinity | 0x8000u));
  CHECK(rounded<Small>(0.0f) == 0);
  CHECK(rounded<Small>(-0.0f) == 0x8000u);
  CHECK(rounded<Small>(std::numeric_limits<float>::denorm_min()) == 0);
  CHECK(rounded<Small>(-std::numeric_limits<float>::denorm_min()) == 0x8000u);
  // A NaN whose payload lies only in the bits that are cut off must not become infinity.
  for (const std::uint32_t nan : {0x7f800001u, 0xff800001u, 0x7fc00000u, 0xffffffffu}) {
    const auto bits = rounded<Small>(std::bit_cast<float>(nan));
    CHECK(is_nan_pattern(format, bits));
    CHECK((bits & 0x8000u) == (nan >> 16 & 0x8000u));
  }
}

TEST_CASE("dtype: equality is that of the values") {
  CHECK(bf16(0.0f) == bf16(-0.0f));
  CHECK(fp16(1.0f) == fp16(1.0f));
  CHECK(!(fp16(1.0f) == fp16(2.0f)));
  CHECK(!(bf16(std::nanf("")) == bf16(std::nanf(""))));
  static_assert(bf16{}.bits == 0 && fp16{}.bits == 0);
  static_assert(sizeof(bf16) == 2 && sizeof(fp16) == 2);
  static_assert(bf16(1.0f).bits == 0x3f80 && fp16(1.0f).bits == 0x3c00);
  static_assert(float(fp16::from_bits(1)) == 0x1p-24f && float(bf16(3.140625f)) == 3.140625f);
}

TEST_CASE("dtype: convert rounds once") {
  // Just above the middle of two narrow numbers: the nearest float is the middle itself, which would round to
  // even, downwards.
  const double bf16_middle = 1.0 + 0x1p-8, fp16_middle = 1.0 + 0x1p-11;
  CHECK(convert<bf16>(bf16_middle + 0x1p-40).bits == 0x3f81);
  CHECK(convert<bf16>(bf16_middle).bits == 0x3f80);
  CHECK(convert<bf16>(bf16_middle - 0x1p-40).bits == 0x3f80);
  CHECK(convert<bf16>(-(bf16_middle + 0x1p-40)).bits == 0xbf81);
  CHECK(convert<fp16>(fp16_middle + 0x1p-40).bits == 0x3c01);
  CHECK(convert<fp16>(fp16_middle).bits == 0x3c00);
  CHECK(convert<fp16>(-(fp16_middle + 0x1p-40)).bits == 0xbc01);
  CHECK(convert<fp16>(-(fp16_middle - 0x1p-40)).bits == 0xbc00);
  // Just below the middle above an odd number: the middle would round up.
  CHECK(convert<bf16>(1.0 + 0x3p-8 - 0x1p-40).bits == 0x3f81);
  CHECK(convert<bf16>(1.0 + 0x3p-8).bits == 0x3f82);
  // Doubles that no float holds.
  CHECK(convert<bf16>(1e300).bits == 0x7f80);
  CHECK(convert<bf16>(-1e300).bits == 0xff80);
  CHECK(convert<fp16>(1e-300).bits == 0);
  CHECK(convert<fp16>(-1e-300).bits == 0x8000);
  CHECK(std::isnan(float(convert<bf16>(std::nan("")))));
  CHECK(convert<fp16>(std::numeric_limits<double>::infinity()).bits == 0x7c00);
  // 2^24 + 2^16 + 1: in between floats, just above a middle between bf16 numbers.
  CHECK(convert<bf16>(std::int32_t{(1 << 24) + (1 << 16) + 1}).bits == 0x4b81);
}

TEST_CASE("dtype: convert between all kinds of elements") {
  CHECK(convert<float>(bf16(1.5f)) == 1.5f);
  CHECK(convert<double>(fp16(-0.25f)) == -0.25);
  CHECK(convert<fp16>(bf16(3.0f)) == fp16(3.0f));
  CHECK(convert<bf16>(fp16::from_bits(1)) == bf16(0x1p-24f));
  CHECK(convert<bf16>(7) == bf16(7.0f));
  CHECK(convert<std::int32_t>(fp16(-3.0f)) == -3);
  CHECK(convert<std::int64_t>(std::uint8_t{200}) == 200);
  CHECK(convert<float>(0.1) == 0.1f);
  CHECK(convert<double>(0.1f) == double(0.1f));
}

TEST_CASE("dtype: names, sizes and C++ types belong together") {
  static_assert(rf::dtype_of<bf16> == DType::BF16 && rf::dtype_of<fp16> == DType::F16);
  static_assert(rf::dtype_of<std::int16_t> == DType::I16 && rf::dtype_of<bool> == DType::BOOL);
  const auto check = []<class T>(T, std::string_view name) {
    CHECK(rf::name_of(rf::dtype_of<T>) == name);
    CHECK(rf::size_of(rf::dtype_of<T>) == sizeof(T));
  };
  check(double{}, "F64");
  check(float{}, "F32");
  check(bf16{}, "BF16");
  check(fp16{}, "F16");
  check(std::int64_t{}, "I64");
  check(std::int32_t{}, "I32");
  check(std::int16_t{}, "I16");
  check(std::int8_t{}, "I8");
  check(std::uint32_t{}, "U32");
  check(std::uint16_t{}, "U16");
  check(std::uint8_t{}, "U8");
  check(bool{}, "BOOL");
}
