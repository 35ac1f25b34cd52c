#ifndef EXAMPLES_SPLIT_INSTANTIATION_HYBRID_CUH
#define EXAMPLES_SPLIT_INSTANTIATION_HYBRID_CUH

// A model's kernels take long to compile. Files that include this one use the model and leave them to
// hybrid.cu.

#include <utility>

#include "recurformer/cuda.cuh"

/// Attention and Mamba heads of width 64 in bf16; which head is what is known at run time.
struct Hybrid {
  using Kinds = rf::Kinds<rf::Kind<rf::Attention<>, rf::Bf16>, rf::Kind<rf::Mamba<>, rf::Bf16>>;
  using Precision = rf::Bf16;
  using Widths = std::integer_sequence<int, 64>;
};
using HybridWeights = rf::ModelWeights<Hybrid::Kinds, Hybrid::Precision>;

extern template class rf::DeviceModel<Hybrid, rf::Cuda>;

#endif  // EXAMPLES_SPLIT_INSTANTIATION_HYBRID_CUH
