#ifndef RECURFORMER_CORE_PRECISION_HPP
#define RECURFORMER_CORE_PRECISION_HPP

// A precision is a struct of types. Each run of heads has one, the layer has its own for norms, W_O and MLP.

#include <concepts>
#include <string_view>

#include "recurformer/core/dtype.hpp"

namespace rf {

/// Types that weights, caches and states may be stored in.
template <class T>
concept StorageType = std::same_as<T, float> || std::same_as<T, bf16> || std::same_as<T, fp16>;

/// What a run needs to know of numbers.
///   Weight       storage of projection weights
///   Cache        storage of key/value rows, streaming rings
///   State        storage of recurrent states and convolution tails between calls
///   Accumulator  arithmetic and activations between kernels; float on every backend so far
/// The small per-head parameters (decays, convolution taps, biases) are always float.
template <class P>
concept Precision = StorageType<typename P::Weight> && StorageType<typename P::Cache> &&
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

}  // namespace rf

#endif  // RECURFORMER_CORE_PRECISION_HPP
