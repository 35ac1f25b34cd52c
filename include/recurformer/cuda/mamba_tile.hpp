#ifndef RECURFORMER_CUDA_MAMBA_TILE_HPP
#define RECURFORMER_CUDA_MAMBA_TILE_HPP

// How a block works on one Mamba head: a tile of tokens at a time, in shared memory,
//
//   parameters    as prepared, up to the decays          float, once per block
//   coefficients  (tokens, columns)  C | B | δ           float
//   u             (tokens, d_head)   then the output y   float, rows padded by 16 bytes
//   delta         (tokens, d_head)   Δ                   float, rows padded by 16 bytes
//   halo          2 × (past, d_head)                     float: inputs before this tile's, and the next's
//   x, z          (tokens, d_head)                       as stored
//
// and the states of the scan in registers: thread (channel, lane) holds every state n with
// n / states_per_lane = lane, the lanes of a channel being neighbours.

#include <cstdint>

#include "recurformer/arch/arch.hpp"
#include "recurformer/cuda/mamba_math.hpp"
#include "recurformer/cuda/mamba_parameters.hpp"
#include "recurformer/cuda/work_item.hpp"

namespace rf::cuda::mamba {

namespace detail {

/// Threads that share the states of one channel: `wanted`, or as many as there are threads for, but enough
/// that registers hold 16 states at most.
constexpr int lanes_per_channel(int padded_states, int wanted, int most) {
  int lanes = wanted < most ? wanted : most;
  while (padded_states / lanes > 16) lanes *= 2;
  return lanes;
}

/// Threads that share a dot product over d_head channels, so that `tasks` dot products occupy the block.
constexpr int projection_lanes(int tasks, int threads, int d_head) {
  int lanes = 1;
  while (lanes < 8 && tasks * lanes * 2 <= threads && d_head % (8 * lanes) == 0) lanes *= 2;
  return lanes;
}

/// Blocks per multiprocessor that leave a thread the registers that the scan and its projection need without
/// spilling: about 100, with 16 states 128. At least 4 warps per sub-partition keep its special-function unit
/// busy.
constexpr int resident_blocks(int threads, int states_per_lane) {
  const int resident = states_per_lane > 8 ? 512 : 640;
  return threads >= resident ? 1 : resident / threads;
}

}  // namespace detail

/// Many tokens per sequence: small redundancy, a tile's memory traffic hidden behind the one before it.
/// Threads: those of a block at most, unless the states need more.
template <class HeadType, class T, int Threads = 1024>
struct PrefillTile {
  using Head = HeadType;
  using Value = T;
  static constexpr int wanted_lanes = Head::d_head <= 32 ? 4 : Head::d_head <= 128 ? 2 : 1;
  static constexpr int lanes =
      detail::lanes_per_channel(Head::padded_states, wanted_lanes, Threads / Head::d_head);
  static constexpr int threads = Head::d_head * lanes;
  static constexpr int blocks_per_multiprocessor =
      detail::resident_blocks(threads, Head::padded_states / lanes);
  static constexpr int tokens = Head::d_head <= 64 ? 32 : 16;  ///< of a tile
  static constexpr int step = lanes;  ///< tokens whose outputs are summed over the lanes together
  /// A thread of the projection computes this many tokens × 4 columns, with others over d_head.
  static constexpr int projection_tokens = 4;
  static constexpr int projection_lanes =
      detail::projection_lanes(tokens / projection_tokens * (Head::columns / 4), threads, Head::d_head);
};

/// One to eight tokens per sequence: as many threads as help. Threads: as for prefill.
template <class HeadType, class T, int Threads = 1024>
struct DecodeTile {
  using Head = HeadType;
  using Value = T;
  static constexpr int lanes =
      detail::lanes_per_channel(Head::padded_states, Head::d_head <= 128 ? 4 : 2, Threads / Head::d_head);
  static constexpr int threads = Head::d_head * lanes;
  static constexpr int blocks_per_multiprocessor =
      detail::resident_blocks(threads, Head::padded_states / lanes);
  static constexpr int most_tokens = Head::d_head <= 128 ? 8 : 4;  // d_head 256 in 99 KB of shared memory
  static constexpr int tokens = lanes > most_tokens ? lanes : most_tokens;
  static constexpr int step = 1;
  static constexpr int projection_tokens = 1;
  static constexpr int projection_lanes = detail::projection_lanes(Head::columns / 4, threads, Head::d_head);
};

inline namespace RECURFORMER_ARCH {

/// The shared memory of a block that works on tiles, from `base`, which is 16-byte aligned.
template <class Tile>
struct Shared {
  using Head = typename Tile::Head;
  using Value = typename Tile::Value;
  using Layout = ParameterLayout<Head>;
  static_assert(Tile::threads <= 1024 && Tile::threads % arch::warp_size == 0);
  static_assert(Tile::tokens % Tile::lanes == 0 && Tile::tokens % Tile::projection_tokens == 0);
  static_assert(Head::padded_states % Tile::lanes == 0);

  /// Floats from one row of u or delta to the next: 16 bytes more than a row, which spreads banks.
  static constexpr int stride = Head::d_head + 4;
  static constexpr int parameters_at = 0;
  static constexpr int coefficients_at = parameters_at + Layout::decay;
  static constexpr int u_at = coefficients_at + Tile::tokens * Head::columns;
  static constexpr int delta_at = u_at + Tile::tokens * stride;
  static constexpr int halo_at = delta_at + Tile::tokens * stride;
  static constexpr int floats = halo_at + 2 * Head::past * Head::d_head;
  static constexpr int value_bytes = Tile::tokens * Head::d_head * static_cast<int>(sizeof(Value));
  static constexpr int bytes = floats * static_cast<int>(sizeof(float)) + 2 * value_bytes;

  float* base;

  RECURFORMER_DEVICE explicit Shared(void* memory) : base(static_cast<float*>(memory)) {}
  RECURFORMER_DEVICE float* parameters(int offset) const { return base + parameters_at + offset; }
  RECURFORMER_DEVICE float* coefficients(int token) const {
    return base + coefficients_at + token * Head::columns;
  }
  RECURFORMER_DEVICE float* u(int token) const { return base + u_at + token * stride; }
  RECURFORMER_DEVICE float* delta(int token) const { return base + delta_at + token * stride; }
  RECURFORMER_DEVICE float* halo(int which) const {
    return base + halo_at + which * Head::past * Head::d_head;
  }
  RECURFORMER_DEVICE Value* x() const { return reinterpret_cast<Value*>(base + floats); }
  RECURFORMER_DEVICE Value* z() const { return x() + Tile::tokens * Head::d_head; }
};

/// Starts copying `count` floats, a multiple of 4, both sides 16-byte aligned.
template <int Threads>
RECURFORMER_DEVICE void copy_floats(float* to, const float* from, int count) {
  for (int i = 4 * arch::thread_index(); i < count; i += 4 * Threads)
    arch::copy_async<16>(arch::shared_address(to + i), from + i);
}

/// Starts copying `count` rows of one head, (count, d_head) in shared memory.
template <class Tile>
RECURFORMER_DEVICE void copy_rows(typename Tile::Value* to, const typename Tile::Value* from,
                                  std::int64_t stride, int count) {
  constexpr int wide = 16 / static_cast<int>(sizeof(typename Tile::Value));
  constexpr int pieces = Tile::Head::d_head / wide;
  RECURFORMER_ROLLED
  for (int i = arch::thread_index(); i < count * pieces; i += Tile::threads) {
    const int row = i / pieces, at = i % pieces * wide;
    arch::copy_async<16>(arch::shared_address(to + row * Tile::Head::d_head + at), from + row * stride + at);
  }
}

/// Count adjacent floats of shared memory, by 16-byte accesses where that divides them.
template <int Count>
RECURFORMER_DEVICE void load_floats(float (&out)[Count], const float* from) {
  if constexpr (Count % 4 == 0) {
    RECURFORMER_UNROLL
    for (int i = 0; i < Count; i += 4) {
      const Float4 four = *reinterpret_cast<const Float4*>(from + i);
      RECURFORMER_UNROLL
      for (int j = 0; j < 4; ++j) out[i + j] = four.value[j];
    }
  } else {
    RECURFORMER_UNROLL
    for (int i = 0; i < Count; ++i) out[i] = from[i];
  }
}

}  // namespace RECURFORMER_ARCH
}  // namespace rf::cuda::mamba

#endif  // RECURFORMER_CUDA_MAMBA_TILE_HPP
