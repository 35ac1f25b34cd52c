#ifndef RECURFORMER_ARCH_WGMMA_PTX_HPP
#define RECURFORMER_ARCH_WGMMA_PTX_HPP

// The PTX of wgmma.mma_async for arch/wgmma.hpp, one instruction for every multiple of 16 columns. Inline
// assembly names its registers one by one and numbers operands by their position, so macros spell out the
// lists; none of them is left at the end of this file.

#if defined(__CUDACC__)

#include <cstdint>

#include "recurformer/core/dtype.hpp"

namespace rf::arch::ptx {

// clang-format off

#define RECURFORMER_NAMES_8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define RECURFORMER_NAMES_16 RECURFORMER_NAMES_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define RECURFORMER_NAMES_24 RECURFORMER_NAMES_16 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define RECURFORMER_NAMES_32 RECURFORMER_NAMES_24 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define RECURFORMER_NAMES_40 RECURFORMER_NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define RECURFORMER_NAMES_48 RECURFORMER_NAMES_40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define RECURFORMER_NAMES_56 RECURFORMER_NAMES_48 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define RECURFORMER_NAMES_64 RECURFORMER_NAMES_56 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define RECURFORMER_NAMES_72 RECURFORMER_NAMES_64 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define RECURFORMER_NAMES_80 RECURFORMER_NAMES_72 ", %72, %73, %74, %75, %76, %77, %78, %79"
#define RECURFORMER_NAMES_88 RECURFORMER_NAMES_80 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define RECURFORMER_NAMES_96 RECURFORMER_NAMES_88 ", %88, %89, %90, %91, %92, %93, %94, %95"
#define RECURFORMER_NAMES_104 RECURFORMER_NAMES_96 ", %96, %97, %98, %99, %100, %101, %102, %103"
#define RECURFORMER_NAMES_112 RECURFORMER_NAMES_104 ", %104, %105, %106, %107, %108, %109, %110, %111"
#define RECURFORMER_NAMES_120 RECURFORMER_NAMES_112 ", %112, %113, %114, %115, %116, %117, %118, %119"
#define RECURFORMER_NAMES_128 RECURFORMER_NAMES_120 ", %120, %121, %122, %123, %124, %125, %126, %127"

#define RECURFORMER_OUT(i) \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), \
  "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define RECURFORMER_OUTS_8 RECURFORMER_OUT(0)
#define RECURFORMER_OUTS_16 RECURFORMER_OUTS_8, RECURFORMER_OUT(8)
#define RECURFORMER_OUTS_24 RECURFORMER_OUTS_16, RECURFORMER_OUT(16)
#define RECURFORMER_OUTS_32 RECURFORMER_OUTS_24, RECURFORMER_OUT(24)
#define RECURFORMER_OUTS_40 RECURFORMER_OUTS_32, RECURFORMER_OUT(32)
#define RECURFORMER_OUTS_48 RECURFORMER_OUTS_40, RECURFORMER_OUT(40)
#define RECURFORMER_OUTS_56 RECURFORMER_OUTS_48, RECURFORMER_OUT(48)
#define RECURFORMER_OUTS_64 RECURFORMER_OUTS_56, RECURFORMER_OUT(56)
#define RECURFORMER_OUTS_72 RECURFORMER_OUTS_64, RECURFORMER_OUT(64)
#define RECURFORMER_OUTS_80 RECURFORMER_OUTS_72, RECURFORMER_OUT(72)
#define RECURFORMER_OUTS_88 RECURFORMER_OUTS_80, RECURFORMER_OUT(80)
#define RECURFORMER_OUTS_96 RECURFORMER_OUTS_88, RECURFORMER_OUT(88)
#define RECURFORMER_OUTS_104 RECURFORMER_OUTS_96, RECURFORMER_OUT(96)
#define RECURFORMER_OUTS_112 RECURFORMER_OUTS_104, RECURFORMER_OUT(104)
#define RECURFORMER_OUTS_120 RECURFORMER_OUTS_112, RECURFORMER_OUT(112)
#define RECURFORMER_OUTS_128 RECURFORMER_OUTS_120, RECURFORMER_OUT(120)

// (columns, accumulators, positions of the seven operands behind them)
#define RECURFORMER_SHAPES(SHAPE) \
  SHAPE(16, 8, 8, 9, 10, 11, 12, 13, 14) \
  SHAPE(32, 16, 16, 17, 18, 19, 20, 21, 22) \
  SHAPE(48, 24, 24, 25, 26, 27, 28, 29, 30) \
  SHAPE(64, 32, 32, 33, 34, 35, 36, 37, 38) \
  SHAPE(80, 40, 40, 41, 42, 43, 44, 45, 46) \
  SHAPE(96, 48, 48, 49, 50, 51, 52, 53, 54) \
  SHAPE(112, 56, 56, 57, 58, 59, 60, 61, 62) \
  SHAPE(128, 64, 64, 65, 66, 67, 68, 69, 70) \
  SHAPE(144, 72, 72, 73, 74, 75, 76, 77, 78) \
  SHAPE(160, 80, 80, 81, 82, 83, 84, 85, 86) \
  SHAPE(176, 88, 88, 89, 90, 91, 92, 93, 94) \
  SHAPE(192, 96, 96, 97, 98, 99, 100, 101, 102) \
  SHAPE(208, 104, 104, 105, 106, 107, 108, 109, 110) \
  SHAPE(224, 112, 112, 113, 114, 115, 116, 117, 118) \
  SHAPE(240, 120, 120, 121, 122, 123, 124, 125, 126) \
  SHAPE(256, 128, 128, 129, 130, 131, 132, 133, 134)

#define RECURFORMER_SHARED(TYPE, N, COUNT, P0, P1, P2, P3, P4) \
  if constexpr (Count == COUNT) \
    asm volatile("{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, %" #P2 ", 0;\n" \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" RECURFORMER_NAMES_##COUNT \
                 "}, %" #P0 ", %" #P1 ", accumulate, 1, 1, %" #P3 ", %" #P4 ";\n}" \
                 : RECURFORMER_OUTS_##COUNT \
                 : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), "n"(TransposeA), "n"(TransposeB));

