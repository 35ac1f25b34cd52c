#ifndef RECURFORMER_TILE_CUDA_TILE_HPP
#define RECURFORMER_TILE_CUDA_TILE_HPP

// CUDA's tiles and whole-tile verbs for attention, on the tensor cores of sm_80 (mma.m16n8k16, 16-bit
// operands, sums in float). A warp owns `Slabs` slabs of 16 rows; its lanes hold them as accumulator
// fragments (arch/matrix.hpp), so that a row is spread over the four lanes of a quad:
//
//   S (rows, keys)  =  Q (rows, d) Kᵀ          Q from registers or shared memory, K from shared memory
//   O (rows, d)    +=  P (rows, keys) V        P is S rounded to 16 bits in place: the accumulator layout of
//                                              one product is the operand layout of the next
//
//   FragmentRows<Slabs>                one float per row
//   Fragment<Slabs, Columns>           a matrix of floats
//   ScoreFragment<Slabs, Columns>      the same, together with the unit of its elements
//   SharedTile<T, Rows, Columns>       a matrix in shared memory, its 16-byte chunks swizzled
//   RegisterOperand, StoredOperand     the left factor of S
//
// Maxima are those of whole rows. Sums stay partial, of the columns a lane holds, until row_total(): all
// lanes of a quad scale theirs by the same factors, so one exchange at the end suffices.

#include <cstdint>

#include "recurformer/arch/arch.hpp"

namespace rf::tile {

/// Where the 16-byte chunks of a row-major matrix of 16-bit elements lie in shared memory, such that any
/// chunk of rows 8i … 8i + 7 covers all banks: ldmatrix then runs without conflicts. Rows narrower than 128
/// bytes, or no multiple of it, already differ in their upper bank bits; only the lower ones are permuted.
template <int Columns>
struct SwizzledLayout {
  static_assert(Columns % 16 == 0, "recurformer: tiles in shared memory have multiples of 16 columns");
  static constexpr int row_bytes = 2 * Columns;
  static constexpr int chunks = row_bytes / 16;  ///< of a row
  static constexpr int permuted = chunks % 8 == 0 ? 8 : chunks % 4 == 0 ? 4 : 2;
  static constexpr int rows_apart = 8 / permuted;

