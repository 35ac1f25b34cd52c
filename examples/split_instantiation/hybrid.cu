// All kernels of the model.
#include "hybrid.cuh"

template class rf::DeviceModel<Hybrid, rf::Cuda>;
