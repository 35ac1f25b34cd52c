#ifndef RECURFORMER_MODEL_DEVICE_WEIGHTS_HPP
#define RECURFORMER_MODEL_DEVICE_WEIGHTS_HPP

// The parameters of a model as the kernels of a device want them, made from ModelWeights by a few small
// launches: per layer one fused projection of all runs with the norm's gain folded in, its rows in the order
// that epilogues ask for; gate and up interleaved; local parameters as the mixers prepare them.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "recurformer/cuda/device_array.hpp"
#include "recurformer/cuda/mixer_kernel.hpp"
#include "recurformer/cuda/pack_rows.hpp"
#include "recurformer/cuda/projections.hpp"
#include "recurformer/model/weights.hpp"

namespace rf {

namespace detail {

/// Calls f(std::integral_constant<int, d_head>) for the one of Widths that equals d_head.
template <int... Width, class F>
void with_device_width(std::integer_sequence<int, Width...>, int d_head, F&& f) {
  static_assert(
      ((Width == 16 || Width == 32 || Width == 64 || Width == 128) && ...),
      "recurformer: kernels for a device exist for d_head 16, 32, 64 and 128; name those that you need in "
      "the spec: using Widths = std::integer_sequence<int, 64, 128>");
  const bool found = ((Width == d_head && (f(std::integral_constant<int, Width>{}), true)) || ...);
  check(found, "d_head ", d_head, " was not instantiated for the device; this build has",
        text(" ", Width)...);
}

/// The rows of a host matrix (any, inner) in device memory, arranged by `source` and scaled by `gain` (empty:
/// 1); see cuda/pack_rows.hpp.
template <class T, class Device>
cuda::DeviceArray<T, Device> packed_rows(Device& device, std::span<const T> matrix, std::int64_t inner,
                                         const std::vector<int>& source, const std::vector<float>& gain) {
  const cuda::DeviceArray<T, Device> rows(device, matrix);
  const cuda::DeviceArray<int, Device> order(device, source);
  const cuda::DeviceArray<float, Device> factors(device, gain);
  cuda::DeviceArray<T, Device> out(device, source.size() * static_cast<std::size_t>(inner));
  cuda::pack_rows<T, T>(device, static_cast<int>(source.size()),
                        {.weights = rows.data(),
                         .gain = gain.empty() ? nullptr : factors.data(),
                         .source = order.data(),
                         .out = out.data(),
                         .inner = static_cast<int>(inner)});
  device.synchronize();  // the host's copies go now
  return out;
}

template <class T>
std::span<const T> elements(const Linear<T>& matrix) {
  return {matrix.data(), static_cast<std::size_t>(matrix.size())};
}

}  // namespace detail

/// One run of one layer.
template <class K, class Device>
struct DeviceRunWeights {
  using Mixer = typename K::Mixer;
  using Kernel = cuda::MixerKernel<Mixer>;
  static_assert(
      requires { Kernel::targets; },
      "recurformer: a kind of this model has a mixer without kernels for a device; include the "
      "header that has them, or leave the model to rf::Cpu");
  template <class T>
  using Array = cuda::DeviceArray<T, Device>;

  template <class Widths>
  DeviceRunWeights(Device& device, const RunWeights<K>& host, const HeadShape& shape, Widths widths,
                   int target)
      : mixer(host.mixer),
        groups(static_cast<int>(host.groups.size())),
        first_target(target),
        members(host.groups),
        group_index(device, host.groups),
        prepared(device, 0) {
    for (const auto& values : host.local) local.emplace_back(device, values);
    if (groups == 0) return;
    detail::with_device_width(widths, shape.d_head, [&](auto d_head) {
      constexpr int D = d_head;
      prepared = Array<float>(device, Kernel::template prepared_size<D>(shape, groups));
      Kernel::template prepare<D>(device, shape, groups, local_pointers(), prepared.data());
    });
  }

  std::vector<const float*> local_pointers() const {
    std::vector<const float*> out;
    for (const auto& values : local) out.push_back(values.data());
    return out;
  }

  Mixer mixer;
  int groups;
  int first_target;          ///< of the layer's projection targets
  std::vector<int> members;  ///< the layer's index of each group
  Array<int> group_index;    ///< the same on the device
  std::vector<Array<float>> local;
  Array<float> prepared;
};

template <class Set, class P, class Device>
class DeviceLayerWeights;

/// One layer.
template <class... K, class P, class Device>
class DeviceLayerWeights<Kinds<K...>, P, Device> {
 public:
  using T = typename P::Weight;
  static_assert(
      sizeof(T) == 2 && std::same_as<PackedWeight<P>, T> &&
          ((std::same_as<typename K::Precision::Weight, T> && std::same_as<typename K::Precision::Cache, T> &&
            std::same_as<PackedWeight<typename K::Precision>, T> &&
            std::same_as<typename K::Precision::State, float>)&&...),
      "recurformer: on a device all kinds and the layer share one 16-bit type for weights and cache (bf16 or "
      "fp16), and states are float; 8-bit integers are for the CPU");
  template <class E>
  using Array = cuda::DeviceArray<E, Device>;