  /// Bytes from the tile's beginning, which is 128-byte aligned.
  RECURFORMER_HOST_DEVICE static constexpr int offset(int row, int chunk) {
    const auto lines = static_cast<unsigned>(row) / rows_apart;
    return row * row_bytes + (chunk ^ static_cast<int>(lines % permuted)) * 16;
  }
};

inline namespace RECURFORMER_ARCH {

/// Row, within a slab, of a lane's elements 0 and 1 (half 0) or 2 and 3 (half 1).
RECURFORMER_DEVICE int fragment_row(int half) { return arch::lane_index() / 4 + 8 * half; }
/// Column, within a strip of eight, of a lane's elements 0 and 2; 1 and 3 are one further.
RECURFORMER_DEVICE int fragment_column() { return arch::lane_index() % 4 * 2; }

/// One float per row of a warp's slabs, equal in all lanes of a quad except for partial sums.
template <int Slabs>
struct FragmentRows {
  float value[Slabs][2];  ///< [slab][half]

  /// Calls f(value, slab, half) for the lane's rows.
  template <class F>
  RECURFORMER_DEVICE void each(F f) {
    RECURFORMER_UNROLL
    for (int i = 0; i < Slabs; ++i) {
      RECURFORMER_UNROLL
      for (int half = 0; half < 2; ++half) f(value[i][half], i, half);
    }
  }
};

/// A matrix of floats: value[slab][strip of eight columns][element].
template <int Slabs, int Columns>
struct Fragment {
  float value[Slabs][Columns / 8][4];

  /// Calls f(element, slab, half, column) for the lane's elements; columns count from fragment_column().
  template <class F>
  RECURFORMER_DEVICE void each(F f) {
    RECURFORMER_UNROLL
    for (int i = 0; i < Slabs; ++i) {
      RECURFORMER_UNROLL
      for (int n = 0; n < Columns / 8; ++n) {
        RECURFORMER_UNROLL
        for (int e = 0; e < 4; ++e) f(value[i][n][e], i, e / 2, 8 * n + e % 2);
      }
    }
  }
  RECURFORMER_DEVICE void fill(float x) {
    each([x](float& element, int, int, int) { element = x; });
  }
};

/// Dot products, each worth `unit` in units of log 2. The unit enters where a score is exponentiated, as part
/// of one fused multiply-add.
template <int Slabs, int Columns>
struct ScoreFragment : Fragment<Slabs, Columns> {
  float unit;
};

/// A (Rows, Columns) matrix in shared memory.
template <class T, int Rows, int Columns>
struct SharedTile {
  using Layout = SwizzledLayout<Columns>;
  static constexpr int rows = Rows;
  static constexpr int bytes = Rows * Layout::row_bytes;

  arch::SharedAddress at;

  RECURFORMER_DEVICE arch::SharedAddress chunk(int row, int index) const {
    return at + static_cast<arch::SharedAddress>(Layout::offset(row, index));
  }
  /// What a lane gives ldmatrix for the 16 x 16 elements from row first_row, a multiple of 8, and chunk
  /// `even` on: quarters in rows 0, 8, 0, 8 and chunks 0, 0, 1, 1. With constants for both, only even %
  /// permuted makes addresses that differ by more than a constant.
  RECURFORMER_DEVICE arch::SharedAddress square(int first_row, int even) const {
    const int lane = arch::lane_index(), reached = even % Layout::permuted;
    const int in_square = Layout::offset(lane % 16, reached + lane / 16);
    return at + static_cast<arch::SharedAddress>(in_square) +
           static_cast<arch::SharedAddress>(first_row * Layout::row_bytes + (even - reached) * 16);
  }
};

/// The left factor, in registers.
template <class T, int Slabs, int Columns>
struct RegisterOperand {
  std::uint32_t fragments[Columns / 16][Slabs][4];

  RegisterOperand() = default;
  /// No memory is needed.
  RECURFORMER_DEVICE explicit RegisterOperand(unsigned char*) {}

  /// From the rows of `tile` from `first_row` on.
  template <int Rows>
  RECURFORMER_DEVICE void fill_from(const SharedTile<T, Rows, Columns>& tile, int first_row) {
    RECURFORMER_UNROLL
    for (int k = 0; k < Columns / 16; ++k) {
      RECURFORMER_UNROLL
      for (int i = 0; i < Slabs; ++i)
        arch::load_matrices(fragments[k][i], tile.square(first_row + 16 * i, 2 * k));
    }
  }
  RECURFORMER_DEVICE void load(int k, std::uint32_t (&result)[Slabs][4]) const {
    RECURFORMER_UNROLL
    for (int i = 0; i < Slabs; ++i) {
      RECURFORMER_UNROLL
      for (int quarter = 0; quarter < 4; ++quarter) result[i][quarter] = fragments[k][i][quarter];
    }
  }
};

/// The left factor in shared memory, in the order of fragments: lanes read what the same lane wrote, 16 bytes
/// at a time, and all addresses are constants from one.
template <class T, int Slabs, int Columns>
struct StoredOperand {
  static constexpr int bytes = Columns / 16 * Slabs * arch::warp_size * 16;

  arch::Words4* fragments;  ///< (columns / 16, slabs, lanes), from this lane's on

  RECURFORMER_DEVICE explicit StoredOperand(unsigned char* at)
      : fragments(reinterpret_cast<arch::Words4*>(at) + arch::lane_index()) {}

  RECURFORMER_DEVICE void fill_from(const RegisterOperand<T, Slabs, Columns>& source) {
    RECURFORMER_UNROLL
    for (int k = 0; k < Columns / 16; ++k) {
      RECURFORMER_UNROLL
      for (int i = 0; i < Slabs; ++i) {
        const std::uint32_t(&from)[4] = source.fragments[k][i];
        fragments[(k * Slabs + i) * arch::warp_size] = {from[0], from[1], from[2], from[3]};
      }
    }
  }
  RECURFORMER_DEVICE void load(int k, std::uint32_t (&result)[Slabs][4]) const {
    RECURFORMER_UNROLL
    for (int i = 0; i < Slabs; ++i) {
      const arch::Words4 from = fragments[(k * Slabs + i) * arch::warp_size];
      RECURFORMER_UNROLL
      for (int quarter = 0; quarter < 4; ++quarter) result[i][quarter] = from.word[quarter];
    }
  }
};

/// s = a bᵀ, the columns of s being the rows of b.
template <class Operand, class T, int Slabs, int Columns, int Depth>
RECURFORMER_DEVICE void multiply_abt(ScoreFragment<Slabs, Columns>& s, const Operand& a,
                                     const SharedTile<T, Columns, Depth>& b) {
  s.fill(0.0f);
  RECURFORMER_UNROLL
  for (int k = 0; k < Depth / 16; ++k) {
    std::uint32_t left[Slabs][4];
    a.load(k, left);
    RECURFORMER_UNROLL
    for (int n = 0; n < Columns / 16; ++n) {
      std::uint32_t right[4];
      arch::load_matrices(right, b.square(16 * n, 2 * k));
      RECURFORMER_UNROLL
      for (int i = 0; i < Slabs; ++i) {
        arch::multiply_add_16x8x16<T>(s.value[i][2 * n], left[i], right[0], right[2]);
        arch::multiply_add_16x8x16<T>(s.value[i][2 * n + 1], left[i], right[1], right[3]);
      }
    }
  }
}

/// The strips of columns 16k … 16k + 15 as the left factor of a product, rounded to T.
template <class T, int Slabs, int Columns>
RECURFORMER_DEVICE void pack_operand(const Fragment<Slabs, Columns>& p, int k,
                                     std::uint32_t (&result)[Slabs][4]) {
  RECURFORMER_UNROLL
  for (int i = 0; i < Slabs; ++i) {
    RECURFORMER_UNROLL
    for (int quarter = 0; quarter < 4; ++quarter) {
      const float(&strip)[4] = p.value[i][2 * k + quarter / 2];
      const int half = quarter % 2;
      result[i][quarter] = arch::pack<T>(strip[2 * half], strip[2 * half + 1]);
    }
  }
}

/// o = diag(scale) o + p b, p rounded to T.
template <class T, int Slabs, int Columns, int Depth>
RECURFORMER_DEVICE void scale_multiply_ab(Fragment<Slabs, Columns>& o, const FragmentRows<Slabs>& scale,
                                          const Fragment<Slabs, Depth>& p,
                                          const SharedTile<T, Depth, Columns>& b) {
  o.each([&](float& x, int i, int half, int) { x *= scale.value[i][half]; });
  RECURFORMER_UNROLL
  for (int k = 0; k < Depth / 16; ++k) {
    std::uint32_t left[Slabs][4];
    pack_operand<T>(p, k, left);
    RECURFORMER_UNROLL
    for (int n = 0; n < Columns / 16; ++n) {
      std::uint32_t right[4];
      arch::load_matrices_transposed(right, b.square(16 * k, 2 * n));
      RECURFORMER_UNROLL
      for (int i = 0; i < Slabs; ++i) {
        arch::multiply_add_16x8x16<T>(o.value[i][2 * n], left[i], right[0], right[1]);
        arch::multiply_add_16x8x16<T>(o.value[i][2 * n + 1], left[i], right[2], right[3]);
      }
    }
  }
}

/// The larger of m and the row's maximum, in units of log 2. NaN scores are passed over; they come back
/// through exponentiate(). The tile has no columns but its own: the last argument is the CPU's.
template <int Slabs, int Columns>
RECURFORMER_DEVICE FragmentRows<Slabs> row_max(const FragmentRows<Slabs>& m,
                                               const ScoreFragment<Slabs, Columns>& s, int) {
  FragmentRows<Slabs> result = m;
  result.each([&](float& maximum, int i, int half) {
    float largest = arch::max(s.value[i][0][2 * half], s.value[i][0][2 * half + 1]);
    RECURFORMER_UNROLL
    for (int n = 1; n < Columns / 8; ++n)
      largest = arch::max(largest, arch::max(s.value[i][n][2 * half], s.value[i][n][2 * half + 1]));
    largest = arch::max(largest, arch::shuffle_xor(largest, 1));
    largest = arch::max(largest, arch::shuffle_xor(largest, 2));
    maximum = arch::max(maximum, largest * s.unit);
  });
  return result;
}

/// f of two rows' values.
template <int Slabs, class F>
RECURFORMER_DEVICE FragmentRows<Slabs> zip(const FragmentRows<Slabs>& a, const FragmentRows<Slabs>& b, F f) {
  FragmentRows<Slabs> result = a;
  result.each([&](float& x, int i, int half) { x = f(x, b.value[i][half]); });
  return result;
}

/// s = 2^(unit · s - offset) row by row; adds the lane's part of the row sums to `sum`.
template <int Slabs, int Columns>
RECURFORMER_DEVICE void exponentiate(ScoreFragment<Slabs, Columns>& s, const FragmentRows<Slabs>& offset,
                                     FragmentRows<Slabs>& sum, int) {
  s.each([&, unit = s.unit](float& x, int i, int half, int) {
    x = arch::exp2(x * unit - offset.value[i][half]);
    sum.value[i][half] += x;
  });
}

/// Partial sums, added up over the quad that shares the row.
template <int Slabs>
RECURFORMER_DEVICE FragmentRows<Slabs> row_total(const FragmentRows<Slabs>& partial) {
  return zip(partial, partial, [](float x, float) {
    x += arch::shuffle_xor(x, 1);
    return x + arch::shuffle_xor(x, 2);
  });
}

}  // namespace RECURFORMER_ARCH
}  // namespace rf::tile

#endif  // RECURFORMER_TILE_CUDA_TILE_HPP
