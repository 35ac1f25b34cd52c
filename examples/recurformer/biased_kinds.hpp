#ifndef EXAMPLES_RECURFORMER_BIASED_KINDS_HPP
#define EXAMPLES_RECURFORMER_BIASED_KINDS_HPP

#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/streaming_attention.hpp"

namespace cli {

/// Qwen2's heads.
inline constexpr rf::AttentionPolicy qkv_bias{.qkv_bias = true};
using BiasedAttention = rf::Attention<qkv_bias>;
using BiasedStreaming = rf::StreamingAttention<rf::StreamingWindow{}, qkv_bias>;

}  // namespace cli

#endif  // EXAMPLES_RECURFORMER_BIASED_KINDS_HPP
