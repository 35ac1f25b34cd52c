#ifndef RECURFORMER_CUDA_MIXER_KERNEL_HPP
#define RECURFORMER_CUDA_MIXER_KERNEL_HPP

// The contract between a layer and the kernels of a mixer on a device, the twin of cpu/mixer_kernel.hpp. A
// layer projects its normalised input for all runs in one launch (cuda/projections.hpp); where each run's
// columns go, and what happens then, is the mixer's:
//
//   template <> struct rf::cuda::MixerKernel<MyMixer> {
//     static constexpr int targets = …;      // matrices or caches that its projected columns are written to
//     // elements per row of matrix `target`, a multiple of 8; 0: the pages of a cache field, see field()
//     static std::int64_t target_width(const MyMixer&, const HeadShape&, int groups, int target);
//     // the cache field whose pages target `target` are; only where target_width is 0
//     static std::size_t target_field(int target);
//     // adds the columns of all groups: rows [first_row, …) of the weights, targets [first_target, …)
//     static void add_projection(const MyMixer&, const HeadShape&, int groups, int first_target, int
//     first_row,
//                                ProjectionLayout&);
//     // floats that prepare() makes of the local parameters, once per set of weights
//     template <int D> static std::size_t prepared_size(const HeadShape&, int groups);
//     template <int D, class Device> static void prepare(Device&, const HeadShape&, int groups,
//                                                        std::span<const float* const> local, float*
//                                                        prepared);
//     // the heads: from what was projected, and the past, to the run's columns of `out`
//     template <int D, class T, class Device>
//     static void forward(Device&, CallMemory<Device>&, const MyMixer&, const DeviceBatch&, const
//     DeviceRun<T>&);
//   };

#include <cstddef>
#include <cstdint>
#include <span>

#include "recurformer/core/rows_view.hpp"
#include "recurformer/cuda/call_memory.hpp"
#include "recurformer/cuda/projections.hpp"
#include "recurformer/spec/batch.hpp"
#include "recurformer/spec/layer_shape.hpp"

namespace rf::cuda {

/// What all layers of a call share. Spans are the host's, pointers the device's.
struct DeviceBatch {
  std::span<const SequenceRows> sequences = {};
  const SequenceRows* device_sequences = nullptr;
  std::int64_t rows = 0;            ///< of all sequences
  std::int64_t longest = 0;         ///< the most rows of one sequence
  std::span<const int> slots = {};  ///< which sequence of the cache each one is
  const int* device_slots = nullptr;
  const int* pages = nullptr;  ///< (sequences, pages_per_sequence)
  int pages_per_sequence = 0;
  RotaryTable rope = {};

  int count() const { return static_cast<int>(sequences.size()); }
};

/// One declared cache field of a run: a pool of pages, or one block per sequence of the cache.
struct DeviceField {
  std::byte* data = nullptr;
  std::int64_t block_bytes = 0;  ///< from the ring or state of one sequence of the cache to the next

  /// The ring or state of sequence `slot` of the cache.
  template <class T>
  T* block(int slot) const {
    return reinterpret_cast<T*>(data + slot * block_bytes);
  }
};

/// One run of one layer in a call. Spans are the host's, what they hold points to the device.
template <class T>
struct DeviceRun {
  HeadShape shape = {};
  int groups = 0;
  const int* group_index = nullptr;                   ///< (groups): the layer's index of each group
  std::span<const ProjectionTarget<T>> targets = {};  ///< as the projection has filled them
  std::span<const float* const> local = {};           ///< local parameters in declared order
  const float* prepared = nullptr;                    ///< what prepare() made of them
  std::span<const DeviceField> fields = {};           ///< in declared order
  RowsView<T> out = {};                               ///< (rows, heads of the layer · d_head)
};

/// Specialised once per mixer; see the top of this file.
template <class Mixer>
struct MixerKernel;

/// At most so many new tokens per sequence make a call a decode.
inline constexpr std::int64_t most_decode_rows = 8;

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_MIXER_KERNEL_HPP
