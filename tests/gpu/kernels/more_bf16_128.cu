#include "model.hpp"

template class rf::DeviceModel<AllMixers<rf::Bf16, 128>, rf::Cuda>;
