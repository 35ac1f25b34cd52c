#ifndef RECURFORMER_MODEL_BACKEND_HPP
#define RECURFORMER_MODEL_BACKEND_HPP

// What layers and models on all backends share: the backend's name as a type, tokens, and the templates
// themselves.

#include <cstdint>

#include "recurformer/spec/model_spec.hpp"

namespace rf {

/// The backend that runs everywhere. The others are devices: rf::Cuda, rf::Simulated.
struct Cpu {};

/// One layer of a user's own program; see model/layer.hpp and model/device_layer.hpp.
template <LayerSpec Spec, class Backend = Cpu>
class Layer;

/// A model; see model/model.hpp and model/device_model.hpp.
template <ModelSpec Spec, class Backend = Cpu>
class Model;

/// A token of the vocabulary.
using Token = std::int32_t;

/// New tokens of one sequence of a cache.
struct SequenceTokens {
  std::int64_t sequence = 0;  ///< index in the cache
  std::int64_t rows = 0;      ///< how many of the call's tokens are its
};

}  // namespace rf

#endif  // RECURFORMER_MODEL_BACKEND_HPP
