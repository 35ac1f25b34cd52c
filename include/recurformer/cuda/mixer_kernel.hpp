#ifndef RECURFORMER_CUDA_MIXER_KERNEL_HPP
#define RECURFORMER_CUDA_MIXER_KERNEL_HPP

// The contract between a layer and the kernels of a mixer on a device, the twin of cpu/mixer_kernel.hpp. A
// layer projects its normalised input for all runs in one launch (cuda/projections.hpp); where each run's
// columns go, and what happens then, is the mixer's:
//
//   template <> struct rf::cuda::MixerKernel<MyMixer> {
//     // matrices or caches that its projected columns are written to
//     static constexpr int targets = …;
//     // elements per row of matrix `target`, a multiple of 8; 0: the pages of a cache field
//     static std::int64_t target_width(const MyMixer&, const HeadShape&, int groups, int target);
//     // the cache field whose pages target `target` are; only where target_width is 0
//     static std::size_t target_field(int target);
//     // adds the columns of all groups: rows [first_row, …) of the weights, targets [first_target, …)
//     static void add_projection(const MyMixer&, const HeadShape&, int groups, int first_target,
//                                int first_row, ProjectionLayout&);
//     // floats that prepare() makes of the local parameters, once per set of weights
//     template <int D> static std::size_t prepared_size(const HeadShape&, int groups);
//     template <int D, class Device>
//     static void prepare(Device&, const HeadShape&, int groups, std::span<const float* const> local,
//                         float* prepared);
//     // the heads: how they are cut into work items, and what a launch of these gets (cuda/work_item.hpp),
//     // for many new tokens per sequence and for at most most_decode_rows; blocks have `Threads` threads
//     template <int D> static constexpr int prefill_threads = …;  // blocks must have so many at least
//     template <int D, class T, int Threads> struct Prefill {
//       using Work = …;
//       static constexpr bool fills_gaps = …;  // planned after the others: knows their cost
//       struct Plan { int shared_bytes; … };   // depends on the batch, not on the layer
//       template <class Device>
//       static Plan plan(WorkPlanner<Device>&, const MyMixer&, const HeadShape&, int groups);
//       template <class Device>
//       static typename Work::Parameters bind(WorkBinder<Device>&, const MyMixer&, const DeviceRun<T>&,
//                                             const Plan&);
//     };
//     template <int D, class T, int Threads> struct Decode { the same };
//   };
//
// For Hopper, at d_head 64 and 128, a mixer may plan a work that is written for its warpgroups
// (cuda/sm90/heads.hpp), and a launch of its own for layers that have no other heads; bind() then gets a Plan
// that plan() has not made:
//
//     template <int D, class T> struct PrefillSm90 {
//       …                                           // as Prefill
//       using ItemsAlone = …;
//       static ItemsAlone plan_alone(WorkPlanner<Device>&, const MyMixer&, const HeadShape&, int groups);
//       static void launch_alone(Device&, const typename Work::Parameters&, const ItemsAlone&);
//     };
//
// A mixer that reuses attention's weights shows its attention to the analysis (plan/device_analysis.hpp):
//
//     template <class Device, class T>
//     static AttentionParameters<…> attention(WorkBinder<Device>&, const MyMixer&, const DeviceRun<T>&);
//
// Rollback needs nothing of a mixer but what follows from its cache fields. The heads of one that declares a
// state may be planned for part of a call's tokens, the others in a later launch (a sequence's first_row is
// then not the sum of the rows before it), and again over tokens that were read before, from an older state,
// with the matrices as the projection had left them. So they must only read their matrices, and keep
// everything they remember in the cache.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "recurformer/core/rows_view.hpp"
#include "recurformer/cuda/call_memory.hpp"
#include "recurformer/cuda/projections.hpp"
#include "recurformer/cuda/work_list.hpp"
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
  std::int64_t capacity = 0;     ///< ring: slots after the sink, at least the window

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
  std::vector<const float*> local = {};               ///< local parameters in declared order
  const float* prepared = nullptr;                    ///< what prepare() made of them
  std::vector<DeviceField> fields = {};               ///< in declared order
  RowsView<T> out = {};                               ///< (rows, heads of the layer · d_head)
};

/// What a mixer plans with: it adds its items to the list.
template <class Device>
struct WorkPlanner {
  const DeviceBatch& batch;
  WorkList& list;
  CallMemory<Device>& memory;     ///< for what items leave each other
  UploadMemory<Device>& uploads;  ///< for what they read
  Device& device;
  int blocks;  ///< of the launch that run at once
};

/// What a mixer makes the parameters of a launch with. Counters taken from the list with take_counters() are
/// counters[index] here.
template <class Device>
struct WorkBinder {
  const DeviceBatch& batch;
  UploadMemory<Device>& uploads;
  unsigned* counters;
};

/// Specialised once per mixer; see the top of this file.
template <class Mixer>
struct MixerKernel;

/// At most so many new tokens per sequence make a call a decode.
inline constexpr std::int64_t most_decode_rows = 8;

/// Threads of the blocks that decode.
inline constexpr int decode_threads = 256;

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_MIXER_KERNEL_HPP
