#ifndef RECURFORMER_ARCH_WGMMA_HPP
#define RECURFORMER_ARCH_WGMMA_HPP

// Tensor cores of a warpgroup, the warps 4·i to 4·i + 3 of a block (sm_90a): D (64 x N) = [D +] A B with A
// (64 x 16) in shared memory or registers and B (16 x N) in shared memory, elements bf16 or fp16, sums in
// float. Multiplies go on while the threads do:
//
//   fence_multiplies(d);                                  // d's registers are done with
//   multiply_add_64xNx16<T>(d, a, b, accumulate); …       // as many as there are k steps
//   commit_multiplies();
//   …                                                     // d must not be touched: the simulator fills it
//   with NaN wait_for_multiplies<0>(d);                            // d is there, a and b may be overwritten
//
// All four warps execute the same instructions with the same operands. A warp's wait speaks for the warp
// alone: every warp arrives where the operands are released. Bytes that threads have written to shared memory
// take fence_async_shared (arch/proxy.hpp) and a barrier first. A in registers is read while the multiply
// goes on; a fence comes between writing and multiplying it, and a wait before the next write. Sums begin
// with accumulate = false rather than with zeros in d: ptxas may sink those writes between the multiplies,
// which it then serialises (C7515).
//
// Fragments: with warp w of the group, g = lane / 4 and t = 2·(lane % 4), element i of
//   D (64 x N)    is  (16·w + g + 8·(i / 2 % 2), 8·(i / 4) + t + i % 2),   N / 2 floats
//   A (64 x 16)   is  the same row, column 8·(i / 4) + t + i % 2,          8 elements, two to a register
// as in arch/matrix.hpp, so that a result D becomes A of the next multiply by rounding and packing in place.
//
// Shared memory: an operand is stored k-major (rows of m or n, k contiguous) or mn-major (rows of k). Rows of
// the swizzle's row_bytes lie in groups of 8, one pattern:
//   k-major    pattern: 8 of m or n;  stride_bytes: to the next 8. A step of 16 in k is 32 bytes further on.
//   mn-major   pattern: 8 of k by row_bytes / 2 of m or n;  stride_bytes: to the next 8 of k;
//              leading_bytes: to the next row_bytes / 2 of m or n
// Without a swizzle a pattern is 8 rows of 16 bytes; k-major leading_bytes: to the next 8 of k, stride_bytes:
// to the next 8 of m or n; mn-major leading_bytes: to the next 8 of k, stride_bytes: to the next 8 of m or n.
// (PTX ISA, "Asynchronous Warpgroup Level Matrix Shared Memory Layout")

#include <cstdint>

#include "recurformer/arch/proxy.hpp"
#include "recurformer/arch/swizzle.hpp"
#include "recurformer/arch/thread.hpp"
#include "recurformer/arch/types.hpp"
#include "recurformer/core/dtype.hpp"
#if defined(__CUDACC__)
#include "recurformer/arch/wgmma_ptx.hpp"
#else
#include "recurformer/arch/simulator/wgmma.hpp"
#endif

