#include "model.hpp"

template class rf::DeviceModel<AllMixers<rf::Fp16, 64>, rf::Cuda>;
