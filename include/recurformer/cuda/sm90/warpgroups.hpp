#ifndef RECURFORMER_CUDA_SM90_WARPGROUPS_HPP
#define RECURFORMER_CUDA_SM90_WARPGROUPS_HPP

// The warpgroups of a block on sm_90a: two that compute, and a last one, of which one thread brings in what
// they need. A block is launched with 168 registers per thread; the last group gives most of its own to the
// others.

#include "recurformer/arch/arch.hpp"

namespace rf::cuda::sm90 {

inline constexpr int group_threads = 128;
inline constexpr int consumer_groups = 2;
inline constexpr int consumer_threads = consumer_groups * group_threads;
/// The thread that issues copies, the first behind the consumers.
inline constexpr int producer_thread = consumer_threads;
inline constexpr int block_threads = consumer_threads + group_threads;

inline constexpr int consumer_registers = 240;
inline constexpr int producer_registers = 24;

inline namespace RECURFORMER_ARCH {

/// The thread's warpgroup, from one lane, so that the compiler knows that a warp agrees on it, and on what
/// follows from it: descriptors and addresses of barriers stay in uniform registers.
RECURFORMER_DEVICE int warpgroup() { return arch::shuffle(arch::thread_index() / group_threads, 0); }

}  // namespace RECURFORMER_ARCH
}  // namespace rf::cuda::sm90

#endif  // RECURFORMER_CUDA_SM90_WARPGROUPS_HPP
