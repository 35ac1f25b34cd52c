#ifndef EXAMPLES_INSTRUCTION_SETS_LAYER_HPP
#define EXAMPLES_INSTRUCTION_SETS_LAYER_HPP

#include <cstdint>
#include <span>

#include "recurformer/core/instruction_set.hpp"

inline constexpr std::int64_t layer_width = 128;

/// x (rows, layer_width), the tokens of one sequence, through a layer of attention and Mamba heads in place.
/// layer.cpp has the instance for each set.
template <rf::InstructionSet>
void forward_layer(std::span<float> x);

#endif  // EXAMPLES_INSTRUCTION_SETS_LAYER_HPP
