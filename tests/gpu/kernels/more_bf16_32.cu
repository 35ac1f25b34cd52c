#include "model.hpp"

template class rf::DeviceModel<AllMixers<rf::Bf16, 32>, rf::Cuda>;
