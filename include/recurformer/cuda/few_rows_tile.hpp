#ifndef RECURFORMER_CUDA_FEW_ROWS_TILE_HPP
#define RECURFORMER_CUDA_FEW_ROWS_TILE_HPP

// A tile of C = A Wᵀ where A has few rows (decoding, up to 32 tokens) and reading W is all the time there is:
// 16 columns per block, so that small layers fill the machine, and inner split over the block's eight warps.
//
// Weights are the 16-row operand of mma.m16n8k16, tokens its 8 columns. Nothing passes through shared memory:
// a sum does not care for the order of its terms, so lane t of a quad takes the elements 8 t .. 8 t + 7 of 32
// neighbours along inner, 16 bytes at once, and calls them elements 2t, 2t + 1, 2t + 8, 2t + 9 of two
// products. The weights of four such steps are in flight while four others are multiplied, and the first
// four are asked for before the tile waits for its rows. The warps' sums are added in the order of warps.
//
// Floor: 2 · inner · columns bytes.

#include <cstdint>

#include "recurformer/arch/barrier.hpp"
#include "recurformer/arch/matrix.hpp"
#include "recurformer/arch/memory.hpp"
#include "recurformer/arch/thread.hpp"
#include "recurformer/cuda/gemm_epilogue.hpp"
#include "recurformer/cuda/gemm_operands.hpp"
#include "recurformer/cuda/packed_elements.hpp"

