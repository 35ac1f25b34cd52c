#include "support/simulated_model.hpp"

template class rf::DeviceModel<device_model::Spec, rf::Simulated>;