#define RECURFORMER_REGISTERS(TYPE, N, COUNT, P0, P1, P2, P3, P4, P5, P6) \
  if constexpr (Count == COUNT) \
    asm volatile("{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, %" #P5 ", 0;\n" \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" RECURFORMER_NAMES_##COUNT \
                 "}, {%" #P0 ", %" #P1 ", %" #P2 ", %" #P3 "}, %" #P4 ", accumulate, 1, 1, %" #P6 ";\n}" \
                 : RECURFORMER_OUTS_##COUNT \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)), \
                   "n"(TransposeB));

#define RECURFORMER_SHARED_BF16(N, COUNT, P0, P1, P2, P3, P4, P5, P6) \
  RECURFORMER_SHARED("bf16", N, COUNT, P0, P1, P2, P3, P4)
#define RECURFORMER_SHARED_F16(N, COUNT, P0, P1, P2, P3, P4, P5, P6) \
  RECURFORMER_SHARED("f16", N, COUNT, P0, P1, P2, P3, P4)
#define RECURFORMER_REGISTERS_BF16(N, COUNT, P0, P1, P2, P3, P4, P5, P6) \
  RECURFORMER_REGISTERS("bf16", N, COUNT, P0, P1, P2, P3, P4, P5, P6)
#define RECURFORMER_REGISTERS_F16(N, COUNT, P0, P1, P2, P3, P4, P5, P6) \
  RECURFORMER_REGISTERS("f16", N, COUNT, P0, P1, P2, P3, P4, P5, P6)
// clang-format on

/// d (64 x 2·Count) = [d +] a b, with descriptors of a and b.
template <class T, int TransposeA, int TransposeB, int Count>
RECURFORMER_DEVICE void multiply_shared(float (&d)[Count], std::uint64_t a, std::uint64_t b,
                                        bool accumulate) {
  if constexpr (dtype_of<T> == DType::BF16) {
    RECURFORMER_SHAPES(RECURFORMER_SHARED_BF16)
  } else {
    RECURFORMER_SHAPES(RECURFORMER_SHARED_F16)
  }
}

/// The same with a in registers.
template <class T, int TransposeB, int Count>
RECURFORMER_DEVICE void multiply_registers(float (&d)[Count], const std::uint32_t (&a)[4], std::uint64_t b,
                                           bool accumulate) {
  if constexpr (dtype_of<T> == DType::BF16) {
    RECURFORMER_SHAPES(RECURFORMER_REGISTERS_BF16)
  } else {
    RECURFORMER_SHAPES(RECURFORMER_REGISTERS_F16)
  }
}

#undef RECURFORMER_NAMES_8
#undef RECURFORMER_NAMES_16
#undef RECURFORMER_NAMES_24
#undef RECURFORMER_NAMES_32
#undef RECURFORMER_NAMES_40
#undef RECURFORMER_NAMES_48
#undef RECURFORMER_NAMES_56
#undef RECURFORMER_NAMES_64
#undef RECURFORMER_NAMES_72
#undef RECURFORMER_NAMES_80
#undef RECURFORMER_NAMES_88
#undef RECURFORMER_NAMES_96
#undef RECURFORMER_NAMES_104
#undef RECURFORMER_NAMES_112
#undef RECURFORMER_NAMES_120
#undef RECURFORMER_NAMES_128
#undef RECURFORMER_OUT
#undef RECURFORMER_OUTS_8
#undef RECURFORMER_OUTS_16
#undef RECURFORMER_OUTS_24
#undef RECURFORMER_OUTS_32
#undef RECURFORMER_OUTS_40
#undef RECURFORMER_OUTS_48
#undef RECURFORMER_OUTS_56
#undef RECURFORMER_OUTS_64
#undef RECURFORMER_OUTS_72
#undef RECURFORMER_OUTS_80
#undef RECURFORMER_OUTS_88
#undef RECURFORMER_OUTS_96
#undef RECURFORMER_OUTS_104
#undef RECURFORMER_OUTS_112
#undef RECURFORMER_OUTS_120
#undef RECURFORMER_OUTS_128
#undef RECURFORMER_SHAPES
#undef RECURFORMER_SHARED
#undef RECURFORMER_REGISTERS
#undef RECURFORMER_SHARED_BF16
#undef RECURFORMER_SHARED_F16
#undef RECURFORMER_REGISTERS_BF16
#undef RECURFORMER_REGISTERS_F16

}  // namespace rf::arch::ptx

#endif  // __CUDACC__

#endif  // RECURFORMER_ARCH_WGMMA_PTX_HPP
