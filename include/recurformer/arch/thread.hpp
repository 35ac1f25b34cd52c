#ifndef RECURFORMER_ARCH_THREAD_HPP
#define RECURFORMER_ARCH_THREAD_HPP

// Who a thread is, and the shared memory of its block. Blocks are one-dimensional, grids up to three.

#include "recurformer/arch/types.hpp"
#if !defined(__CUDACC__)
#include "recurformer/arch/simulator/machine.hpp"
#endif

namespace rf::arch {
inline namespace RECURFORMER_ARCH {

/// Index of the thread in its block.
RECURFORMER_DEVICE int thread_index() {
#if defined(__CUDACC__)
  return static_cast<int>(threadIdx.x);
#else
  simulator::Bookkeeping hidden;
  return simulator::this_thread().index;
#endif
}

RECURFORMER_DEVICE int lane_index() { return thread_index() % warp_size; }
RECURFORMER_DEVICE int warp_index() { return thread_index() / warp_size; }

RECURFORMER_DEVICE Dim3 block_index() {
#if defined(__CUDACC__)
  return {static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y), static_cast<int>(blockIdx.z)};
#else
  simulator::Bookkeeping hidden;
  return simulator::this_thread().block->index;
#endif
}

/// Blocks of the grid.
RECURFORMER_DEVICE Dim3 grid_size() {
#if defined(__CUDACC__)
  return {static_cast<int>(gridDim.x), static_cast<int>(gridDim.y), static_cast<int>(gridDim.z)};
#else
  simulator::Bookkeeping hidden;
  return simulator::this_thread().block->grid.blocks();
#endif
}

/// Threads of the block.
RECURFORMER_DEVICE int block_size() {
#if defined(__CUDACC__)
  return static_cast<int>(blockDim.x);
#else
  simulator::Bookkeeping hidden;
  return simulator::this_thread().block->grid.threads();
#endif
}

/// The dynamic shared memory of the block, as many bytes as the launch asked for, aligned to 1024.
template <class T>
RECURFORMER_DEVICE T* shared_memory() {
#if defined(__CUDACC__)
  extern __shared__ __align__(1024) unsigned char recurformer_shared_memory[];
  return reinterpret_cast<T*>(recurformer_shared_memory);
#else
  simulator::Bookkeeping hidden;
  return reinterpret_cast<T*>(simulator::this_thread().block->shared.begin());
#endif
}

/// The shared address of something in shared_memory(). (cvta.to.shared)
RECURFORMER_DEVICE SharedAddress shared_address(const void* pointer,
                                                [[maybe_unused]] Caller caller = Caller::here()) {
#if defined(__CUDACC__)
  return static_cast<SharedAddress>(__cvta_generic_to_shared(pointer));
#else
  simulator::Bookkeeping hidden;
  const simulator::SharedMemory& shared = simulator::this_thread().block->shared;
  const auto offset = static_cast<const unsigned char*>(pointer) - shared.begin();
  if (offset < 0 || static_cast<std::size_t>(offset) > shared.bytes())
    throw SimulationError(
        text("shared_address at ", simulator::place(caller), ": the pointer is not into shared memory"));
  return static_cast<SharedAddress>(offset);
#endif
}

}  // namespace RECURFORMER_ARCH
}  // namespace rf::arch

#endif  // RECURFORMER_ARCH_THREAD_HPP
