#ifndef RECURFORMER_TESTS_PACKAGE_VECTOR_SUM_HPP
#define RECURFORMER_TESTS_PACKAGE_VECTOR_SUM_HPP

#include "recurformer/core/instruction_set.hpp"

/// Sum of `count` numbers; vector_sum.cpp is compiled for every instruction set.
template <rf::InstructionSet>
float vector_sum(const float* values, int count);

#endif  // RECURFORMER_TESTS_PACKAGE_VECTOR_SUM_HPP
