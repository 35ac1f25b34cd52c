#ifndef RECURFORMER_MODEL_DEVICE_CALL_HPP
#define RECURFORMER_MODEL_DEVICE_CALL_HPP

// One call of layers on a device: which tokens, and the activations that the layers share.

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "recurformer/core/rows_view.hpp"
#include "recurformer/cuda/call_memory.hpp"
#include "recurformer/cuda/gemm_operands.hpp"
#include "recurformer/cuda/mixer_kernel.hpp"
#include "recurformer/model/backend.hpp"
#include "recurformer/model/device_cache.hpp"
#include "recurformer/model/device_rollback.hpp"

namespace rf::detail {

/// A launch of recurrent heads per layer.
struct DeviceStage {
  RecurrentStage tokens;
  cuda::DeviceBatch batch;
};

/// What all layers of a call share. Pointers are the device's.
template <class T>
struct DeviceCall {
  std::vector<SequenceRows> sequences;
  std::vector<int> slots;
  cuda::DeviceBatch batch;
  std::vector<DeviceStage> stages;  // the other heads are launched with the first
  int rows = 0;
  RowsView<T> x;       // (rows, d_model)
  T* u = nullptr;      // (rows, heads · d_head)
  T* h = nullptr;      // (rows, d_ff)
  cuda::RowSums sums;  // of x
  cuda::RowPlace* places = nullptr;
};

/// The batch of these tokens, with what kernels read of it on its way to the device.
template <class Device>
cuda::DeviceBatch make_batch(std::span<const SequenceRows> sequences, std::span<const int> slots,
                             const DeviceCache<Device>& cache, const cuda::RotaryTable& rope,
                             cuda::UploadMemory<Device>& uploads) {
  cuda::DeviceBatch batch{.sequences = sequences,
                          .device_sequences = uploads.add(sequences),
                          .slots = slots,
                          .device_slots = uploads.add(slots),
                          .rope = rope};
  std::size_t most_pages = 1;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    batch.rows += sequences[i].rows;
    batch.longest = std::max(batch.longest, sequences[i].rows);
    most_pages = std::max(most_pages, cache.pages(slots[i]).size());
  }
  std::vector<int> pages(slots.size() * most_pages, 0);
  for (std::size_t i = 0; i < slots.size(); ++i)
    std::copy(cache.pages(slots[i]).begin(), cache.pages(slots[i]).end(),
              pages.begin() + static_cast<std::ptrdiff_t>(i * most_pages));
  batch.pages = uploads.add(pages);
  batch.pages_per_sequence = static_cast<int>(most_pages);
  return batch;
}

/// One stage of all tokens, unless the cache can be rolled back and a multiple lies between them.
template <class T, class Device>
std::vector<DeviceStage> make_stages(const DeviceCall<T>& call, const DeviceCache<Device>& cache,
                                     cuda::UploadMemory<Device>& uploads) {
  std::vector<DeviceStage> out;
  if (cache.max_rollback() > 0)
    for (auto& tokens : recurrent_stages(call.sequences, call.slots, cache.max_rollback()))
      out.push_back({.tokens = std::move(tokens), .batch = {}});
  if (out.size() <= 1) {
    out.resize(1);
    out[0].batch = call.batch;
  } else {
    for (DeviceStage& stage : out)
      stage.batch =
          make_batch<Device>(stage.tokens.sequences, stage.tokens.slots, cache, call.batch.rope, uploads);
  }
  return out;
}

}  // namespace rf::detail

#endif  // RECURFORMER_MODEL_DEVICE_CALL_HPP
