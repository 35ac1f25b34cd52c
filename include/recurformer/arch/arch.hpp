#ifndef RECURFORMER_ARCH_ARCH_HPP
#define RECURFORMER_ARCH_ARCH_HPP

// The machine that kernels are written for: one function per instruction, realised twice. nvcc makes inline
// PTX of it, the only assembler in this library; every other compiler makes it the same instruction of the
// simulator (arch/simulator/), where each CUDA thread is a fiber. A kernel is a type,
//
//   struct Kernel {
//     struct Parameters { … };                          // plain values and device pointers
//     static constexpr int threads = …;                 // per block
//     static constexpr int blocks_per_multiprocessor = …;   // that registers must leave room for
//     static constexpr int least_compute_capability = 90;   // only if it uses what sm_80 lacks
//     RECURFORMER_DEVICE static void run(const Parameters&);
//   };
//
// launched by cuda/device.cuh or cuda/simulated.hpp.
//
//   kernel.hpp      the kernel concept
//   thread.hpp      indices, shared memory         barrier.hpp     of a warp and of a block
//   warp.hpp        shuffles, votes                memory.hpp      atomics, acquire and release, grid barrier
//   math.hpp        exp2, conversions              matrix.hpp      ldmatrix, mma.sync
//   copy_async.hpp  cp.async                       hidden.hpp      what the optimiser must not know
//
// included by the kernels that use it, because CUB takes long to read,
//
//   block.hpp       sums and reductions over the threads of a block
//
// and, for sm_90a only, included by the kernels that use them:
//
//   mbarrier.hpp    barriers in shared memory      tma.hpp              copies of boxes and of bytes
//   wgmma.hpp       multiplies of a warpgroup      proxy.hpp            fences before both
//   swizzle.hpp     shared memory as both want it  register_pool.hpp    setmaxnreg

#include "recurformer/arch/barrier.hpp"
#include "recurformer/arch/copy_async.hpp"
#include "recurformer/arch/hidden.hpp"
#include "recurformer/arch/kernel.hpp"
#include "recurformer/arch/math.hpp"
#include "recurformer/arch/matrix.hpp"
#include "recurformer/arch/memory.hpp"
#include "recurformer/arch/thread.hpp"
#include "recurformer/arch/types.hpp"
#include "recurformer/arch/warp.hpp"

#endif  // RECURFORMER_ARCH_ARCH_HPP
