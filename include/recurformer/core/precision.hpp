#ifndef RECURFORMER_CORE_PRECISION_HPP
#define RECURFORMER_CORE_PRECISION_HPP

// A precision is a struct of types. Each run of heads has one, the layer has its own for norms, W_O and MLP.

#include <concepts>
#include <cstdint>
#include <string_view>

#include "recurformer/core/dtype.hpp"

namespace rf {

/// Types that weights, caches and states may be stored in.
template <class T>
concept StorageType = std::same_as<T, float> || std::same_as<T, bf16> || std::same_as<T, fp16>;

/// Types of what inference reads again and again. std::int8_t stands for integers with a scale that a group
/// of them shares (cpu/int8.hpp).
template <class T>
concept InferenceType = StorageType<T> || std::same_as<T, std::int8_t>;
/// Whether numbers of this type are integers that need a scale.
template <class T>
inline constexpr bool has_scales = std::same_as<T, std::int8_t>;

namespace detail {
template <class P>
struct PackedType {
  using type = typename P::Weight;
};
template <class P>
requires requires { typename P::Packed; }
struct PackedType<P> {
  using type = typename P::Packed;
};
}  // namespace detail

/// What a precision's weights are packed to.
template <class P>
using PackedWeight = typename detail::PackedType<P>::type;
/// Whether that is the type that they have anyway, or integers.
template <class P>
inline constexpr bool is_packable =
    std::same_as<PackedWeight<P>, typename P::Weight> || has_scales<PackedWeight<P>>;

/// What a run needs to know of numbers.
///   Weight       storage of projection weights
///   Packed       optional: std::int8_t where packing for inference is to make them integers; until then they
///                are what Weight says, to be loaded, trained and saved
///   Cache        storage of key/value rows, streaming rings; std::int8_t: a scale for every row
///   State        storage of recurrent states and convolution tails between calls
///   Accumulator  arithmetic and activations between kernels; float on every backend so far
/// The small per-head parameters (decays, convolution taps, biases) are always float.
template <class P>
concept Precision = StorageType<typename P::Weight> && is_packable<P> && InferenceType<typename P::Cache> &&
    StorageType<typename P::State> && std::same_as<typename P::Accumulator, float> && requires {
  { P::name } -> std::convertible_to<std::string_view>;
};

/// Everything in 32-bit floats.
struct Fp32 {
  using Weight = float;
  using Cache = float;
  using State = float;
  using Accumulator = float;
  static constexpr std::string_view name = "fp32";
};

/// bfloat16 weights and cache, float states and arithmetic.
struct Bf16 {
  using Weight = bf16;
  using Cache = bf16;
  using State = float;
  using Accumulator = float;
  static constexpr std::string_view name = "bf16";
};

/// Half-precision weights and cache, float states and arithmetic.
struct Fp16 {
  using Weight = fp16;
  using Cache = fp16;
  using State = float;
  using Accumulator = float;
  static constexpr std::string_view name = "fp16";
};

/// Bf16 with weights that packing makes 8-bit integers.
struct Int8Weights : Bf16 {
  using Packed = std::int8_t;
  static constexpr std::string_view name = "int8_weights";
};

/// Bf16 with keys and values in 8-bit integers.
struct Int8Cache : Bf16 {
  using Cache = std::int8_t;
  static constexpr std::string_view name = "int8_cache";
};

/// Both.
struct Int8 : Int8Weights {
  using Cache = std::int8_t;
  static constexpr std::string_view name = "int8";
};

}  // namespace rf

#endif  // RECURFORMER_CORE_PRECISION_HPP
