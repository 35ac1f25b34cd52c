#ifndef EXAMPLES_RECURFORMER_PROGRAM_HPP
#define EXAMPLES_RECURFORMER_PROGRAM_HPP

#include "recurformer/core/instruction_set.hpp"

namespace cli {

/// All of the program: what main() returns, errors said on stderr. program.cpp has the instance for each set.
template <rf::InstructionSet>
int run(int argc, char** argv);

}  // namespace cli

#endif  // EXAMPLES_RECURFORMER_PROGRAM_HPP
