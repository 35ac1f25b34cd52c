#ifndef RECURFORMER_CUDA_LAYER_CUH
#define RECURFORMER_CUDA_LAYER_CUH

// Layers on a GPU, for files that nvcc compiles and that have no models: rf::Cuda, rf::Layer<Spec, rf::Cuda>,
// all mixers. What cuda.cuh has beyond these takes nvcc 4 s more: models choose tokens with CUB's help.

#include "recurformer/cuda/device.cuh"
#include "recurformer/model/device_layer.hpp"
#include "recurformer/model/weights.hpp"
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/mamba.hpp"
#include "recurformer/spec/mamba2.hpp"
#include "recurformer/spec/streaming_attention.hpp"

#endif  // RECURFORMER_CUDA_LAYER_CUH
