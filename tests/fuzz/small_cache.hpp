#ifndef RECURFORMER_TESTS_FUZZ_SMALL_CACHE_HPP
#define RECURFORMER_TESTS_FUZZ_SMALL_CACHE_HPP

// A cache with every kind of field, of heads as small as can be.

#include <cstdint>

#include "recurformer/model/cache.hpp"
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/mamba.hpp"
#include "recurformer/spec/streaming_attention.hpp"

namespace rf::test {

inline Cache small_cache() {
  constexpr HeadShape shape{.d_model = 2, .d_head = 2};
  StreamingAttention<> streaming;
  streaming.sink = 1;
  streaming.window = 2;
  CacheLayout layout{{{run_layout<Kind<Attention<>, Bf16>>({}, shape, 1),
                       run_layout<Kind<StreamingAttention<>, Fp32>>(streaming, shape, 1),
                       run_layout<Kind<Mamba<ScanShape{.d_state = 2, .d_conv = 2}>, Fp32>>({}, shape, 1)}}};
  for (int run = 0; run < 3; ++run) layout.layers[0][static_cast<std::size_t>(run)].members = {run};
  return Cache(layout, {.sequences = 1, .max_rollback = 2});
}

}  // namespace rf::test

#endif  // RECURFORMER_TESTS_FUZZ_SMALL_CACHE_HPP
