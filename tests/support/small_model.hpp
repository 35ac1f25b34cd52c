#ifndef TESTS_SUPPORT_SMALL_MODEL_HPP
#define TESTS_SUPPORT_SMALL_MODEL_HPP

// A small hybrid model with every mixer of the library, and random tokens for it. One head width keeps
// compiling short.

#include <cstdint>
#include <utility>
#include <vector>

#include "recurformer/cpu/attention_mixer.hpp"
#include "recurformer/cpu/mamba2_mixer.hpp"
#include "recurformer/cpu/mamba_mixer.hpp"
#include "recurformer/model/model.hpp"
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/mamba.hpp"
#include "recurformer/spec/mamba2.hpp"
#include "recurformer/spec/streaming_attention.hpp"
#include "recurformer/train/trainer.hpp"

namespace small {

struct Spec {
  using Kinds = rf::Kinds<rf::Kind<rf::Attention<>, rf::Fp32>, rf::Kind<rf::StreamingAttention<>, rf::Fp32>,
                          rf::Kind<rf::Mamba<>, rf::Fp32>, rf::Kind<rf::Mamba2<>, rf::Fp32>>;
  using Precision = rf::Fp32;
  using Widths = std::integer_sequence<int, 16>;
};
using Model = rf::Model<Spec>;

inline rf::ModelShape shape(bool tied = true) {
  return {.vocabulary = 40,
          .layers = 2,
          .layer = {.d_model = 24, .d_head = 16, .kv_groups = 4, .queries_per_group = 2, .d_ff = 36},
          .tied_embeddings = tied};
}

/// Every mixer in both layers, in different places.
inline rf::Plan hybrid_plan() {
  return {.kinds = {{"attention", "fp32", {}},
                    {"streaming", "fp32", {{"sink", 2}, {"window", 5}}},
                    {"mamba", "fp32", {}},
                    {"mamba2", "fp32", {}}},
          .kind_of_group = {{0, 2, 3, 1}, {3, 0, 1, 2}}};
}
inline rf::Plan attention_plan() { return rf::uniform_plan({"attention", "fp32", {}}, 2, 4); }

/// Makes every parameter differ from zero, so that no gradient vanishes by construction.
template <class M>
void randomise(M& model, std::uint64_t seed = 1) {
  initialise(model.weights(), seed);
  rf::Random random(seed + 100);
  for (const auto& parameter : rf::parameter_refs(model.weights())) {
    auto* values = static_cast<float*>(parameter.data);
    for (std::int64_t i = 0; i < parameter.size; ++i) values[i] += static_cast<float>(0.05 * random.normal());
  }
}
inline Model model(const rf::Plan& plan = hybrid_plan(), bool tied = true, std::uint64_t seed = 1) {
  Model out(shape(tied), plan);
  randomise(out, seed);
  return out;
}

inline std::vector<rf::Token> tokens(std::int64_t count, std::uint64_t seed = 7) {
  rf::Random random(seed);
  std::vector<rf::Token> out;
  for (std::int64_t i = 0; i < count; ++i) out.push_back(static_cast<rf::Token>(random.below(40)));
  return out;
}

}  // namespace small

// Instantiated once, in small_model.cpp: the kernels of four mixers take most of a test's compile time.
extern template class rf::Model<small::Spec>;
extern template class rf::Trainer<small::Model>;

#endif  // TESTS_SUPPORT_SMALL_MODEL_HPP
