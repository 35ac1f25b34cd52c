#ifndef RECURFORMER_CUDA_SSD_TILE_HPP
#define RECURFORMER_CUDA_SSD_TILE_HPP

// Tiles of 16-bit elements in shared memory, as the tensor cores of the SSD kernels read them: (rows,
// Columns), row-major, the 16-byte pieces of a row exchanged by an exclusive or with the row, so that the
// eight rows of an ldmatrix, in either orientation, lie in different banks. Columns is a power of two from 16
// on.
//
//   load_rows      global → shared: cp.async of 16 bytes; element by element where rows are not aligned
//   store_rows     shared → global
//   rotate_rows    rotary positions in place, pairs (i, i + Columns / 2)
//   a_fragment     16 x 16 of A from rows, or from columns (transposed)
//   b_fragments    16 x 16 of B as two 8-column fragments, k along columns, or along rows (transposed)

#include <cstdint>

#include "recurformer/arch/arch.hpp"
#include "recurformer/core/rows_view.hpp"
#include "recurformer/cuda/rotary_table.hpp"
#include "recurformer/cuda/work_item.hpp"

namespace rf::cuda {

/// Two floats moved by one 8-byte access.
struct alignas(8) TwoFloats {
  float first, second;
};

/// Four floats moved by one 16-byte access.
struct alignas(16) FourFloats {
  float value[4];
};

/// True if rows of 16-bit elements can be moved in pieces of 16 bytes from any column divisible by 8.
template <class T>
RECURFORMER_HOST_DEVICE bool rows_are_aligned(const RowsView<T>& view) {
  static_assert(sizeof(T) == 2, "recurformer: tiles hold 16-bit elements");
  return reinterpret_cast<std::uintptr_t>(view.data) % 16 == 0 && view.stride % 8 == 0;
}

template <class T, int Columns>
struct SsdTile {
  static_assert(sizeof(T) == 2, "recurformer: tiles hold 16-bit elements");
  static_assert(Columns >= 16 && (Columns & (Columns - 1)) == 0, "recurformer: tiles are 16, 32, 64, … wide");

  static constexpr int pieces = Columns / 8;  ///< of 16 bytes in a row
  static constexpr int row_bytes = 2 * Columns;
  static constexpr int bytes(int rows) { return rows * Columns * 2; }

  unsigned char* data = nullptr;   ///< in shared memory, 128-byte aligned
  arch::SharedAddress shared = 0;  ///< of data

  /// Byte offset of the 16-byte piece `piece` of a row.
  RECURFORMER_HOST_DEVICE static constexpr int offset(int row, int piece) {
    constexpr int mask = (pieces < 8 ? pieces : 8) - 1;
    constexpr int rows_per_line = pieces < 8 ? 8 / pieces : 1;  // rows in 128 bytes, all banks
    return row * row_bytes + (piece ^ (row / rows_per_line & mask)) * 16;
  }
  RECURFORMER_DEVICE arch::Words4& words(int row, int piece) const {
    return *reinterpret_cast<arch::Words4*>(data + offset(row, piece));
  }
  /// The two neighbours that the lane holds of the 8 x 8 block at (row, column), multiples of 8.
  RECURFORMER_DEVICE std::uint32_t& pair(int row, int column) const {
    const int lane = arch::lane_index();
    return *reinterpret_cast<std::uint32_t*>(data + row * row_bytes +
                                             (offset(lane / 4, 0) ^ column / 8 * 16) + lane % 4 * 4);
  }

  /// Starts loading Rows rows, those from `valid` on as zeros, by all of `Threads` threads; the caller
  /// commits and waits. `from` points to the first element; aligned: see rows_are_aligned.
  template <int Rows, int Threads>
  RECURFORMER_DEVICE void load_rows(const T* from, std::int64_t stride, int valid, bool aligned) const {
    constexpr int pass_rows = Threads / pieces;
    static_assert(pass_rows % 8 == 0 && Rows % pass_rows == 0);
    const int first = arch::thread_index() / pieces, piece = arch::thread_index() % pieces;
    const T* const here = from + piece * 8;
    RECURFORMER_UNROLL
    for (int pass = 0; pass < Rows; pass += pass_rows) {
      const int row = pass + first;
      const T* const source = row < valid ? here + row * stride : here;
      const int to = pass * row_bytes + offset(first, piece);
      if (aligned)
        arch::copy_async<16>(shared + static_cast<arch::SharedAddress>(to), source, row < valid ? 16 : 0);
      else
        *reinterpret_cast<arch::Words4*>(data + to) = row < valid ? gathered(source) : arch::Words4{};
    }
  }

