#ifndef TESTS_SUPPORT_SIMULATED_MODEL_HPP
#define TESTS_SUPPORT_SIMULATED_MODEL_HPP

#include "recurformer/cuda/simulated.hpp"
#include "support/device_model.hpp"

// Instantiated once, in simulated_model.cpp: all kernels of a model take most of a test's compile time.
extern template class rf::DeviceModel<device_model::Spec, rf::Simulated>;
extern template class rf::DeviceLayer<device_model::OneLayer, rf::Simulated>;

#endif  // TESTS_SUPPORT_SIMULATED_MODEL_HPP
