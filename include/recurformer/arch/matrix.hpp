#ifndef RECURFORMER_ARCH_MATRIX_HPP
#define RECURFORMER_ARCH_MATRIX_HPP

// Tensor cores of one warp (sm_80 and newer), and the loads and stores that distribute 8 x 8 matrices of
// 16-bit elements over its lanes. With group g = lane / 4 and t = 2·(lane % 4), a lane holds of
//
//   an 8 x 8 matrix                      (g, t) and (g, t + 1), in one register
//   A (16 x 16), registers 0..3          the 8 x 8 quarters in rows 0, 8, 0, 8 and columns 0, 0, 8, 8
//   B (16 x 8), registers 0, 1           (t, g), (t + 1, g); then rows 8 further down
//   C, D (16 x 8) in float               (g, t), (g, t + 1), (g + 8, t), (g + 8, t + 1)
//
// (PTX ISA, "Matrix Fragments for mma.m16n8k16", "ldmatrix".)

#include <cstdint>

#include "recurformer/arch/math.hpp"
#include "recurformer/arch/thread.hpp"
#include "recurformer/arch/types.hpp"
#include "recurformer/core/dtype.hpp"
#if !defined(__CUDACC__)
#include "recurformer/arch/simulator/matrix.hpp"
#endif

namespace rf::arch {
inline namespace RECURFORMER_ARCH {

/// Loads Count (1, 2 or 4) 8 x 8 matrices into one register each. Lane l gives the address of the row l % 8
/// of matrix l / 8, 16 bytes, 16-byte aligned; lanes from 8·Count on give any. (ldmatrix.m8n8)
template <int Count>
RECURFORMER_DEVICE void load_matrices(std::uint32_t (&out)[Count], SharedAddress row,
                                      [[maybe_unused]] Caller caller = Caller::here()) {
  static_assert(Count == 1 || Count == 2 || Count == 4, "recurformer: ldmatrix loads 1, 2 or 4 matrices");
#if defined(__CUDACC__)
  if constexpr (Count == 4)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(row)
                 : "memory");
  else if constexpr (Count == 2)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(out[0]), "=r"(out[1])
                 : "r"(row)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(out[0]) : "r"(row) : "memory");
#else
  simulator::load_matrices<Count, false>(out, row, caller);
#endif
}

/// The same, each matrix transposed. (ldmatrix.m8n8.trans)
template <int Count>
RECURFORMER_DEVICE void load_matrices_transposed(std::uint32_t (&out)[Count], SharedAddress row,
                                                 [[maybe_unused]] Caller caller = Caller::here()) {
  static_assert(Count == 1 || Count == 2 || Count == 4, "recurformer: ldmatrix loads 1, 2 or 4 matrices");
#if defined(__CUDACC__)
  if constexpr (Count == 4)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(row)
                 : "memory");
  else if constexpr (Count == 2)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(out[0]), "=r"(out[1])
                 : "r"(row)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                 : "=r"(out[0])
                 : "r"(row)
                 : "memory");
#else
  simulator::load_matrices<Count, true>(out, row, caller);
#endif
}

/// Stores Count 8 x 8 matrices; rows are addressed as by load_matrices. sm_90 and newer. (stmatrix.m8n8)
template <int Count>
RECURFORMER_DEVICE void store_matrices(SharedAddress row, const std::uint32_t (&in)[Count],
                                       [[maybe_unused]] Caller caller = Caller::here()) {
  static_assert(Count == 1 || Count == 2 || Count == 4, "recurformer: stmatrix stores 1, 2 or 4 matrices");
#if defined(__CUDACC__)
  if constexpr (Count == 4)
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row), "r"(in[0]),
                 "r"(in[1]), "r"(in[2]), "r"(in[3])
                 : "memory");
  else if constexpr (Count == 2)
    asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::"r"(row), "r"(in[0]), "r"(in[1])
                 : "memory");
  else
    asm volatile("stmatrix.sync.aligned.m8n8.x1.shared.b16 [%0], {%1};" ::"r"(row), "r"(in[0]) : "memory");
#else
  simulator::store_matrices<Count>(row, in, caller);
#endif
}

/// d += a b with a (16 x 16), b (16 x 8), elements T (bf16 or fp16), sums in float.
/// (mma.sync.m16n8k16.row.col.f32)
template <class T>
RECURFORMER_DEVICE void multiply_add_16x8x16(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                             std::uint32_t b1,
                                             [[maybe_unused]] Caller caller = Caller::here()) {
#if defined(__CUDACC__)
  if constexpr (dtype_of<T> == DType::BF16)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  simulator::multiply_add_16x8x16<T>(d, a, b0, b1, caller);
#endif
}

}  // namespace RECURFORMER_ARCH
}  // namespace rf::arch

#endif  // RECURFORMER_ARCH_MATRIX_HPP
