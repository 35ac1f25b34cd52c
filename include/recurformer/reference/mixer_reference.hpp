#ifndef RECURFORMER_REFERENCE_MIXER_REFERENCE_HPP
#define RECURFORMER_REFERENCE_MIXER_REFERENCE_HPP

// The executable definition of a mixer: naive loops in double, one KV group of one sequence. Kernels are
// tested against it, gradients by finite differences of it.
//
//   template <> struct rf::reference::MixerReference<MyMixer> {
//     struct State {};   // what the group remembers; default-constructed at the start of a sequence
//     static void forward(const MyMixer&, const HeadShape&, const GroupArguments&, State&);
//   };

#include <cstdint>
#include <span>

#include "recurformer/spec/layer_shape.hpp"

namespace rf::reference {

struct GroupArguments {
  std::int64_t rows = 0;              ///< new tokens
  std::int64_t position = 0;          ///< of the first of them
  const double* projected = nullptr;  ///< (rows, projection_width), biases added
  std::span<const std::span<const double>>
      local;              ///< local parameters in declared order, each (units per group, slice)
  double* out = nullptr;  ///< (rows, queries_per_group · d_head)
};

/// Specialised once per mixer; see the top of this file.
template <class Mixer>
struct MixerReference;

}  // namespace rf::reference

#endif  // RECURFORMER_REFERENCE_MIXER_REFERENCE_HPP
