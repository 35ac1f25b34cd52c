// Small checkpoints of every architecture that config.json may name, against what `transformers` computes
// with them (tests/golden/make_models.py): logits of a prefill and of 16 decoded tokens, loss and gradients.

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "recurformer/cpu/attention_mixer.hpp"
#include "recurformer/model/linear_products.hpp"
#include "support/golden_model.hpp"

namespace {

constexpr rf::AttentionPolicy biased{.qkv_bias = true};
template <class P>
using AllAttention = rf::Kinds<rf::Kind<rf::Attention<>, P>, rf::Kind<rf::StreamingAttention<>, P>,
                               rf::Kind<rf::Attention<biased>, P>,
                               rf::Kind<rf::StreamingAttention<rf::StreamingWindow{}, biased>, P>>;
struct Fp32Spec {
  using Kinds = AllAttention<rf::Fp32>;
  using Precision = rf::Fp32;
};
struct Bf16Spec {
  using Kinds = AllAttention<rf::Bf16>;
  using Precision = rf::Bf16;
  using Widths = std::integer_sequence<int, 16, 64>;
};

}  // namespace

TEST_CASE("golden models: fp32 logits of every architecture") {
  for (const char* name : {"llama", "llama3_rope", "linear_rope", "yarn_rope", "llama_shards_fp16",
                           "mistral_window", "mistral", "qwen2", "qwen2_window", "qwen3", "qwen3_wide"})
    golden::check_logits<rf::Model<Fp32Spec>>(name);
}

TEST_CASE("golden models: bf16 is at most twice as far from fp32 as PyTorch's") {
  for (const char* name : {"llama", "linear_rope", "qwen2", "qwen2_window"})
    golden::check_bf16_logits<rf::Model<Bf16Spec>>(name);
}

TEST_CASE("golden models: loss and all gradients") {
  for (const char* name : {"llama", "qwen2"}) {
    CAPTURE(name);
    golden::check_gradients<rf::Model<Fp32Spec>>(name);
  }
}
