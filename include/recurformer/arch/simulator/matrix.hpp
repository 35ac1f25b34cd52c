#ifndef RECURFORMER_ARCH_SIMULATOR_MATRIX_HPP
#define RECURFORMER_ARCH_SIMULATOR_MATRIX_HPP

// ldmatrix, stmatrix and mma.sync by the fragment layouts of the PTX manual (see arch/matrix.hpp).

#include "recurformer/arch/simulator/collective.hpp"

namespace rf::arch::simulator {

/// Shared bytes of the row this lane gives the address of; null for lanes whose address is not used.
template <int Count>
unsigned char* matrix_row(SharedAddress row, const char* name, Caller caller) {
  Bookkeeping hidden;
  return this_thread().lane() < 8 * Count ? shared_bytes(row, 16, 16, name, caller) : nullptr;
}

template <int Count, bool Transposed>
void load_matrices(std::uint32_t (&registers)[Count], SharedAddress row, Caller caller) {
  struct In {
    std::uint16_t element[8];
  };
  struct Out {
    std::uint32_t matrix[Count];
  };
  constexpr const char* name = Transposed ? "load_matrices_transposed" : "load_matrices";
  In in{};
  Out out{};
  // read by the lane that gives the row, so that a race is reported as that lane's
  if (const unsigned char* bytes = matrix_row<Count>(row, name, caller)) std::memcpy(in.element, bytes, 16);
  collective(
      all_lanes, in, out,
      [](const In* const* rows, Out* const* outs, unsigned) {
        const auto pair = [](unsigned low, unsigned high) { return low | high << 16; };
        for (int l = 0; l < warp_size; ++l)
          for (int m = 0; m < Count; ++m) {
            const int g = l / 4, t = 2 * (l % 4);
            const In* const* matrix = rows + 8 * m;
            outs[l]->matrix[m] = Transposed ? pair(matrix[t]->element[g], matrix[t + 1]->element[g])
                                            : pair(matrix[g]->element[t], matrix[g]->element[t + 1]);
          }
      },
      name, caller);
  for (int m = 0; m < Count; ++m) registers[m] = out.matrix[m];
}

template <int Count>
void store_matrices(SharedAddress row, const std::uint32_t (&registers)[Count], Caller caller) {
  struct In {
    std::uint32_t matrix[Count];
  };
  struct Out {
    std::uint32_t words[4];
  };
  unsigned char* bytes = matrix_row<Count>(row, "store_matrices", caller);
  In in{};
  Out out{};
  for (int m = 0; m < Count; ++m) in.matrix[m] = registers[m];
  collective(
      all_lanes, in, out,
      [](const In* const* ins, Out* const* rows, unsigned) {
        for (int m = 0; m < Count; ++m)
          for (int r = 0; r < 8; ++r)
            for (int w = 0; w < 4; ++w) rows[8 * m + r]->words[w] = ins[4 * r + w]->matrix[m];
      },
      "store_matrices", caller);
  if (bytes) std::memcpy(bytes, out.words, 16);
}

/// Sums run over k in order, one rounding each; the machine adds in an order and width of its own.
template <class T>
void multiply_add_16x8x16(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1,
                          Caller caller) {
  struct In {
    std::uint32_t a[4];
    std::uint32_t b[2];
    float c[4];
  };
  struct Out {
    float d[4];
  };
  const In in{{a[0], a[1], a[2], a[3]}, {b0, b1}, {d[0], d[1], d[2], d[3]}};
  Out out{};
  collective(
      all_lanes, in, out,
      [](const In* const* ins, Out* const* outs, unsigned) {
        const auto half = [](std::uint32_t pair, int which) {
          return static_cast<float>(T::from_bits(static_cast<std::uint16_t>(pair >> (16 * which))));
        };
        float left[16][16], right[16][8], sum[16][8];
        for (int l = 0; l < warp_size; ++l) {
          const int g = l / 4, t = 2 * (l % 4);
          for (int e = 0; e < 2; ++e) {
            for (int quarter = 0; quarter < 4; ++quarter)
              left[g + 8 * (quarter % 2)][t + 8 * (quarter / 2) + e] = half(ins[l]->a[quarter], e);
            for (int rows = 0; rows < 2; ++rows) right[t + 8 * rows + e][g] = half(ins[l]->b[rows], e);
            for (int rows = 0; rows < 2; ++rows) sum[g + 8 * rows][t + e] = ins[l]->c[2 * rows + e];
          }
        }
        for (int r = 0; r < 16; ++r)
          for (int k = 0; k < 16; ++k)
            for (int n = 0; n < 8; ++n) sum[r][n] += left[r][k] * right[k][n];
        for (int l = 0; l < warp_size; ++l) {
          const int g = l / 4, t = 2 * (l % 4);
          for (int e = 0; e < 4; ++e) outs[l]->d[e] = sum[g + 8 * (e / 2)][t + e % 2];
        }
      },
      "multiply_add_16x8x16", caller);
  for (int e = 0; e < 4; ++e) d[e] = out.d[e];
}

}  // namespace rf::arch::simulator

#endif  // RECURFORMER_ARCH_SIMULATOR_MATRIX_HPP
