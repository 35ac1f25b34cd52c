#include "vector_sum.hpp"

#include "recurformer/tile/simd.hpp"

template <rf::InstructionSet>
float vector_sum(const float* values, int count) {
  rf::simd::Vec sum = rf::simd::zero();
  rf::simd::for_lanes(count, [&](std::int64_t i, auto n) { sum += rf::simd::load_n(values + i, n); });
  return rf::simd::reduce_add(sum);
}

template float vector_sum<rf::compiled_instruction_set>(const float*, int);