namespace rf::cuda {
inline namespace RECURFORMER_ARCH {

/// A tile of 8·Eights rows, Eights 1, 2 or 4.
template <class T, int Eights>
class FewRowsTile {
 public:
  using Element = T;
  static constexpr int rows = 8 * Eights;
  static constexpr int columns = 16;
  static constexpr int part_columns = 16;
  static constexpr int threads = 256;
  static constexpr int blocks_per_multiprocessor = Eights < 4 ? 2 : 1;
  static constexpr int shared_bytes = (threads / 32 * rows * 16 + rows * 16 + rows) * 4;

  /// As TensorTile::run; the tile's columns are 8 and their partners.
  template <class Rows, class Norm, class Wait, class Epilogue>
  RECURFORMER_DEVICE static void run(const GemmOperands<Rows>& operands, const Norm& norm, int row_tile,
                                     int column_tile, const Wait& wait, const Epilogue& epilogue) {
    float* factors = arch::shared_memory<float>() + (warps + 1) * rows * 16;
    const int first_row = row_tile * rows;
    const int column =
        column_tile / (partner_distance / 8) * partner_block + column_tile % (partner_distance / 8) * 8;
    float sums[Eights][4] = {};
    multiply(operands, first_row, column, sums, [&] {
      wait();
      if constexpr (Norm::scales) write_row_factors<threads, rows>(operands, norm, first_row, factors);
    });
    add_warps(sums);
    const int local_row = arch::thread_index(), row = first_row + local_row;
    if (local_row >= rows || row >= operands.rows.count) return;
    float factor = 1;
    if constexpr (Norm::scales) factor = factors[local_row];
    const float* total = arch::shared_memory<float>() + warps * rows * 16 + local_row * 16;
    float values[16];
    RECURFORMER_UNROLL
    for (int i = 0; i < 16; ++i) values[i] = total[i] * factor;
    typename Epilogue::Part part{};  // of columns beyond the last: nothing
    if (column < operands.columns) part = epilogue.store(row, column, values);
    if constexpr (Epilogue::Part::exists) epilogue.store_part(row, column_tile, part);
  }

 private:
  static constexpr int warps = threads / arch::warp_size;
  static constexpr int steps = 4;                    // in flight per warp
  static constexpr int step_depth = 32;              // elements along inner
  static constexpr int stride = warps * step_depth;  // from one step of a warp to its next

  struct Weights {
    arch::Words4 of[steps][2];  // rows g and g + 8 of the product's 16
  };
  struct Tokens {
    arch::Words4 of[steps][Eights];
  };

  RECURFORMER_DEVICE static arch::Words4 zeros() { return {{0, 0, 0, 0}}; }

  /// The weights of four steps from `inner_first` on; rows are null where there is no such column.
  RECURFORMER_DEVICE static Weights load_weights(const T* const (&row)[2], int inner_first, int inner) {
    Weights out;
    RECURFORMER_UNROLL
    for (int s = 0; s < steps; ++s) RECURFORMER_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int at = inner_first + s * stride;
      out.of[s][half] = row[half] && at < inner
                            ? arch::load_read_only(reinterpret_cast<const arch::Words4*>(row[half] + at))
                            : zeros();
    }
    return out;
  }
  RECURFORMER_DEVICE static Tokens load_tokens(const T* const (&row)[Eights], int inner_first, int inner) {
    Tokens out;
    RECURFORMER_UNROLL
    for (int s = 0; s < steps; ++s) RECURFORMER_UNROLL
    for (int e = 0; e < Eights; ++e) {
      const int at = inner_first + s * stride;
      out.of[s][e] = row[e] && at < inner ? load_words(row[e] + at) : zeros();
    }
    return out;
  }

  RECURFORMER_DEVICE static void multiply_steps(float (&sums)[Eights][4], const Weights& weights,
                                                const Tokens& tokens) {
    RECURFORMER_UNROLL
    for (int s = 0; s < steps; ++s) RECURFORMER_UNROLL
    for (int half = 0; half < 4; half += 2) {
      const auto &low = weights.of[s][0].word, &high = weights.of[s][1].word;
      const std::uint32_t a[4] = {low[half], high[half], low[half + 1], high[half + 1]};
      RECURFORMER_UNROLL
      for (int e = 0; e < Eights; ++e)
        arch::multiply_add_16x8x16<T>(sums[e], a, tokens.of[s][e].word[half], tokens.of[s][e].word[half + 1]);
    }
  }

  /// This warp's terms of the 16 columns times the tile's rows.
  template <class Operands, class Prepare>
  RECURFORMER_DEVICE static void multiply(const Operands& operands, int first_row, int column,
                                          float (&sums)[Eights][4], Prepare&& prepare) {
    const int lane = arch::lane_index(), inner = operands.inner;
    const T* weight_row[2];
    RECURFORMER_UNROLL
    for (int half = 0; half < 2; ++half) {
      const std::int64_t c = column + half * partner_distance + lane / 4;
      weight_row[half] = c < operands.columns ? operands.weights + c * inner : nullptr;
    }
    int at = arch::warp_index() * step_depth + lane % 4 * 8;
    Weights weights = load_weights(weight_row, at, inner);
    prepare();
    const T* token_row[Eights];
    RECURFORMER_UNROLL
    for (int e = 0; e < Eights; ++e) {
      const int row = first_row + 8 * e + lane / 4;
      token_row[e] =
          row < operands.rows.count ? operands.rows.matrix.row(operands.rows.source(row)) : nullptr;
    }
    const int rounds = (inner + steps * stride - 1) / (steps * stride);
    for (int round = 0; round < rounds; ++round, at += steps * stride) {
      const Tokens tokens = load_tokens(token_row, at, inner);
      const Weights next = load_weights(weight_row, at + steps * stride, inner);
      multiply_steps(sums, weights, tokens);
      weights = next;
    }
  }

  /// Leaves the sums over all warps in shared memory behind the warps' own, as (rows, 16).
  RECURFORMER_DEVICE static void add_warps(const float (&sums)[Eights][4]) {
    float* shared = arch::shared_memory<float>();  // (warps, rows, 16)
    const int lane = arch::lane_index();
    RECURFORMER_UNROLL
    for (int e = 0; e < Eights; ++e) RECURFORMER_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int row = 8 * e + lane % 4 * 2 + i % 2, column = lane / 4 + i / 2 * 8;
      shared[(arch::warp_index() * rows + row) * 16 + column] = sums[e][i];
    }
    arch::sync_threads();
    for (int at = arch::thread_index(); at < rows * 16; at += threads) {
      float sum = 0;
      RECURFORMER_UNROLL
      for (int w = 0; w < warps; ++w) sum += shared[w * rows * 16 + at];
      shared[warps * rows * 16 + at] = sum;
    }
    arch::sync_threads();
  }
};

}  // namespace RECURFORMER_ARCH
}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_FEW_ROWS_TILE_HPP
