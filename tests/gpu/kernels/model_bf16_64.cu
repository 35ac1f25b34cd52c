#include "model.hpp"

template class rf::Model<AllMixers<rf::Bf16, 64>, rf::Cuda>;
