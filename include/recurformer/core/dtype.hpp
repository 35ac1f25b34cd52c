#ifndef RECURFORMER_CORE_DTYPE_HPP
#define RECURFORMER_CORE_DTYPE_HPP

// Storage types. Arithmetic happens in float; bf16 and fp16 only store. Conversions round to nearest, ties to
// even, keep infinities and signed zeros, and keep NaN a (quiet) NaN.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "recurformer/core/config.hpp"

namespace rf {

namespace detail {
/// std::bit_cast, which device code cannot call.
template <class To, class From>
RECURFORMER_HOST_DEVICE constexpr To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  return __builtin_bit_cast(To, from);
}
}  // namespace detail

/// bfloat16: the upper half of an IEEE float (8 exponent bits, 7 stored significand bits).
struct bf16 {
  std::uint16_t bits = 0;

  bf16() = default;
  RECURFORMER_HOST_DEVICE constexpr explicit bf16(float value) : bits(from_float(value)) {}
  RECURFORMER_HOST_DEVICE constexpr explicit operator float() const {
    return detail::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }
  RECURFORMER_HOST_DEVICE static constexpr bf16 from_bits(std::uint16_t bits) {
    bf16 out;
    out.bits = bits;
    return out;
  }
  friend constexpr bool operator==(bf16 a, bf16 b) { return float(a) == float(b); }

 private:
  RECURFORMER_HOST_DEVICE static constexpr std::uint16_t from_float(float value) {
    const auto u = detail::bit_cast<std::uint32_t>(value);
    if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((u >> 16) | 0x40u);  // quiet NaN
    return static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
};

/// IEEE binary16 (5 exponent bits, 10 stored significand bits), subnormals included.
struct fp16 {
  std::uint16_t bits = 0;

  fp16() = default;
  RECURFORMER_HOST_DEVICE constexpr explicit fp16(float value) : bits(from_float(value)) {}
  RECURFORMER_HOST_DEVICE constexpr explicit operator float() const {
    const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
    const std::uint32_t magnitude = bits & 0x7fffu;
    if (magnitude >= 0x7c00u)  // infinity or NaN
      return detail::bit_cast<float>(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
    // Exponent bias 15 -> 127 by one multiplication with 2^112, which also normalises subnormals exactly.
    const float scaled = detail::bit_cast<float>(magnitude << 13) * 0x1p112f;
    return detail::bit_cast<float>(detail::bit_cast<std::uint32_t>(scaled) | sign);
  }
  RECURFORMER_HOST_DEVICE static constexpr fp16 from_bits(std::uint16_t bits) {
    fp16 out;
    out.bits = bits;
    return out;
  }
  friend constexpr bool operator==(fp16 a, fp16 b) { return float(a) == float(b); }

 private:
  RECURFORMER_HOST_DEVICE static constexpr std::uint16_t from_float(float value) {
    const auto u = detail::bit_cast<std::uint32_t>(value);
    const std::uint32_t sign = (u >> 16) & 0x8000u;
    const std::uint32_t magnitude = u & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
      return static_cast<std::uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
    if (magnitude >= 0x477ff000u)
      return static_cast<std::uint16_t>(sign | 0x7c00u);  // >= 65520 rounds to inf
    if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 aligns the last fp16 subnormal bit with float's
      const float aligned = detail::bit_cast<float>(magnitude) + 0.5f;
      return static_cast<std::uint16_t>(sign | (detail::bit_cast<std::uint32_t>(aligned) - 0x3f000000u));
    }
    const std::uint32_t rounded = magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u);
    return static_cast<std::uint16_t>(sign | (rounded >> 13));
  }
};

/// Element types of tensors in files and caches. The names are those of safetensors.
enum class DType : std::uint8_t { F64, F32, BF16, F16, I64, I32, I16, I8, U32, U16, U8, BOOL };

namespace detail {
struct DTypeRow {
  DType dtype;
  std::string_view name;
  std::size_t bytes;
};
inline constexpr DTypeRow dtype_rows[] = {
    {DType::F64, "F64", 8}, {DType::F32, "F32", 4}, {DType::BF16, "BF16", 2}, {DType::F16, "F16", 2},
    {DType::I64, "I64", 8}, {DType::I32, "I32", 4}, {DType::I16, "I16", 2},   {DType::I8, "I8", 1},
    {DType::U32, "U32", 4}, {DType::U16, "U16", 2}, {DType::U8, "U8", 1},     {DType::BOOL, "BOOL", 1}};
}  // namespace detail

/// "BF16" for DType::BF16, and so on.
constexpr std::string_view name_of(DType dtype) { return detail::dtype_rows[static_cast<int>(dtype)].name; }
/// Bytes of one element.
constexpr std::size_t size_of(DType dtype) { return detail::dtype_rows[static_cast<int>(dtype)].bytes; }

/// DType of a C++ element type: dtype_of<bf16> == DType::BF16.
template <class T>
inline constexpr DType dtype_of = [] {
  static_assert(sizeof(T) == 0, "recurformer: not an element type");
  return DType{};
}();
template <>
inline constexpr DType dtype_of<double> = DType::F64;
template <>
inline constexpr DType dtype_of<float> = DType::F32;
template <>
inline constexpr DType dtype_of<bf16> = DType::BF16;
template <>
inline constexpr DType dtype_of<fp16> = DType::F16;
template <>
inline constexpr DType dtype_of<std::int64_t> = DType::I64;
template <>
inline constexpr DType dtype_of<std::int32_t> = DType::I32;
template <>
inline constexpr DType dtype_of<std::int16_t> = DType::I16;
template <>
inline constexpr DType dtype_of<std::int8_t> = DType::I8;
template <>
inline constexpr DType dtype_of<std::uint32_t> = DType::U32;
template <>
inline constexpr DType dtype_of<std::uint16_t> = DType::U16;
template <>
inline constexpr DType dtype_of<std::uint8_t> = DType::U8;
template <>
inline constexpr DType dtype_of<bool> = DType::BOOL;

namespace detail {
/// A float that rounds to fewer bits as `value` itself would: towards zero, the last bit set where inexact.
/// The nearest float would not do, as it may fall on the middle between two narrower numbers.
RECURFORMER_HOST_DEVICE constexpr float rounded_to_odd(double value) {
  const auto nearest = static_cast<float>(value);
  if (value != value || static_cast<double>(nearest) == value) return nearest;
  const double excess =
      value < 0 ? value - static_cast<double>(nearest) : static_cast<double>(nearest) - value;
  const auto bits = detail::bit_cast<std::uint32_t>(nearest);
  return detail::bit_cast<float>((excess > 0 ? bits - 1 : bits) | 1u);
}
}  // namespace detail

/// Converts between element types, rounding once (64-bit integers beyond 2^53 to bf16 or fp16: twice).
template <class To, class From>
RECURFORMER_HOST_DEVICE constexpr To convert(From value) {
  constexpr bool from_small = requires { value.bits; };
  constexpr bool to_small = requires(To t) { t.bits; };
  if constexpr (from_small && to_small)
    return To(float(value));
  else if constexpr (from_small)
    return static_cast<To>(float(value));
  else if constexpr (to_small && std::same_as<From, float>)
    return To(value);
  else if constexpr (to_small)
    return To(detail::rounded_to_odd(static_cast<double>(value)));
  else
    return static_cast<To>(value);
}

}  // namespace rf

#endif  // RECURFORMER_CORE_DTYPE_HPP