namespace rf::arch {

#if defined(__CUDACC__)
/// Which dimension of an operand in shared memory is contiguous: k, or m (of A) and n (of B).
enum class Major : int { k = 0, mn = 1 };
#endif

/// An operand in shared memory. Bytes are multiples of 16, below 2^18.
struct SharedMatrix {
  SharedAddress start = 0;  ///< in the first row of a pattern
  int leading_bytes = 0;    ///< see above; k-major with a swizzle: not used
  int stride_bytes = 0;     ///< see above
  Swizzle swizzle = Swizzle::bytes128;
};

/// What the tensor core is told of an operand. (PTX ISA, "Matrix Descriptor Format")
RECURFORMER_HOST_DEVICE constexpr std::uint64_t matrix_descriptor(const SharedMatrix& matrix) {
  const auto field = [](std::uint32_t bytes, int bit) {
    return static_cast<std::uint64_t>((bytes & 0x3ffffu) >> 4) << bit;
  };
  const std::uint64_t code = matrix.swizzle == Swizzle::bytes128  ? 1
                             : matrix.swizzle == Swizzle::bytes64 ? 2
                             : matrix.swizzle == Swizzle::bytes32 ? 3
                                                                  : 0;
  return field(matrix.start, 0) | field(static_cast<std::uint32_t>(matrix.leading_bytes), 16) |
         field(static_cast<std::uint32_t>(matrix.stride_bytes), 32) | code << 62;
}

/// The descriptor of the operand `bytes` bytes further on, a multiple of 16.
RECURFORMER_HOST_DEVICE constexpr std::uint64_t advanced(std::uint64_t descriptor, int bytes) {
  return descriptor + static_cast<std::uint64_t>(bytes >> 4);
}

namespace detail {
/// In place of registers that a fence or wait is not given.
struct NoRegisters {};

/// Keeps the compiler from moving accesses to registers across this place.
RECURFORMER_DEVICE void pin(NoRegisters) {}
#if defined(__CUDACC__)
RECURFORMER_DEVICE void pin(float& x) { asm volatile("" : "+f"(x)::"memory"); }
RECURFORMER_DEVICE void pin(std::uint32_t& x) { asm volatile("" : "+r"(x)::"memory"); }
template <class T, int Count>
RECURFORMER_DEVICE void pin(T (&registers)[Count]) {
  RECURFORMER_UNROLL
  for (int i = 0; i < Count; ++i) pin(registers[i]);
}
#else
template <class T, int Count>
simulator::RegisterRange range_of(T (&registers)[Count]) {
  return {.begin = registers, .bytes = sizeof registers};
}
inline simulator::RegisterRange range_of(NoRegisters) { return {}; }
#endif
}  // namespace detail

inline namespace RECURFORMER_ARCH {

/// Comes between the last access to the registers given, accumulators (float[N / 2]) or A
/// (uint32_t[4], uint32_t[…][4]), and multiplies on them; not between multiplies that follow each other on
/// the same accumulators without a wait for them. (wgmma.fence)
template <class R0 = detail::NoRegisters, class R1 = detail::NoRegisters, class R2 = detail::NoRegisters,
          class R3 = detail::NoRegisters>
RECURFORMER_DEVICE void fence_multiplies(R0&& r0 = {}, R1&& r1 = {}, R2&& r2 = {}, R3&& r3 = {},
                                         [[maybe_unused]] Caller caller = Caller::here()) {
#if defined(__CUDACC__)
  detail::pin(r0);
  detail::pin(r1);
  detail::pin(r2);
  detail::pin(r3);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#else
  simulator::fence_multiplies(
      {detail::range_of(r0), detail::range_of(r1), detail::range_of(r2), detail::range_of(r3)}, caller);
#endif
}

/// Starts d = a b (+ d if accumulate), a and b given by matrix_descriptor and stored as MajorA and MajorB
/// say. N = 2·Count is a multiple of 16 up to 256. (wgmma.mma_async.m64nNk16.f32)
template <class T, Major MajorA = Major::k, Major MajorB = Major::k, int Count>
RECURFORMER_DEVICE void multiply_add_64xNx16(float (&d)[Count], std::uint64_t a, std::uint64_t b,
                                             bool accumulate,
                                             [[maybe_unused]] Caller caller = Caller::here()) {
  static_assert(Count % 8 == 0 && Count <= 128, "recurformer: wgmma has N = 16, 32, … 256 here");
  static_assert(dtype_of<T> == DType::BF16 || dtype_of<T> == DType::F16,
                "recurformer: wgmma multiplies bf16 or fp16");
#if defined(__CUDACC__)
  ptx::multiply_shared<T, static_cast<int>(MajorA), static_cast<int>(MajorB)>(d, a, b, accumulate);
#else
  simulator::multiply_add(
      {.columns = 2 * Count,
       .convert = [](std::uint16_t bits) { return static_cast<float>(T::from_bits(bits)); },
       .major_a = MajorA,
       .major_b = MajorB,
       .caller = caller},
      {.d = d, .a = a, .b = b, .accumulate = accumulate});
#endif
}

/// The same with a in registers.
template <class T, Major MajorB = Major::k, int Count>
RECURFORMER_DEVICE void multiply_add_64xNx16(float (&d)[Count], const std::uint32_t (&a)[4], std::uint64_t b,
                                             bool accumulate,
                                             [[maybe_unused]] Caller caller = Caller::here()) {
  static_assert(Count % 8 == 0 && Count <= 128, "recurformer: wgmma has N = 16, 32, … 256 here");
  static_assert(dtype_of<T> == DType::BF16 || dtype_of<T> == DType::F16,
                "recurformer: wgmma multiplies bf16 or fp16");
#if defined(__CUDACC__)
  ptx::multiply_registers<T, static_cast<int>(MajorB)>(d, a, b, accumulate);
#else
  simulator::multiply_add(
      {.columns = 2 * Count,
       .convert = [](std::uint16_t bits) { return static_cast<float>(T::from_bits(bits)); },
       .major_b = MajorB,
       .caller = caller},
      {.d = d, .a_registers = a, .b = b, .accumulate = accumulate});
#endif
}

/// Makes one group, perhaps empty, of the warp's multiplies since the last. (wgmma.commit_group)
RECURFORMER_DEVICE void commit_multiplies([[maybe_unused]] Caller caller = Caller::here()) {
#if defined(__CUDACC__)
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
  simulator::commit_multiplies(caller);
#endif
}

/// Waits until at most the Newest last groups of the warp are under way. Accumulators that no group uses any
/// more are named, so that the compiler doesn't read them earlier, and registers of A, so that it doesn't
/// write them earlier. (wgmma.wait_group)
template <int Newest, class R0 = detail::NoRegisters, class R1 = detail::NoRegisters,
          class R2 = detail::NoRegisters, class R3 = detail::NoRegisters>
RECURFORMER_DEVICE void wait_for_multiplies(R0&& r0 = {}, R1&& r1 = {}, R2&& r2 = {}, R3&& r3 = {},
                                            [[maybe_unused]] Caller caller = Caller::here()) {
  static_assert(Newest >= 0 && Newest <= 7, "recurformer: wgmma.wait_group takes 0 to 7");
#if defined(__CUDACC__)
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Newest) : "memory");
  detail::pin(r0);
  detail::pin(r1);
  detail::pin(r2);
  detail::pin(r3);
#else
  simulator::wait_for_multiplies(
      Newest, {detail::range_of(r0), detail::range_of(r1), detail::range_of(r2), detail::range_of(r3)},
      caller);
#endif
}

}  // namespace RECURFORMER_ARCH
}  // namespace rf::arch

#endif  // RECURFORMER_ARCH_WGMMA_HPP
