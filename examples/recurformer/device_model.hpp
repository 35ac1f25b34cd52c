#ifndef EXAMPLES_RECURFORMER_DEVICE_MODEL_HPP
#define EXAMPLES_RECURFORMER_DEVICE_MODEL_HPP

// A model on a device, in bf16: its kernels are in files of their own (cuda_model.cu, simulated_model.cpp),
// so that the rest of the program neither needs nvcc nor waits for it.

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "biased_kinds.hpp"
#include "recurformer/eval/token_text.hpp"
#include "recurformer/model/backend.hpp"
#include "recurformer/model/sampler.hpp"
#include "recurformer/model/weights.hpp"
#include "recurformer/plan/model_analysis.hpp"
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/mamba.hpp"
#include "recurformer/spec/mamba2.hpp"
#include "recurformer/spec/streaming_attention.hpp"

namespace cli {

/// The kinds of heads this program has device kernels for. Those with biases share them with those without.
struct DeviceSpec {
  using Kinds = rf::Kinds<rf::Kind<rf::Attention<>, rf::Bf16>, rf::Kind<rf::StreamingAttention<>, rf::Bf16>,
                          rf::Kind<rf::Mamba<>, rf::Bf16>, rf::Kind<rf::Mamba2<>, rf::Bf16>,
                          rf::Kind<BiasedAttention, rf::Bf16>, rf::Kind<BiasedStreaming, rf::Bf16>>;
  using Precision = rf::Bf16;
  using Widths = std::integer_sequence<int, 16, 64, 128>;
};
using DeviceModelWeights = rf::ModelWeights<DeviceSpec::Kinds, DeviceSpec::Precision>;

/// A model on a device and one sequence of its cache.
class DeviceModel {
 public:
  virtual ~DeviceModel() = default;
  virtual const rf::ModelShape& shape() const = 0;
  /// rf::generate() on this model's sequence.
  virtual std::vector<rf::Token> generate(std::span<const rf::Token> prompt, std::int64_t count,
                                          const rf::SamplingOptions& options,
                                          const std::function<bool(rf::Token)>& on_token) = 0;
  /// What rf::DeviceAnalyser measures on batch(0), …, batch(batches - 1); calls on_batch(how many are done).
  virtual rf::ModelAnalysis analyse(const std::function<rf::Batch(std::int64_t)>& batch, std::int64_t batches,
                                    const rf::AnalysisOptions& options,
                                    const std::function<void(std::int64_t)>& on_batch) = 0;
  /// rf::load_cache() and rf::save_cache() of this model's sequence.
  virtual void load_cache(const std::string& path) = 0;
  virtual void save_cache(const std::string& path) const = 0;
  virtual std::int64_t cache_tokens() const = 0;
  virtual std::int64_t cache_bytes() const = 0;
  /// "cuda (NVIDIA H100 80GB HBM3)".
  virtual std::string backend() const = 0;
};

/// Empty if there is a GPU that this program can use; otherwise why not.
std::string why_no_cuda();
/// A model on the first GPU. Throws rf::Error where why_no_cuda() has a reason.
std::unique_ptr<DeviceModel> model_on_cuda(const DeviceModelWeights& weights);
/// A model whose CUDA kernels run thread by thread on the CPU: exact, very slow, for finding mistakes.
std::unique_ptr<DeviceModel> model_on_simulator(const DeviceModelWeights& weights);

/// Adds --device to a command.
void add_device_option(CLI::App& command, std::string& device);
/// Where a command computes.
struct DeviceChoice {
  std::string device;  ///< "cpu", "cuda" or "simulated"
  std::string why;     ///< why "auto" chose the CPU; empty otherwise
};
/// What --device means for a model folder: "auto" is "cuda" where there is a GPU to use and this program has
/// kernels for the model's d_head, else "cpu". FileError if the folder has no config that can be read.
DeviceChoice choose_device(const std::string& asked, const std::string& folder);
/// Loads a model folder onto "cuda" or "simulated", whatever precision the file stores.
std::unique_ptr<DeviceModel> load_on_device(const std::string& folder, const std::string& device);
/// Says on stderr that this device computes; like use_cpu().
void use_device(const DeviceModel& model);

}  // namespace cli

#endif  // EXAMPLES_RECURFORMER_DEVICE_MODEL_HPP
