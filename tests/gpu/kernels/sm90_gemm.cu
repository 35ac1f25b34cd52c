// The GEMM that tests the instructions of Hopper (tests/arch/hopper_gemm.cpp).
#include "arch/hopper_gemm.hpp"
#include "recurformer/cuda/device.cuh"

const void* hopper_kernels() {
  return reinterpret_cast<const void*>(
      &rf::cuda::entry<rf::test::HopperGemm<rf::bf16, 128, rf::arch::Major::k, rf::test::Mistake::none>>);
}
