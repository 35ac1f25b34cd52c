// In place of cuda_model.cu where there is no nvcc.
#include "device_model.hpp"
#include "recurformer/core/error.hpp"

namespace cli {

std::string why_no_cuda() { return "this program was built without CUDA"; }

std::unique_ptr<DeviceModel> model_on_cuda(const DeviceModelWeights&) {
  throw rf::ArgumentError(
      "--device cuda: " + why_no_cuda() +
      "; configure with -DRECURFORMER_CUDA=ON where nvcc is installed, or use --device cpu");
}

}  // namespace cli
