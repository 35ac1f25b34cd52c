// All kernels of the model.
#include "hybrid.cuh"

template class rf::Model<Hybrid, rf::Cuda>;
