#include "device_model_on.hpp"
#include "recurformer/cuda/device.cuh"

namespace cli {

std::string why_no_cuda() {
  try {
    const rf::Cuda device;
    return {};
  } catch (const rf::CudaError& error) {
    return error.what();
  }
}

std::unique_ptr<DeviceModel> model_on_cuda(const DeviceModelWeights& weights) {
  return std::make_unique<DeviceModelOn<rf::Cuda>>(weights);
}

}  // namespace cli
