#include "support/simulated_model.hpp"

template class rf::DeviceModel<device_model::Spec, rf::Simulated>;
template class rf::DeviceLayer<device_model::OneLayer, rf::Simulated>;
