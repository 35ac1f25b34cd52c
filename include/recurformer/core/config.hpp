#ifndef RECURFORMER_CORE_CONFIG_HPP
#define RECURFORMER_CORE_CONFIG_HPP

// What the compiler and the target can do, and the configuration macros of the library:
//   RECURFORMER_BOUNDS_CHECK  1: tensors check every index (default in debug builds), 0: they don't
//   RECURFORMER_HOST_DEVICE   marks functions that CUDA kernels and the host may call
//   RECURFORMER_DEVICE        marks functions that only CUDA kernels call: inlined device code under nvcc, and
//                             code of the simulator (arch/simulator/) under every other compiler
//   RECURFORMER_UNROLL        before a loop of constant length: unroll it whole
//   RECURFORMER_ROLLED        before a loop: leave it as it is

#ifndef RECURFORMER_BOUNDS_CHECK
#ifdef NDEBUG
#define RECURFORMER_BOUNDS_CHECK 0
#else
#define RECURFORMER_BOUNDS_CHECK 1
#endif
#endif

#if defined(__CUDACC__)
#define RECURFORMER_HOST_DEVICE __host__ __device__
#define RECURFORMER_DEVICE __device__ __forceinline__
#define RECURFORMER_ARCH device
#define RECURFORMER_UNROLL _Pragma("unroll")
#define RECURFORMER_ROLLED _Pragma("unroll 1")
#else
#define RECURFORMER_HOST_DEVICE
#define RECURFORMER_DEVICE inline
#define RECURFORMER_ARCH simulated
#define RECURFORMER_UNROLL
#define RECURFORMER_ROLLED
#endif

// Masked scores are -inf and empty rows are detected by comparing with it; -ffast-math lets the compiler
// assume that neither exists. Exponentials round by adding and subtracting 1.5·2^23, which a compiler that
// may regroup sums leaves out. Refusing is better than a silently wrong softmax. (Clang has no macro that
// tells of the second, unless it comes with the first.)
#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "recurformer: -ffast-math (-ffinite-math-only) breaks masked softmax; compile this file without it"
#elif defined(__ASSOCIATIVE_MATH__)
#error "recurformer: -fassociative-math (-funsafe-math-optimizations) breaks exp(); compile without it"
#endif

// CPU kernels sit in an inline namespace named after the instruction set they were compiled for, so that two
// files built with different -march flags never share one. What calls kernels has no such name, and is
// shared: tile/simd.hpp has the linker refuse such files; core/instruction_set.hpp says how one program gets
// several sets.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define RECURFORMER_ISA avx512
#define RECURFORMER_VECTOR_WIDTH 16
#elif defined(__AVX2__) && defined(__FMA__)
#define RECURFORMER_ISA avx2
#define RECURFORMER_VECTOR_WIDTH 8
#elif defined(__SSE4_2__)
#define RECURFORMER_ISA sse4_2
#define RECURFORMER_VECTOR_WIDTH 4
#elif defined(__ARM_NEON)
#define RECURFORMER_ISA neon
#define RECURFORMER_VECTOR_WIDTH 4
#else
#define RECURFORMER_ISA baseline
#define RECURFORMER_VECTOR_WIDTH 4
#endif

#endif  // RECURFORMER_CORE_CONFIG_HPP
