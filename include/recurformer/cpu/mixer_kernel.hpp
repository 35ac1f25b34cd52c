#ifndef RECURFORMER_CPU_MIXER_KERNEL_HPP
#define RECURFORMER_CPU_MIXER_KERNEL_HPP

// The contract between a layer and the kernels of a mixer on the CPU. A layer projects its normalised input
// for all groups of a run at once, then hands the projected activations to
//
//   template <> struct rf::cpu::MixerKernel<MyMixer> {
//     // inference and training forward: new tokens of several sequences, from the cached past
//     template <class Precision, class Widths>
//     static void forward(const MyMixer&, const ForwardArguments&);
//     // floats that a training forward keeps for backward, for `groups` groups and `rows` tokens
//     static std::int64_t saved_size(const MyMixer&, const HeadShape&, std::int64_t groups,
//                                    std::span<const SequenceRows>);
//     // gradients; whole sequences from position 0, no cache
//     template <class Precision, class Widths>
//     static void backward(const MyMixer&, const BackwardArguments&);
//   };
//
// `Widths` is the std::integer_sequence of head widths to instantiate; with_d_head() picks the one at run
// time. A mixer of the user's own, written outside the library, specialises the same template.

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>

#include "recurformer/core/rows_view.hpp"
#include "recurformer/cpu/field_view.hpp"
#include "recurformer/cpu/rope.hpp"
#include "recurformer/spec/batch.hpp"
#include "recurformer/spec/cache_field.hpp"
#include "recurformer/spec/layer_shape.hpp"

namespace rf::cpu {

using rf::RowsView;

/// Asks attention for what the recency analysis needs, per query and head (see plan/analysis.hpp). Rows are
/// those of the batch; each array is (rows, heads of the layer) with rows `stride` apart, or null.
struct AttentionProbe {
  std::int64_t stride = 0;            ///< floats from one row of the arrays to the next
  std::int64_t window = 16;           ///< "recent": lags 0 <= i - j < window
  std::int64_t sink = 4;              ///< first positions counted as sinks
  float* recent_mass = nullptr;       ///< attention on recent positions
  float* sink_mass = nullptr;         ///< attention on sink positions
  float* recent_sink_mass = nullptr;  ///< attention on positions that are both
  float* log_sum_exp = nullptr;       ///< of the scaled scores, natural logarithm
};

/// What a mixer's forward gets. Rows of all matrices are the packed tokens of the batch.
struct ForwardArguments {
  HeadShape shape = {};
  std::span<const int> groups = {};              ///< the layer's group index of each group of the run
  std::span<const SequenceRows> sequences = {};  ///< the new tokens
  RowsView<float> projected = {};  ///< (rows, groups · projection_width); the kernel may overwrite it
  std::span<const float* const>
      local;  ///< local parameters in declared order, each (groups, units per group, slice)
  const float* query_norm = nullptr;  ///< (d_head), gain of the norm of every query; null without qk_norm
  const float* key_norm = nullptr;    ///< the same of every key
  const RopeTable* rope = nullptr;    ///< covers every position of the batch
  CacheView cache = {};      ///< past, and where to append; empty: sequences start here and nothing is kept
  RowsView<float> out = {};  ///< (rows, heads · d_head): group g writes columns groups[g] · group_width() …
  float* saved = nullptr;    ///< saved_size() floats for backward, or null
  const AttentionProbe* probe = nullptr;  ///< attention only
};

/// What a mixer's backward gets. Whole sequences: position is 0 and there was no cache.
struct BackwardArguments {
  HeadShape shape = {};
  std::span<const int> groups = {};
  std::span<const SequenceRows> sequences = {};
  RowsView<const float> projected = {};  ///< as forward left it
  std::span<const float* const> local = {};
  const float* query_norm = nullptr;
  const float* key_norm = nullptr;
  const RopeTable* rope = nullptr;
  const float* saved = nullptr;          ///< as forward wrote it
  RowsView<const float> out = {};        ///< forward's output
  RowsView<const float> d_out = {};      ///< (rows, heads · d_head), the layer's columns as in forward
  RowsView<float> d_projected = {};      ///< (rows, groups · projection_width), every element written
  std::span<float* const> d_local = {};  ///< added to
  float* d_query_norm = nullptr;         ///< (d_head), added to; null without qk_norm
  float* d_key_norm = nullptr;
};

/// Specialised once per mixer; see the top of this file.
template <class Mixer>
struct MixerKernel;

using rf::AllWidths;

/// Calls f(std::integral_constant<int, d_head>) for the one of Widths that equals d_head; an error lists the
/// others.
template <int... Width, class F>
void with_d_head(std::integer_sequence<int, Width...>, int d_head, F&& f) {
  const bool found = ((Width == d_head && (f(std::integral_constant<int, Width>{}), true)) || ...);
  check(found, "d_head ", d_head, " was not instantiated; this build has", text(" ", Width)...);
}

}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_MIXER_KERNEL_HPP
