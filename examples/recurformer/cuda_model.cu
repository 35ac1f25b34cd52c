#include "device_model_on.hpp"
#include "recurformer/cuda/device.cuh"

namespace cli {

std::string why_no_cuda() {
  std::string reason;
  rf::cuda::device_count(&reason);
  return reason;
}

std::unique_ptr<DeviceModel> model_on_cuda(const DeviceModelWeights& weights) {
  return std::make_unique<DeviceModelOn<rf::Cuda>>(weights);
}

}  // namespace cli
