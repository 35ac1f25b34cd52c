#include "engine.hpp"

template class rf::Model<cli::ProgramSpec>;
template class rf::Trainer<cli::Model>;
