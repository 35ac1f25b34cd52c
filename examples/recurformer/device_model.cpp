#include "device_model.hpp"

#include <cstdio>

#include "recurformer/checkpoint/model_files.hpp"
#include "recurformer/spec/plan_validation.hpp"

namespace cli {

void add_device_option(CLI::App& command, std::string& device) {
  command
      .add_option("--device", device,
                  "cuda, cpu, or auto: a GPU if there is one; simulated: CUDA kernels on the CPU, very slow")
      ->check(CLI::IsMember({"auto", "cpu", "cuda", "simulated"}))
      ->capture_default_str();
}

namespace {

/// Empty if DeviceSpec has kernels for this d_head; otherwise that it has none.
template <int... Width>
std::string why_no_kernels(int d_head, std::integer_sequence<int, Width...>) {
  if (((d_head == Width) || ...)) return {};
  std::string widths;
  ((widths += rf::text(widths.empty() ? "" : ", ", Width)), ...);
  return rf::text("the model's d_head is ", d_head, " and this program has GPU kernels for ", widths);
}

/// Empty if these kinds have device kernels for every head of the plan; otherwise which have none.
template <class... K>
std::string why_no_kernels(const rf::Plan& plan, rf::Kinds<K...>) {
  for (const rf::KindChoice& kind : rf::without_unused_kinds(plan).kinds)
    if (((kind.mixer != K::Mixer::name) && ...))
      return rf::text("the model has ", kind.mixer, " heads and this program has no GPU kernels for them");
  return {};
}

}  // namespace

DeviceChoice choose_device(const std::string& asked, const std::string& folder) {
  if (asked != "auto") return {asked, {}};
  const rf::ModelConfig config = rf::read_model_config(folder);
  std::string why = why_no_kernels(config.shape.layer.d_head, DeviceSpec::Widths{});
  if (why.empty()) why = why_no_kernels(config.plan, DeviceSpec::Kinds{});
  if (why.empty()) why = why_no_cuda();
  return {why.empty() ? "cuda" : "cpu", why};
}

std::unique_ptr<DeviceModel> load_on_device(const std::string& folder, const std::string& device) {
  rf::ModelConfig config = rf::read_model_config(folder);
  for (auto& kind : config.plan.kinds) kind.precision = "bf16";
  const auto plan = rf::bind_plan<DeviceSpec::Kinds>(config.plan);
  const rf::ModelTensors file(folder);
  rf::check_weights_size(config.shape, plan, file);
  DeviceModelWeights weights(config.shape, plan);
  rf::map_weights(weights, file);
  return device == "simulated" ? model_on_simulator(weights) : model_on_cuda(weights);
}

void use_device(const DeviceModel& model) {
  std::fprintf(stderr, "backend: %s; weights and activations in bf16\n", model.backend().c_str());
}

}  // namespace cli
