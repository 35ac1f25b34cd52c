#include "device_model_on.hpp"
#include "recurformer/cuda/simulated.hpp"

namespace cli {

std::unique_ptr<DeviceModel> model_on_simulator(const DeviceModelWeights& weights) {
  return std::make_unique<DeviceModelOn<rf::Simulated>>(weights);
}

}  // namespace cli
