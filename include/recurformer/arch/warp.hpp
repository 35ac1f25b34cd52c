#ifndef RECURFORMER_ARCH_WARP_HPP
#define RECURFORMER_ARCH_WARP_HPP

// Values passed between the lanes of a warp: shuffles and votes. All lanes of the mask take part, from the
// same place in the code; the lane read from must be one of them.

#include "recurformer/arch/types.hpp"
#if !defined(__CUDACC__)
#include "recurformer/arch/simulator/collective.hpp"
#endif

namespace rf::arch {
inline namespace RECURFORMER_ARCH {

#if !defined(__CUDACC__)
namespace detail {
/// source(lane, argument) is the lane whose value `lane` gets.
template <class T, class Source>
T shuffled(T value, int argument, unsigned lanes, Source source, const char* name, Caller caller) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "recurformer: shuffles move 32-bit or 64-bit values");
  struct In {
    T value;
    int argument;
  };
  const In in{value, argument};
  T out{};
  simulator::collective(
      lanes, in, out,
      [source, name, caller](const In* const* ins, T* const* outs, unsigned mask) {
        for (int l = 0; l < warp_size; ++l) {
          if (!(mask >> l & 1u)) continue;
          const int from = source(l, ins[l]->argument);
          if (!(mask >> from & 1u))
            throw SimulationError(text(name, " at ", simulator::place(caller), ": lane ", l, " reads lane ",
                                       from, ", which is outside the mask"));
          *outs[l] = ins[from]->value;
        }
      },
      name, caller);
  return out;
}
}  // namespace detail
#endif

/// The value of lane `from`, modulo 32. (shfl.sync.idx)
template <class T>
RECURFORMER_DEVICE T shuffle(T value, int from, unsigned lanes = all_lanes,
                             [[maybe_unused]] Caller caller = Caller::here()) {
#if defined(__CUDACC__)
  return __shfl_sync(lanes, value, from);
#else
  return detail::shuffled(
      value, from, lanes, [](int, int argument) { return argument & 31; }, "shuffle", caller);
#endif
}

/// The value of the lane whose index differs in the bits of `bits`, 0 to 31. (shfl.sync.bfly)
template <class T>
RECURFORMER_DEVICE T shuffle_xor(T value, int bits, unsigned lanes = all_lanes,
                                 [[maybe_unused]] Caller caller = Caller::here()) {
#if defined(__CUDACC__)
  return __shfl_xor_sync(lanes, value, bits);
#else
  return detail::shuffled(
      value, bits, lanes, [](int lane, int argument) { return (lane ^ argument) & 31; }, "shuffle_xor",
      caller);
#endif
}

/// The value of the lane `distance` below; the first lanes keep theirs. (shfl.sync.up)
template <class T>
RECURFORMER_DEVICE T shuffle_up(T value, int distance, unsigned lanes = all_lanes,
                                [[maybe_unused]] Caller caller = Caller::here()) {
#if defined(__CUDACC__)
  return __shfl_up_sync(lanes, value, static_cast<unsigned>(distance));
#else
  return detail::shuffled(
      value, distance, lanes,
      [](int lane, int argument) { return lane >= argument ? lane - argument : lane; }, "shuffle_up", caller);
#endif
}

/// The value of the lane `distance` above; the last lanes keep theirs. (shfl.sync.down)
template <class T>
RECURFORMER_DEVICE T shuffle_down(T value, int distance, unsigned lanes = all_lanes,
                                  [[maybe_unused]] Caller caller = Caller::here()) {
#if defined(__CUDACC__)
  return __shfl_down_sync(lanes, value, static_cast<unsigned>(distance));
#else
  return detail::shuffled(
      value, distance, lanes,
      [](int lane, int argument) { return lane + argument < 32 ? lane + argument : lane; }, "shuffle_down",
      caller);
#endif
}

/// Bit l: the predicate of lane l; 0 outside the mask. (vote.sync.ballot)
RECURFORMER_DEVICE unsigned ballot(bool predicate, unsigned lanes = all_lanes,
                                   [[maybe_unused]] Caller caller = Caller::here()) {
#if defined(__CUDACC__)
  return __ballot_sync(lanes, predicate);
#else
  unsigned out = 0;
  simulator::collective(
      lanes, predicate, out,
      [](const bool* const* in, unsigned* const* outs, unsigned mask) {
        unsigned votes = 0;
        for (int l = 0; l < warp_size; ++l)
          if ((mask >> l & 1u) && *in[l]) votes |= 1u << l;
        for (int l = 0; l < warp_size; ++l)
          if (mask >> l & 1u) *outs[l] = votes;
      },
      "ballot", caller);
  return out;
#endif
}

/// True if the predicate holds in a lane of the mask. (vote.sync.any)
RECURFORMER_DEVICE bool any(bool predicate, unsigned lanes = all_lanes,
                            [[maybe_unused]] Caller caller = Caller::here()) {
#if defined(__CUDACC__)
  return __any_sync(lanes, predicate) != 0;
#else
  return ballot(predicate, lanes, caller) != 0;
#endif
}

/// True if the predicate holds in all lanes of the mask. (vote.sync.all)
RECURFORMER_DEVICE bool all(bool predicate, unsigned lanes = all_lanes,
                            [[maybe_unused]] Caller caller = Caller::here()) {
#if defined(__CUDACC__)
  return __all_sync(lanes, predicate) != 0;
#else
  return ballot(predicate, lanes, caller) == lanes;
#endif
}

}  // namespace RECURFORMER_ARCH
}  // namespace rf::arch

#endif  // RECURFORMER_ARCH_WARP_HPP
