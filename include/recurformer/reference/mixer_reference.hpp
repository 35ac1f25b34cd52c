#ifndef RECURFORMER_REFERENCE_MIXER_REFERENCE_HPP
#define RECURFORMER_REFERENCE_MIXER_REFERENCE_HPP

// The executable definition of a mixer: naive loops in double, one KV group of one sequence. Kernels are
// tested against it, gradients by finite differences of it.
//
//   template <> struct rf::reference::MixerReference<MyMixer> {
//     struct State {};   // what the group remembers; default-constructed at the start of a sequence
//     static void forward(const MyMixer&, const HeadShape&, const GroupArguments&, State&);
//   };
//
// A State with a member `Rounding round` or `RowRounding round_row` and the type it is stored in for a
// precision,
//   template <class Precision> using Stored = typename Precision::State;
// can be made a plain implementation in low precision (store_as), which rounds what it remembers and nothing
// else. Kernels may be at most twice as far from the exact result as that.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>

#include "recurformer/core/dtype.hpp"
#include "recurformer/core/precision.hpp"
#include "recurformer/spec/layer_shape.hpp"

namespace rf::reference {

/// What storing does to a number.
using Rounding = double (*)(double);
inline double exact(double value) { return value; }
template <class T>
double stored_as(double value) {
  return convert<double>(convert<T>(value));
}

/// The same to the numbers of one row of keys or values. Those of integers share a scale: max |x| / 127.
using RowRounding = void (*)(std::span<double>);
inline void exact_row(std::span<double>) {}
template <class T>
void row_stored_as(std::span<double> row) {
  double scale = 0;
  if constexpr (has_scales<T>) {
    for (const double value : row) scale = std::max(scale, std::fabs(value) / 127);
    if (scale == 0) return;
  }
  for (double& value : row)
    if constexpr (has_scales<T>)
      value = scale * std::nearbyint(value / scale);
    else
      value = stored_as<T>(value);
}

/// Makes a mixer's state round what it keeps as a cache of this precision does. A state that declares no
/// rounding stays exact.
template <class Precision, class State>
void store_as(State& state) {
  if constexpr (requires { state.round_row; })
    state.round_row = row_stored_as<typename State::template Stored<Precision>>;
  else if constexpr (requires { state.round; })
    state.round = stored_as<typename State::template Stored<Precision>>;
}

struct GroupArguments {
  std::int64_t rows = 0;              ///< new tokens
  std::int64_t position = 0;          ///< of the first of them
  const double* projected = nullptr;  ///< (rows, projection_width), biases added
  std::span<const std::span<const double>>
      local;                           ///< local parameters in declared order, each (units per group, slice)
  const double* query_norm = nullptr;  ///< (d_head), gain of every query's norm; null without qk_norm
  const double* key_norm = nullptr;    ///< the same of every key
  double* out = nullptr;               ///< (rows, queries_per_group · d_head)
};

/// Specialised once per mixer; see the top of this file.
template <class Mixer>
struct MixerReference;

}  // namespace rf::reference

#endif  // RECURFORMER_REFERENCE_MIXER_REFERENCE_HPP
