// read_model_config, and what programs do with a config before they look at weights: bind its plan, and ask
// for the bytes of a cache.

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "recurformer/checkpoint/hf_config.hpp"
#include "recurformer/math/rope_table.hpp"
#include "recurformer/model/cache_layout.hpp"
#include "recurformer/spec/mamba.hpp"
#include "recurformer/spec/mamba2.hpp"
#include "recurformer/spec/standard_mamba2.hpp"
#include "target.hpp"

namespace {

constexpr rf::AttentionPolicy biased = {.qkv_bias = true};
template <class... M>
using Fp32Kinds = rf::Kinds<rf::Kind<M, rf::Fp32>...>;
using ConfigKinds =
    Fp32Kinds<rf::Attention<>, rf::Attention<biased>, rf::StreamingAttention<>,
              rf::StreamingAttention<rf::StreamingWindow{}, biased>, rf::Mamba<>,
              rf::Mamba<rf::ScanShape{}, rf::standard_mamba>, rf::Mamba2<>, rf::StandardMamba2<>>;

/// Bytes of the caches of layers whose groups are all of one kind, one layer for each kind of the set.
template <class... K>
std::int64_t cache_bytes(rf::Kinds<K...>, const std::tuple<typename K::Mixer...>& mixers,
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
  rf::ModelConfig config = rf::read_model_config(std::filesystem::path(path).parent_path().string());
  rf::validate(config.shape);
  rf::validate(config.plan, config.shape);
  rf::RopeTable(config.shape.layer.d_head, config.shape.layer.rope_base, config.shape.layer.rope_scaling)
      .reserve(8);
  for (auto& kind : config.plan.kinds) kind.precision = "fp32";  // as the command line does
  const auto bound = rf::bind_plan<ConfigKinds>(config.plan);
  if (cache_bytes(ConfigKinds{}, bound.mixers, config.shape.layer) < 0)
    rf::test::report_finding("a cache of a negative size");
}

const rf::test::RegisteredTarget config_target{{"config", rf::test::json_memory, 1 << 20, read_config}};

}  // namespace
