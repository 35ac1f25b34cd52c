#include "device_model.hpp"

#include <cstdio>

#include "recurformer/checkpoint/model_files.hpp"

namespace cli {

void add_device_option(CLI::App& command, std::string& device) {
  command
      .add_option("--device", device,
                  "cuda, cpu, or auto: a GPU if there is one; simulated: CUDA kernels on the CPU, very slow")
      ->check(CLI::IsMember({"auto", "cpu", "cuda", "simulated"}))
      ->capture_default_str();
}

std::string automatic_device() { return why_no_cuda().empty() ? "cuda" : "cpu"; }

std::unique_ptr<DeviceModel> load_on_device(const std::string& folder, const std::string& device) {
  rf::ModelConfig config = rf::read_model_config(folder);
  for (auto& kind : config.plan.kinds) kind.precision = "bf16";
  DeviceModelWeights weights(config.shape, rf::bind_plan<DeviceSpec::Kinds>(config.plan));
  rf::load_weights(weights, folder);
  auto model = device == "simulated" ? model_on_simulator(weights) : model_on_cuda(weights);
  std::fprintf(stderr, "backend: %s; weights and activations in bf16\n", model->backend().c_str());
  return model;
}

}  // namespace cli
