#ifndef TESTS_GPU_KERNELS_MODEL_HPP
#define TESTS_GPU_KERNELS_MODEL_HPP

// A model of all four mixers at one width and in one precision: instantiating it instantiates every kernel
// that such models launch.

#include <utility>

#include "recurformer/cuda.cuh"

template <class P, int d_head>
struct AllMixers {
  using Kinds = rf::Kinds<rf::Kind<rf::Attention<>, P>, rf::Kind<rf::StreamingAttention<>, P>,
                          rf::Kind<rf::Mamba<>, P>, rf::Kind<rf::Mamba2<>, P>>;
  using Precision = P;
  using Widths = std::integer_sequence<int, d_head>;
};

#endif  // TESTS_GPU_KERNELS_MODEL_HPP
