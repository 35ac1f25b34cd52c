#ifndef RECURFORMER_CUDA_CUH
#define RECURFORMER_CUDA_CUH

// Layers and models on a GPU, for files that nvcc compiles: rf::Cuda, rf::Layer<Spec, rf::Cuda>,
// rf::Model<Spec, rf::Cuda>, all mixers.
// Checkpoints, plans and the CPU backend are in recurformer.hpp, for files that it need not compile.

#include "recurformer/cuda/device.cuh"
#include "recurformer/model/device_layer.hpp"
#include "recurformer/model/device_model.hpp"
#include "recurformer/model/generate.hpp"
#include "recurformer/model/weights.hpp"
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/mamba.hpp"
#include "recurformer/spec/mamba2.hpp"
#include "recurformer/spec/streaming_attention.hpp"

#endif  // RECURFORMER_CUDA_CUH
