// read_model_config, and what programs do with a config before they look at weights: bind its plan, and ask
// for the bytes of a cache.

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "recurformer/checkpoint/hf_config.hpp"
#include "recurformer/model/cache_layout.hpp"
#include "recurformer/spec/mamba.hpp"
#include "recurformer/spec/mamba2.hpp"
#include "target.hpp"

namespace {

using ConfigKinds =
    rf::Kinds<rf::Kind<rf::Attention<>, rf::Fp32>, rf::Kind<rf::StreamingAttention<>, rf::Fp32>,
              rf::Kind<rf::Mamba<>, rf::Fp32>, rf::Kind<rf::Mamba2<>, rf::Fp32>,
              rf::Kind<rf::Attention<rf::AttentionPolicy{.qkv_bias = true}>, rf::Bf16>>;

/// Bytes of the cache of one layer whose groups are all of one kind, whichever of the set's kinds that is.
template <class... K>
std::int64_t largest_cache(rf::Kinds<K...>, const std::tuple<typename K::Mixer...>& mixers,
                           const rf::LayerShape& shape) {
  std::int64_t total = 0;
  const auto add = [&]<class Kind>(const typename Kind::Mixer& mixer, Kind*) {
    const rf::CacheLayout layout{{{rf::run_layout<Kind>(mixer, shape.head_shape(), shape.kv_groups)}}};
    total += layout.bytes(1 << 16, 16);
  };
  std::apply([&](const auto&... mixer) { (add(mixer, static_cast<K*>(nullptr)), ...); }, mixers);
  return total;
}

void read_config(std::string_view bytes) {
  const std::string path = rf::test::scratch_file("config.json", bytes);
  const rf::ModelConfig config = rf::read_model_config(std::filesystem::path(path).parent_path().string());
  rf::validate(config.shape);
  rf::validate(config.plan, config.shape);
  const auto bound = rf::bind_plan<ConfigKinds>(config.plan);
  if (largest_cache(ConfigKinds{}, bound.mixers, config.shape.layer) < 0)
    rf::test::report_finding("a cache of a negative size");
}

const rf::test::RegisteredTarget config{{"config", rf::test::json_memory, 1 << 20, read_config}};

}  // namespace
