#ifndef EXAMPLES_RECURFORMER_ENGINE_HPP
#define EXAMPLES_RECURFORMER_ENGINE_HPP

// The templates this program is made of, instantiated once (engine.cpp): the kernels of four mixers for seven
// head widths are a minute's compilation, and every command uses them.

#include "kinds.hpp"

extern template class rf::Model<cli::ProgramSpec>;
extern template class rf::Trainer<cli::Model>;

#endif  // EXAMPLES_RECURFORMER_ENGINE_HPP