  template <class Widths>
  DeviceLayerWeights(Device& device, const LayerWeights<Kinds<K...>, P>& host, const LayerShape& shape,
                     Widths widths)
      : DeviceLayerWeights(device, host, shape, widths, projection_of(host, shape.head_shape())) {}

  /// Calls f(index of the run, run) for every run, empty ones included. The index is a constant, convertible
  /// to std::size_t.
  template <class F>
  void for_each_run(F&& f) const {
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      (f(std::integral_constant<std::size_t, I>{}, std::get<I>(runs_)), ...);
    }
    (std::index_sequence_for<K...>{});
  }

  int projection_columns = 0;
  int target_count = 0;
  Array<T> projection;  ///< (projection_columns, d_model)
  Array<float> bias;    ///< (projection_columns), or empty
  Array<cuda::ProjectionUnit> units;
  Array<T> output;   ///< W_O (d_model, heads · d_head)
  Array<T> gate_up;  ///< (.., d_model)
  Array<T> down;     ///< (d_model, d_ff)

 private:
  /// The fused projection of all runs on the host.
  struct HostProjection {
    cuda::ProjectionLayout layout;
    std::vector<T> rows;
    std::vector<float> bias;  // of the rows; empty if no run has one
    std::vector<int> first_target;
    int targets = 0;
  };

  static HostProjection projection_of(const LayerWeights<Kinds<K...>, P>& host, const HeadShape& shape) {
    HostProjection out;
    bool any_bias = false;
    host.for_each_run([&](std::size_t, const auto& run) { any_bias |= !run.bias.empty(); });
    int first_row = 0;
    host.for_each_run([&]<class Kind>(std::size_t, const RunWeights<Kind>& run) {
      using Kernel = cuda::MixerKernel<typename Kind::Mixer>;
      out.first_target.push_back(out.targets);
      if (run.groups.empty()) return;
      const auto groups = static_cast<int>(run.groups.size());
      Kernel::add_projection(run.mixer, shape, groups, out.targets, first_row, out.layout);
      const auto rows = detail::elements(run.projection);
      out.rows.insert(out.rows.end(), rows.begin(), rows.end());
      first_row += static_cast<int>(run.projection.out());
      if (any_bias) {
        out.bias.insert(out.bias.end(), run.bias.begin(), run.bias.end());
        out.bias.resize(static_cast<std::size_t>(first_row), 0.0f);
      }
      out.targets += Kernel::targets;
    });
    return out;
  }

  template <class Widths>
  DeviceLayerWeights(Device& device, const LayerWeights<Kinds<K...>, P>& host, const LayerShape& shape,
                     Widths widths, const HostProjection& fused)
      : projection_columns(fused.layout.columns()),
        target_count(fused.targets),
        projection(detail::packed_rows<T>(device, fused.rows, shape.d_model, fused.layout.source_rows(),
                                          host.mixer_norm)),
        bias(device, fused.bias.empty() ? std::vector<float>{} : fused.layout.arranged_bias(fused.bias)),
        units(device, fused.layout.units()),
        output(device, detail::elements(host.output)),
        gate_up(shape.d_ff == 0
                    ? Array<T>(device, 0)
                    : detail::packed_rows<T>(device, detail::elements(host.gate_up), shape.d_model,
                                             cuda::gate_up_rows(shape.d_ff), host.mlp_norm)),
        down(device, detail::elements(host.down)),
        runs_(make_runs(device, host, shape, widths, fused, std::index_sequence_for<K...>{})) {
    device.synchronize();
  }

  template <class Widths, std::size_t... I>
  static auto make_runs(Device& device, const LayerWeights<Kinds<K...>, P>& host, const LayerShape& shape,
                        Widths widths, const HostProjection& fused, std::index_sequence<I...>) {
    return std::tuple<DeviceRunWeights<K, Device>...>(DeviceRunWeights<K, Device>(
        device, std::get<I>(host.runs), shape.head_shape(), widths, fused.first_target[I])...);
  }

  std::tuple<DeviceRunWeights<K, Device>...> runs_;
};

/// The parameters of a model beside those of its layers.
template <class T, class Device>
struct DeviceVocabulary {
  /// Copies host weights, which are not packed, to the device.
  template <class Set, class P>
  DeviceVocabulary(Device& device, const ModelWeights<Set, P>& host)
      : embedding(device, detail::elements(host.embedding)),
        head(detail::packed_rows<T>(device, detail::elements(host.logits()), host.shape.layer.d_model,
                                    all_rows(host.shape.vocabulary), host.final_norm)) {
    check(host.shape.vocabulary % 8 == 0, "on a device the vocabulary, ", host.shape.vocabulary,
          ", must be a multiple of 8");
  }

  cuda::DeviceArray<T, Device> embedding;  ///< (vocabulary, d_model)
  cuda::DeviceArray<T, Device> head;       ///< the same or lm_head, with the final norm's gain

 private:
  static std::vector<int> all_rows(int count) {
    std::vector<int> out(static_cast<std::size_t>(count));
    for (int i = 0; i < count; ++i) out[static_cast<std::size_t>(i)] = i;
    return out;
  }
};

}  // namespace rf

#endif  // RECURFORMER_MODEL_DEVICE_WEIGHTS_HPP
