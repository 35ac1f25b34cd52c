#ifndef RECURFORMER_MODEL_DEVICE_LAYER_HPP
#define RECURFORMER_MODEL_DEVICE_LAYER_HPP

// One layer of a user's own program on a device: Layer<Spec, rf::Cuda>, or Layer<Spec, rf::Simulated> where
// there is no GPU, instantiated for exactly the heads its spec asks for. How it is computed,
// model/device_layers.hpp says; calls only put launches onto the device's stream.

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "recurformer/cuda/attention_mixer.hpp"
#include "recurformer/cuda/mamba2_mixer.hpp"
#include "recurformer/cuda/mamba_mixer.hpp"
#include "recurformer/cuda/row_sums.hpp"
#include "recurformer/model/backend.hpp"
#include "recurformer/model/device_layers.hpp"
#include "recurformer/model/weights.hpp"

namespace rf {

/// A layer on a device; Layer<Spec, Device> is one. For one thread. `extern template class DeviceLayer<…>`
/// keeps its kernels out of a file.
template <LayerSpec Spec, KernelDevice Device>
class DeviceLayer : public LayerParameters<Spec> {
 public:
  using typename LayerParameters<Spec>::Kinds;
  using typename LayerParameters<Spec>::Weights;
  using Precision = typename Spec::Precision;
  using T = typename Precision::Weight;
  using Cache = DeviceCache<Device>;

  /// Copies the weights, which are not packed, to `device`, which must outlive this.
  DeviceLayer(Device& device, const Weights& host);

  /// An empty cache for this layer.
  Cache make_cache(CacheOptions options = {}) const {
    std::vector<std::vector<RecordedRow>> recorded;
    if (options.max_rollback > 0) recorded = layers_.recorded_rows();
    return Cache(*device_, layout_, options, std::move(recorded));
  }

  /// New tokens of several sequences, those of parts[0] first, through the layer in place: x (rows of all
  /// parts, d_model) in device memory, dense, 16-byte aligned. The cache advances. ArgumentError for a part
  /// without tokens, or a sequence that appears twice.
  void forward(T* x, std::span<const SequenceTokens> parts, Cache& cache);

  /// The same for the next `rows` tokens of one sequence.
  void prefill(T* x, std::int64_t rows, Cache& cache, std::int64_t sequence = 0) {
    const SequenceTokens part{sequence, rows};
    forward(x, {&part, 1}, cache);
  }
  /// prefill() of one or a few tokens: up to eight are one launch.
  void decode(T* x, std::int64_t rows, Cache& cache, std::int64_t sequence = 0) {
    prefill(x, rows, cache, sequence);
  }

 private:
  using Widths = std::integer_sequence<int, Spec::shape.d_head>;

  Device* device_;
  CacheLayout layout_;
  DeviceLayers<Kinds, Precision, Widths, Device> layers_;
};

// Not inline, so that `extern template` works: see model/device_model.hpp.

template <LayerSpec Spec, KernelDevice Device>
DeviceLayer<Spec, Device>::DeviceLayer(Device& device, const Weights& host)
    : device_(&device),
      layout_{{layer_cache_layout(host, Spec::shape)}},
      layers_(device, Spec::shape, {&host, 1}) {}

template <LayerSpec Spec, KernelDevice Device>
void DeviceLayer<Spec, Device>::forward(T* x, std::span<const SequenceTokens> parts, Cache& cache) {
  if (parts.empty()) return;
  const auto call = layers_.begin(parts, cache, x);
  layers_.run(call, cache, [&] {
    cuda::row_sums<T>(*device_, {.x = {call.x, Spec::shape.d_model},
                                 .sums = call.sums,
                                 .rows = call.rows,
                                 .width = Spec::shape.d_model});
  });
}

template <LayerSpec Spec, KernelDevice Device>
class Layer<Spec, Device> : public DeviceLayer<Spec, Device> {
 public:
  using DeviceLayer<Spec, Device>::DeviceLayer;
};

}  // namespace rf

#endif  // RECURFORMER_MODEL_DEVICE_LAYER_HPP
