#ifndef EXAMPLES_RECURFORMER_DEVICE_MODEL_ON_HPP
#define EXAMPLES_RECURFORMER_DEVICE_MODEL_ON_HPP

#include <string>
#include <utility>

#include "device_model.hpp"
#include "recurformer/checkpoint/device_cache_file.hpp"
#include "recurformer/model/device_model.hpp"
#include "recurformer/model/generate.hpp"
#include "recurformer/plan/device_analysis.hpp"

namespace cli {

/// DeviceModel on one kind of device.
template <class Device>
class DeviceModelOn final : public DeviceModel {
 public:
  template <class... DeviceArguments>
  DeviceModelOn(const DeviceModelWeights& weights, DeviceArguments&&... arguments)
      : device_(std::forward<DeviceArguments>(arguments)...),
        model_(device_, weights),
        cache_(model_.make_cache()) {}

  const rf::ModelShape& shape() const override { return model_.shape(); }
  std::vector<rf::Token> generate(std::span<const rf::Token> prompt, std::int64_t count,
                                  const rf::SamplingOptions& options,
                                  const std::function<bool(rf::Token)>& on_token) override {
    return rf::generate(model_, cache_, prompt, count, options, on_token);
  }
  rf::ModelAnalysis analyse(const std::function<rf::Batch(std::int64_t)>& batch, std::int64_t batches,
                            const rf::AnalysisOptions& options,
                            const std::function<void(std::int64_t)>& on_batch) override {
    rf::DeviceAnalyser<DeviceSpec, Device> analyser(model_, options);
    for (std::int64_t i = 0; i < batches; ++i) {
      analyser.add(batch(i));
      on_batch(i + 1);
    }
    return analyser.result();
  }
  void load_cache(const std::string& path) override { rf::load_cache(cache_, path); }
  void save_cache(const std::string& path) const override { rf::save_cache(cache_, path); }
  std::int64_t cache_tokens() const override { return cache_.length(); }
  std::int64_t cache_bytes() const override { return cache_.bytes(); }
  std::string backend() const override { return device_.description(); }

 private:
  Device device_;
  rf::Model<DeviceSpec, Device> model_;
  rf::DeviceCache<Device> cache_;
};

}  // namespace cli

#endif  // EXAMPLES_RECURFORMER_DEVICE_MODEL_ON_HPP
