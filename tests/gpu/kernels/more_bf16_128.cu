#include "model.hpp"

template class rf::Model<AllMixers<rf::Bf16, 128>, rf::Cuda>;
