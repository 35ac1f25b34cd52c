#ifndef RECURFORMER_CUDA_MAMBA_DIMENSIONS_HPP
#define RECURFORMER_CUDA_MAMBA_DIMENSIONS_HPP

// What the CUDA kernels of Mamba heads (arXiv 2312.00752) know at compile time, and what they are given at
// run time. reference/mamba.hpp has the equations. Kernels are templates over Dimensions<…>, a type made of
// scalars, because a kernel's name may contain no struct values; the Mixer of spec/mamba.hpp becomes one
// through DimensionsOf<Mixer, d_head>.

#include <cstdint>

#include "recurformer/core/rows_view.hpp"
#include "recurformer/math/activation.hpp"
#include "recurformer/spec/batch.hpp"
#include "recurformer/spec/mamba.hpp"

namespace rf::cuda::mamba {

/// The sizes and policies of one head.
template <int DHead, int DState, int DConv, int DtRank, Activation Act, Gate GateKind, bool Bias>
struct Dimensions {
  static_assert(DHead >= 16 && DHead % 16 == 0, "recurformer: heads are multiples of 16 channels");
  static_assert(DState >= 1 && DState <= 128, "recurformer: Mamba on CUDA has 1 to 128 states per channel");
  static_assert(DConv >= 2 && DConv <= 16, "recurformer: Mamba on CUDA has 2 to 16 taps");
  static_assert(DtRank >= 1 && DtRank <= 32, "recurformer: Mamba on CUDA has dt_rank 1 to 32");

  static constexpr int d_head = DHead;
  static constexpr int states = DState;
  static constexpr int taps = DConv;
  static constexpr int past = DConv - 1;  ///< inputs of the convolution before the current one
  static constexpr int rank = DtRank;
  static constexpr Activation activation = Act;
  static constexpr Gate gate = GateKind;
  static constexpr bool bias = Bias;

  /// States that the kernels compute with. Those beyond `states` have B = C = 0 and stay 0.
  static constexpr int state_multiple = DState > 64 ? 8 : 4;
  static constexpr int padded_states = (DState + state_multiple - 1) / state_multiple * state_multiple;
  /// The coefficients of a token: C (padded_states) | B (padded_states) | δ (rank) | zeros. C is first
  /// because a pass that only carries the state does without it.
  static constexpr int first_b = padded_states;
  static constexpr int first_delta = 2 * padded_states;
  static constexpr int columns = first_delta + (DtRank + 3) / 4 * 4;
};

/// The Dimensions of a Mamba of spec/mamba.hpp.
template <class Mixer, int d_head>
using DimensionsOf = Dimensions<d_head, Mixer::scan.d_state, Mixer::scan.d_conv,
                                rf::detail::mamba_dt_rank(Mixer::scan, Mixer::policy, d_head),
                                Mixer::policy.activation, Mixer::policy.gate, Mixer::policy.bias>;

/// What one sequence remembers, in the layout of the mixer's cache fields: device memory of the whole run.
struct SequenceState {
  float* conv = nullptr;  ///< (heads, d_conv - 1, d_head), oldest input first
  float* scan = nullptr;  ///< (heads, d_state, d_head)
};

/// What every kernel gets. Heads are those of the run: group · heads_per_group + head of the group. All
/// pointers are to device memory; rows of `projected` and `out` start at multiples of 16 bytes.
template <class T>
struct Arguments {
  const SequenceRows* sequences = nullptr;  ///< (sequence_count): the new tokens; less than 2^31 rows each
  int sequence_count = 0;
  int groups = 0;
  int heads_per_group = 1;
  /// (tokens, groups · 2 · heads_per_group · d_head): of every group x of its heads, then z of its heads
  RowsView<const T> projected = {};
  RowsView<T> out = {};                   ///< (tokens, heads of the layer · d_head)
  const int* group_index = nullptr;       ///< (groups): the layer's group whose columns of `out` are written
  const float* prepared = nullptr;        ///< the parameters as mamba_parameters.hpp lays them out
  const SequenceState* states = nullptr;  ///< (sequence_count), read and updated; null: start at 0, keep none

  RECURFORMER_HOST_DEVICE constexpr int heads() const { return groups * heads_per_group; }
};

}  // namespace rf::cuda::mamba

#endif  // RECURFORMER_CUDA_MAMBA_DIMENSIONS_HPP
