#ifndef RECURFORMER_RECURFORMER_HPP
#define RECURFORMER_RECURFORMER_HPP

// Everything that needs nothing beyond the standard library and threads: specs, mixers, their CPU kernels, layers, models,
// generation, evaluation, training, conversion. Files (checkpoint/, train/checkpointing.hpp, plan/analysis_file.hpp) need
// nlohmann-json and are included by name.

#include "recurformer/core/config.hpp"
#include "recurformer/core/dtype.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/core/instruction_set.hpp"
#include "recurformer/core/memory.hpp"
#include "recurformer/core/parallel.hpp"
#include "recurformer/core/precision.hpp"
#include "recurformer/core/random.hpp"
#include "recurformer/core/shape.hpp"
#include "recurformer/core/tensor.hpp"
#include "recurformer/core/tensor_ops.hpp"
#include "recurformer/cpu/attention_mixer.hpp"
#include "recurformer/cpu/mamba2_mixer.hpp"
#include "recurformer/cpu/mamba_mixer.hpp"
#include "recurformer/cpu/standard_mamba2_mixer.hpp"
#include "recurformer/eval/copy.hpp"
#include "recurformer/eval/evaluate.hpp"
#include "recurformer/eval/hash_hop.hpp"
#include "recurformer/eval/mqar.hpp"
#include "recurformer/model/cache.hpp"
#include "recurformer/model/generate.hpp"
#include "recurformer/model/int8_weights.hpp"
#include "recurformer/model/layer.hpp"
#include "recurformer/model/model.hpp"
#include "recurformer/model/sampler.hpp"
#include "recurformer/plan/convert.hpp"
#include "recurformer/plan/select.hpp"
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/mamba.hpp"
#include "recurformer/spec/mamba2.hpp"
#include "recurformer/spec/model_spec.hpp"
#include "recurformer/spec/standard_mamba2.hpp"
#include "recurformer/spec/streaming_attention.hpp"
#include "recurformer/train/trainer.hpp"
#include "recurformer/version.hpp"

#endif  // RECURFORMER_RECURFORMER_HPP
