#ifndef RECURFORMER_MODEL_DEVICE_LAYER_HPP
#define RECURFORMER_MODEL_DEVICE_LAYER_HPP

// One layer of a user's own program on a device: Layer<Spec, rf::Cuda>, or Layer<Spec, rf::Simulated> where
// there is no GPU, instantiated for exactly the heads its spec asks for. How it is computed,
// model/device_layers.hpp says; calls only put launches onto the device's stream.

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "recurformer/core/error.hpp"
#include "recurformer/core/rows_view.hpp"
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
  /// parts, d_model) in device memory, rows at least d_model apart and each 16-byte aligned. The cache
  /// advances. ArgumentError for a part without tokens, a sequence that appears twice, or other rows.
  void forward(RowsView<T> x, std::span<const SequenceTokens> parts, Cache& cache);
  /// The same for dense rows.
  void forward(T* x, std::span<const SequenceTokens> parts, Cache& cache) {
    forward(RowsView<T>{x, Spec::shape.d_model}, parts, cache);
  }

  /// forward() for the next `rows` tokens of one sequence.
  void prefill(RowsView<T> x, std::int64_t rows, Cache& cache, std::int64_t sequence = 0) {
    const SequenceTokens part{sequence, rows};
    forward(x, {&part, 1}, cache);
  }
  void prefill(T* x, std::int64_t rows, Cache& cache, std::int64_t sequence = 0) {
    prefill(RowsView<T>{x, Spec::shape.d_model}, rows, cache, sequence);
  }
  /// prefill() of one or a few tokens: up to eight are one launch.
  void decode(RowsView<T> x, std::int64_t rows, Cache& cache, std::int64_t sequence = 0) {
    prefill(x, rows, cache, sequence);
  }
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
void DeviceLayer<Spec, Device>::forward(RowsView<T> x, std::span<const SequenceTokens> parts, Cache& cache) {
  if (parts.empty()) return;
  constexpr std::int64_t d = Spec::shape.d_model, size = sizeof(T);
  check(x.data != nullptr && x.stride >= d && x.stride * size % 16 == 0 &&
            reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0,
        "a layer on a device got rows at ", reinterpret_cast<std::uintptr_t>(x.data), ", ", x.stride,
        " elements apart; it needs rows at least d_model = ", d, " apart, each of them 16-byte aligned");
  const auto call = layers_.begin(parts, cache, x);
  layers_.run(call, cache, [&] {
    cuda::row_sums<T>(*device_, {.x = {call.x.data, call.x.stride},
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
