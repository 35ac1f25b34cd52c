#ifndef RECURFORMER_CUDA_GEMM_EPILOGUE_HPP
#define RECURFORMER_CUDA_GEMM_EPILOGUE_HPP

// What becomes of the sums of a matrix product. The tiles of cuda/tensor_tile.hpp and cuda/few_rows_tile.hpp
// hand an epilogue sixteen columns of one row at a time, as two runs of eight
//
//   values[0..7]:   columns column .. column + 7         values[8..15]:   columns column + 32 .. column + 39
//
// where column % 64 is 0, 8, 16 or 24: neighbouring lanes write neighbouring 16 bytes, and whatever belongs
// together (gate and up, the two halves of a rotary pair) meets in one thread once the rows of W are arranged
// so that its partner is 32 columns on. An epilogue is
//
//   struct Epilogue {
//     using Part = …;                                         // NoPart, or what it returns per row
//     Part store(int row, int column, const float (&values)[16]) const;
//     void store_part(int row, int part, Part) const;         // if Part::exists: that of a block of columns
//     int parts() const;                                      // likewise: what it has room for per row
//   };
//
// and is called for rows and columns of the product only, though a run of eight may lie past the last column.
// A part covers 64 columns of a tensor tile, or 16 of a few-rows tile.

#include <cstdint>

#include "recurformer/arch/math.hpp"
#include "recurformer/arch/warp.hpp"
#include "recurformer/core/rows_view.hpp"
#include "recurformer/cuda/gemm_operands.hpp"
#include "recurformer/cuda/packed_elements.hpp"

namespace rf::cuda {

/// Columns between the two runs of eight that a thread holds.
inline constexpr int partner_distance = 32;
/// Columns in which every column has its partner.
inline constexpr int partner_block = 2 * partner_distance;

/// For epilogues that return nothing.
struct NoPart {
  static constexpr bool exists = false;
};

/// A sum over columns.
struct SumPart {
  static constexpr bool exists = true;
  float value = 0;

  /// The sum of this lane's part and that of the lane whose index differs in `bits`.
  RECURFORMER_DEVICE SumPart with_lane(int bits) const { return {value + arch::shuffle_xor(value, bits)}; }
};

/// The largest value and where it is; the lowest column among equals. NaN is never the largest. Starts out as
/// what every column beats.
struct MaxPart {
  static constexpr bool exists = true;
  float value = arch::minus_infinity();
  int column = 0x7fffffff;

  RECURFORMER_DEVICE static MaxPart larger(MaxPart a, MaxPart b) {
    return b.value > a.value || (b.value == a.value && b.column < a.column) ? b : a;
  }
  RECURFORMER_DEVICE MaxPart with_lane(int bits) const {
    return larger(*this, {arch::shuffle_xor(value, bits), arch::shuffle_xor(column, bits)});
  }
};

inline namespace RECURFORMER_ARCH {

/// out = values (+ bias). out (rows, columns), bias (columns) or null.
template <class T>
struct Store {
  using Part = NoPart;
  RowsView<T> out = {};
  int columns = 0;
  const float* bias = nullptr;

  RECURFORMER_DEVICE NoPart store(int row, int column, const float (&values)[16]) const {
    RECURFORMER_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int first = column + half * partner_distance;
      if (first >= columns) continue;
      float sums[8];
      RECURFORMER_UNROLL
      for (int i = 0; i < 8; ++i) sums[i] = values[8 * half + i] + (bias ? bias[first + i] : 0.0f);
      store_eight(out.row(row) + first, sums);
    }
    return {};
  }
};

/// x += values, and the sums of squares of the new x (as rounded), in parts.
template <class T>
struct Residual {
  using Part = SumPart;
  RowsView<T> x = {};  ///< (rows, columns)
  int columns = 0;
  RowSums sums = {};

  RECURFORMER_DEVICE SumPart store(int row, int column, const float (&values)[16]) const {
    SumPart squares;
    RECURFORMER_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int first = column + half * partner_distance;
      if (first >= columns) continue;
      T* at = x.row(row) + first;
      float eight[8];
      unpack_eight<T>(load_words(at), eight);
      RECURFORMER_UNROLL
      for (int i = 0; i < 8; ++i) eight[i] += values[8 * half + i];
      const arch::Words4 rounded = pack_eight<T>(eight);
      *reinterpret_cast<arch::Words4*>(at) = rounded;
      unpack_eight<T>(rounded, eight);
      RECURFORMER_UNROLL
      for (int i = 0; i < 8; ++i) squares.value += eight[i] * eight[i];
    }
    return squares;
  }
  RECURFORMER_DEVICE void store_part(int row, int part, SumPart sum) const {
    sums.data[std::int64_t{row} * sums.parts + part] = sum.value;
  }
  int parts() const { return sums.parts; }
};

/// out = silu(gate) ∘ up, silu(g) = g / (1 + e^-g) (arXiv 2002.05202). Of every 64 columns of the product the
/// first 32 are gate, the others up (gate_up_rows in cuda/pack_rows.hpp).
template <class T>
struct SwiGlu {
  using Part = NoPart;
  RowsView<T> out = {};  ///< (rows, columns)
  int columns = 0;       ///< d_ff, a multiple of 8; half the product's

  RECURFORMER_DEVICE NoPart store(int row, int column, const float (&values)[16]) const {
    constexpr float log2_e = 1.44269504088896341f;
    const int first = column / partner_block * partner_distance + column % partner_block;
    if (first >= columns) return {};
    float act[8];
    RECURFORMER_UNROLL
    for (int i = 0; i < 8; ++i)
      act[i] = values[i] * arch::reciprocal(1.0f + arch::exp2(-log2_e * values[i])) * values[8 + i];
    store_eight(out.row(row) + first, act);
    return {};
  }
};

}  // namespace RECURFORMER_ARCH
}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_GEMM_EPILOGUE_HPP
