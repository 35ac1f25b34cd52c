#ifndef RECURFORMER_SPEC_STREAMING_ATTENTION_HPP
#define RECURFORMER_SPEC_STREAMING_ATTENTION_HPP

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "recurformer/core/error.hpp"
#include "recurformer/math/attention_mask.hpp"
#include "recurformer/spec/attention.hpp"

namespace rf {

/// Which past tokens a streaming head sees.
struct StreamingWindow {
  std::int64_t sink = 4;      ///< first tokens of the sequence, >= 0
  std::int64_t window = 256;  ///< latest tokens, the current one included, >= 1
  friend constexpr bool operator==(const StreamingWindow&, const StreamingWindow&) = default;
};

/// Attention restricted to the first `sink` and the last `window` tokens, the current one included, with keys
/// rotated at absolute positions (StreamingLLM, arXiv 2309.17453; DuoAttention, arXiv 2410.10819). Constant
/// cache, the same weights as Attention: the baseline that replaces heads without training. The template
/// parameter gives the default of the two members, which a plan may set at run time.
template <StreamingWindow Default = StreamingWindow{}, AttentionPolicy Policy = AttentionPolicy{}>
struct StreamingAttention {
  static constexpr std::string_view name = Policy.qkv_bias ? "streaming_qkv_bias" : "streaming";
  static constexpr std::string_view module = "self_attn";
  static constexpr std::string_view header = "recurformer/spec/streaming_attention.hpp";
  static constexpr AttentionPolicy policy = Policy;
  static constexpr std::array<std::string_view, 2> option_names = {"sink", "window"};

  std::int64_t sink = Default.sink;
  std::int64_t window = Default.window;

  constexpr std::int64_t& option(std::size_t index) { return index == 0 ? sink : window; }
  constexpr std::int64_t option(std::size_t index) const { return index == 0 ? sink : window; }

  std::string type_name() const {
    return text("rf::StreamingAttention<rf::StreamingWindow{.sink = ", sink, ", .window = ", window, "}",
                Policy.qkv_bias ? ", " : "", detail::policy_text(Policy), ">");
  }

  constexpr auto parameters(const HeadShape& shape) const {
    return detail::attention_parameters<Policy>(shape);
  }

  /// What is seen, with limits that 32-bit arithmetic can take. ArgumentError for a negative sink, or no
  /// window.
  AttentionMask mask() const {
    check(sink >= 0, "streaming attention: sink is ", sink, "; it must be at least 0");
    check(window >= 1, "streaming attention: window is ", window, "; it must be at least 1");
    return {.sink = std::min(sink, AttentionMask::unlimited),
            .window = std::min(window, AttentionMask::unlimited)};
  }

  constexpr std::array<CacheField, 2> cache_fields(const HeadShape& shape) const {
    const auto field = [&](std::string_view called, std::string_view scales) {
      return CacheField{.name = called,
                        .kind = FieldKind::ring,
                        .slice = slice_of(shape.d_head),
                        .sink = sink,
                        .window = window,
                        .scales = scales};
    };
    return {field("key", "key_scale"), field("value", "value_scale")};
  }
};

}  // namespace rf

#endif  // RECURFORMER_SPEC_STREAMING_ATTENTION_HPP
