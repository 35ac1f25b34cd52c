#ifndef RECURFORMER_CUDA_CUH
#define RECURFORMER_CUDA_CUH

// Layers and models on a GPU, for files that nvcc compiles: rf::Cuda, rf::Layer<Spec, rf::Cuda>,
// rf::Model<Spec, rf::Cuda>, all mixers. Files with layers only compile faster with cuda/layer.cuh.
// Checkpoints, plans and the CPU backend are in recurformer.hpp, for files that it need not compile.

#include "recurformer/cuda/layer.cuh"
#include "recurformer/model/device_model.hpp"
#include "recurformer/model/generate.hpp"

#endif  // RECURFORMER_CUDA_CUH
