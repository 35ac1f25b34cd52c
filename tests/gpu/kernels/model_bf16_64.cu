#include "model.hpp"

template class rf::DeviceModel<AllMixers<rf::Bf16, 64>, rf::Cuda>;
