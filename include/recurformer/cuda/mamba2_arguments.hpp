#ifndef RECURFORMER_CUDA_MAMBA2_ARGUMENTS_HPP
#define RECURFORMER_CUDA_MAMBA2_ARGUMENTS_HPP

// What the kernels of Mamba2 (spec/mamba2.hpp) are given, prefill and decode alike, and the scalar functions
// they share. All pointers are the device's.

#include <cstdint>

#include "recurformer/arch/arch.hpp"
#include "recurformer/core/rows_view.hpp"
#include "recurformer/cuda/ssd_tile.hpp"
#include "recurformer/spec/batch.hpp"
#include "recurformer/spec/mamba2.hpp"

namespace rf::cuda {

/// What of an SsdPolicy changes the code, as scalars: kernels are templated on types without class-valued
/// parameters, which nvcc's host stubs do not survive.
template <bool Rope, bool Norm, Gate GateKind>
struct SsdTraits {
  static constexpr bool rope = Rope;
  static constexpr bool norm = Norm;
  static constexpr Gate gate = GateKind;
};
template <class Mixer>
using SsdTraitsOf = SsdTraits<Mixer::policy.rope, Mixer::policy.norm, Mixer::policy.gate>;

/// Mamba2's local parameters in declared order, fp32, each (groups, units per group, slice).
struct Mamba2Locals {
  const float* dt_bias = nullptr;    ///< (groups)
  const float* a_log = nullptr;      ///< (groups)
  const float* c0 = nullptr;         ///< (groups, queries)
  const float* c1 = nullptr;         ///< (groups, queries)
  const float* skip = nullptr;       ///< D, (groups, queries, d_head)
  const float* norm_gain = nullptr;  ///< (groups, queries, d_head); only with the norm
};

/// The states of a run: those of sequence i start at base + slots[i] · slot_stride and are, as in the cache
/// of the CPU, (groups, d_head + 1, d_head) floats: d_head rows of s, then r.
struct Mamba2States {
  float* base = nullptr;         ///< 16-byte aligned; null: sequences start from zero and nothing is kept
  const int* slots = nullptr;    ///< one per sequence, no two alike
  std::int64_t slot_stride = 0;  ///< floats, a multiple of 4
};

/// One run's share of a forward call. T: bf16, fp16 or float.
template <class T>
struct Mamba2Arguments {
  /// (rows, …): the columns of group g, q (queries · d_head) | k | v | z (queries · d_head) | dt (1), start
  /// at g · group_stride. Fastest if data is 16-byte aligned and both strides are multiples of 16 bytes,
  /// which is where a padded projection puts them.
  RowsView<const T> projected = {};
  std::int64_t group_stride = 0;     ///< elements, at least (2 · queries + 2) · d_head + 1
  RowsView<T> out = {};              ///< group g writes columns group_index[g] · queries · d_head …
  const int* group_index = nullptr;  ///< (groups): the layer's index of each group of the run
  const SequenceRows* sequences = nullptr;  ///< (sequence_count)
  int sequence_count = 0;
  std::int64_t longest = 0;  ///< the largest `rows` among the sequences
  int groups = 0;            ///< of the run
  int queries = 1;           ///< query heads of a group
  Mamba2Locals locals = {};
  RotaryTable rope = {};  ///< covers every position of the batch; only with rotary positions
  Mamba2States states = {};

  static RECURFORMER_HOST_DEVICE constexpr std::int64_t state_size(int d_head) {
    return std::int64_t{d_head + 1} * d_head;
  }
  /// The first column of a group in a row of `projected`.
  RECURFORMER_DEVICE const T* columns(std::int64_t row, int group) const {
    return projected.row(row) + group * group_stride;
  }
  /// Where the first head of a group is written.
  RECURFORMER_DEVICE T* outputs(std::int64_t row, int group, int d_head) const {
    return out.row(row) + std::int64_t{group_index[group]} * queries * d_head;
  }
  /// The state of one group of one sequence, or null.
  RECURFORMER_DEVICE float* state(int sequence, int group, int d_head) const {
    if (states.base == nullptr) return nullptr;
    return states.base + states.slots[sequence] * states.slot_stride + group * state_size(d_head);
  }
};

namespace detail {

inline constexpr float log2_e = 1.44269504088896341f;
inline constexpr float ln_2 = 0.693147180559945309f;

/// log(1 + e^x), relative error about 2^-20 also where it is tiny. log1p(u) = 2 artanh(u / (2 + u)), whose
/// argument is at most 1/3: eight terms.
RECURFORMER_DEVICE float ssd_softplus(float x) {
  const float u = arch::exp2(-(x < 0.0f ? -x : x) * log2_e);
  const float s = u / (2.0f + u), square = s * s;
  float sum = 1.0f / 15.0f;
  RECURFORMER_UNROLL
  for (int n = 13; n >= 1; n -= 2) sum = sum * square + 1.0f / static_cast<float>(n);
  return (x > 0.0f ? x : 0.0f) + 2.0f * s * sum;
}

/// The gate's value, by which an output is multiplied.
template <Gate gate>
RECURFORMER_DEVICE float ssd_gate(float z) {
  return (gate == Gate::silu ? z : 2.0f) * arch::reciprocal(1.0f + arch::exp2(-z * log2_e));
}

/// a · log2 e of a group, where a = -exp(A_log).
RECURFORMER_DEVICE float ssd_log2_rate(float a_log) { return -log2_e * arch::exp2(a_log * log2_e); }

}  // namespace detail
}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_MAMBA2_ARGUMENTS_HPP