  /// Stores the first `valid` rows, by all of `Threads` threads.
  template <int Threads>
  RECURFORMER_DEVICE void store_rows(T* to, std::int64_t stride, int valid, bool aligned) const {
    constexpr int pass_rows = Threads / pieces;
    const int piece = arch::thread_index() % pieces;
    for (int row = arch::thread_index() / pieces; row < valid; row += pass_rows) {
      const arch::Words4 value = words(row, piece);
      T* const target = to + row * stride + piece * 8;
      if (aligned)
        *reinterpret_cast<arch::Words4*>(target) = value;
      else
        for (int e = 0; e < 8; ++e)
          target[e] = T::from_bits(static_cast<std::uint16_t>(value.word[e / 2] >> (16 * (e % 2))));
    }
  }

  /// Turns the first `valid` rows by positions `position`, `position` + 1, …; results are rounded to T.
  template <int Threads>
  RECURFORMER_DEVICE void rotate_rows(const RotaryTable& rope, std::int64_t position, int valid) const {
    constexpr int half = pieces / 2, pass_rows = Threads / half;
    const int piece = arch::thread_index() % half;
    for (int row = arch::thread_index() / half; row < valid; row += pass_rows) {
      const float* const cosines = rope.cosines + (position + row) * rope.stride + piece * 8;
      const float* const sines = rope.sines + (position + row) * rope.stride + piece * 8;
      arch::Words4 low = words(row, piece), high = words(row, piece + half);
      RECURFORMER_UNROLL
      for (int e = 0; e < 4; ++e) {
        const float x0 = arch::unpack_low<T>(low.word[e]), x1 = arch::unpack_high<T>(low.word[e]);
        const float y0 = arch::unpack_low<T>(high.word[e]), y1 = arch::unpack_high<T>(high.word[e]);
        const float c0 = cosines[2 * e], c1 = cosines[2 * e + 1], s0 = sines[2 * e], s1 = sines[2 * e + 1];
        low.word[e] = arch::pack<T>(x0 * c0 - y0 * s0, x1 * c1 - y1 * s1);
        high.word[e] = arch::pack<T>(y0 * c0 + x0 * s0, y1 * c1 + x1 * s1);
      }
      words(row, piece) = low;
      words(row, piece + half) = high;
    }
  }

  // Fragments: row is a multiple of 8; column of 16, or of 8 where only eight columns are loaded.

  /// A[m][k] = tile[row + m][column + k].
  RECURFORMER_DEVICE void a_fragment(std::uint32_t (&a)[4], int row, int column) const {
    const int lane = arch::lane_index();
    arch::load_matrices<4>(a, address(row, column, offset(lane % 16, lane / 16)));
  }
  /// A[m][k] = tile[row + k][column + m].
  RECURFORMER_DEVICE void a_fragment_transposed(std::uint32_t (&a)[4], int row, int column) const {
    const int lane = arch::lane_index();
    arch::load_matrices_transposed<4>(a,
                                      address(row, column, offset(lane / 16 * 8 + lane % 8, lane / 8 % 2)));
  }
  /// B[k][n] = tile[row + n][column + k] for 16 n: registers 0, 1 are of the first eight, 2, 3 of the others.
  RECURFORMER_DEVICE void b_fragments(std::uint32_t (&b)[4], int row, int column) const {
    const int lane = arch::lane_index();
    arch::load_matrices<4>(b, address(row, column, offset(lane / 16 * 8 + lane % 8, lane / 8 % 2)));
  }
  /// B[k][n] = tile[row + k][column + n] for 4 · Registers n, two registers for eight of them.
  template <int Registers>
  RECURFORMER_DEVICE void b_fragments_transposed(std::uint32_t (&b)[Registers], int row, int column) const {
    static_assert(Registers == 2 || Registers == 4, "recurformer: one or two fragments of B");
    const int lane = arch::lane_index() % (8 * Registers);
    arch::load_matrices_transposed<Registers>(b, address(row, column, offset(lane % 16, lane / 16)));
  }

 private:
  /// The row and piece within a block at (row, column) have the offset lane_part. Piece numbers of a block
  /// and within it have no bit in common, so that all blocks of all tiles share the few values of lane_part.
  RECURFORMER_DEVICE arch::SharedAddress address(int row, int column, int lane_part) const {
    return shared + static_cast<arch::SharedAddress>(row * row_bytes + (lane_part ^ column / 8 * 16));
  }
  RECURFORMER_DEVICE static arch::Words4 gathered(const T* from) {
    arch::Words4 out;
    RECURFORMER_UNROLL
    for (int e = 0; e < 4; ++e)
      out.word[e] = static_cast<std::uint32_t>(from[2 * e].bits) |
                    static_cast<std::uint32_t>(from[2 * e + 1].bits) << 16;
    return out;
  }
};

}  // namespace rf::cuda

#endif  // RECURFORMER_CUDA_SSD_TILE_HPP
