#include "model.hpp"

template class rf::Model<AllMixers<rf::Fp16, 64>, rf::Cuda>;
