#ifndef RECURFORMER_MATH_ACTIVATION_HPP
#define RECURFORMER_MATH_ACTIVATION_HPP

// The nonlinear functions of recurrent heads, one scalar at a time: what the references compute and the
// vectorised kernels are tested against.

#include <cmath>

#include "recurformer/core/config.hpp"

namespace rf {

/// What follows the short convolution.
enum class Activation {
  none,  ///< x
  silu   ///< x · sigmoid(x)
};

/// What multiplies the output, a function of z.
enum class Gate {
  silu,        ///< z · sigmoid(z)
  two_sigmoid  ///< 2 · sigmoid(z): exactly 1 at z = 0, so that a converted head starts ungated
};

/// What C++ calls a choice.
constexpr const char* cpp_name(Activation activation) {
  return activation == Activation::none ? "rf::Activation::none" : "rf::Activation::silu";
}
constexpr const char* cpp_name(Gate gate) {
  return gate == Gate::silu ? "rf::Gate::silu" : "rf::Gate::two_sigmoid";
}

/// 1 / (1 + e^-x); e^-x may overflow to infinity, which is harmless.
template <class T>
RECURFORMER_HOST_DEVICE T sigmoid(T x) {
  return T(1) / (T(1) + std::exp(-x));
}

/// log(1 + e^x), without overflow for large x and without cancellation for very negative ones.
template <class T>
RECURFORMER_HOST_DEVICE T softplus(T x) {
  return (x > T(0) ? x : T(0)) + std::log1p(std::exp(-std::abs(x)));
}

/// The x > -inf with softplus(x) = y, for y > 0.
template <class T>
RECURFORMER_HOST_DEVICE T inverse_softplus(T y) {
  return y + std::log(-std::expm1(-y));
}

template <class T>
RECURFORMER_HOST_DEVICE T activate(Activation activation, T x) {
  return activation == Activation::silu ? x * sigmoid(x) : x;
}

/// The gate's value, by which an output is multiplied.
template <class T>
RECURFORMER_HOST_DEVICE T gate_value(Gate gate, T z) {
  return (gate == Gate::silu ? z : T(2)) * sigmoid(z);
}

}  // namespace rf

#endif  // RECURFORMER_MATH_ACTIVATION_HPP
