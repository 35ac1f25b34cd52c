#ifndef RECURFORMER_BENCHMARKS_CUDA_SELECTIVE_SCAN_CUH
#define RECURFORMER_BENCHMARKS_CUDA_SELECTIVE_SCAN_CUH

// A batch of equal sequences for Mamba heads on the device.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "harness.cuh"
#include "locals.cuh"
#include "random_array.cuh"
#include "recurformer/cuda/mamba_parameters.hpp"
#include "recurformer/cuda/mamba_prefill.hpp"

namespace rf::benchmarks {

template <class Mixer, int D>
class ScanBatch {
 public:
  using Head = cuda::mamba::DimensionsOf<Mixer, D>;

  ScanBatch(std::int64_t tokens, int heads, int sequence_count)
      : heads_(heads),
        sequences_(make_sequences(tokens, sequence_count)),
        device_sequences_(on_device(sequences_)),
        group_index_(on_device(numbers(heads))),
        prepared_(gpu(), cuda::mamba::prepared_bytes<Head>(heads) / sizeof(float)),
        projected_(random_array<bf16>(tokens * sequence_count * 2 * columns())),
        out_(gpu(), static_cast<std::size_t>(tokens * sequence_count * columns())) {
    const auto local = local_parameters<Mixer>({.d_model = static_cast<int>(columns()), .d_head = D}, heads);
    std::vector<const float*> declared;
    for (const auto& values : local) declared.push_back(values.data());
    cuda::mamba::prepare<Head>(gpu(), cuda::mamba::local_parameters<Head>(declared), heads, prepared_.data());
    gpu().synchronize();  // the local parameters go now
  }

  const std::vector<SequenceRows>& sequences() const { return sequences_; }

  cuda::mamba::Arguments<bf16> arguments() const {
    return {.sequences = device_sequences_.data(),
            .sequence_count = static_cast<int>(sequences_.size()),
            .groups = heads_,
            .heads_per_group = 1,
            .projected = {projected_.data(), 2 * columns()},
            .out = {out_.data(), columns()},
            .group_index = group_index_.data(),
            .prepared = prepared_.data(),
            .states = nullptr};
  }

  /// d_state + 4 special functions per token and channel; x, z and the output once.
  Work work() const {
    const auto channels = static_cast<double>(out_.size());
    return {.bytes = channels * 3 * sizeof(bf16), .exponentials = channels * (Head::states + 4)};
  }

 private:
  std::int64_t columns() const { return std::int64_t{heads_} * D; }

  static std::vector<SequenceRows> make_sequences(std::int64_t tokens, int count) {
    std::vector<SequenceRows> out;
    for (int s = 0; s < count; ++s) out.push_back({.first_row = s * tokens, .rows = tokens});
    return out;
  }
  static std::vector<int> numbers(int count) {
    std::vector<int> out;
    for (int i = 0; i < count; ++i) out.push_back(i);
    return out;
  }

  int heads_;
  std::vector<SequenceRows> sequences_;
  DeviceArray<SequenceRows> device_sequences_;
  DeviceArray<int> group_index_;
  DeviceArray<float> prepared_;
  DeviceArray<bf16> projected_, out_;
};

}  // namespace rf::benchmarks

#endif  // RECURFORMER_BENCHMARKS_CUDA_SELECTIVE_SCAN_CUH
