#ifndef RECURFORMER_MODEL_INT8_WEIGHTS_HPP
#define RECURFORMER_MODEL_INT8_WEIGHTS_HPP

// What 8-bit integers would make of a model's weights, for a model that computes in floats: whoever wants to
// know what they cost needs no second set of kernels.
//
//   const double exact = evaluate_text(model, text, 256, 512).loss;
//   round_to_int8(model.weights());
//   const double rounded = evaluate_text(model, text, 256, 512).loss;

#include <algorithm>
#include <cstdint>

#include "recurformer/core/dtype.hpp"
#include "recurformer/core/parallel.hpp"
#include "recurformer/core/precision.hpp"
#include "recurformer/cpu/int8.hpp"
#include "recurformer/model/linear.hpp"
#include "recurformer/model/weights.hpp"

namespace rf {

/// Makes every weight the number that a model with Int8Weights for its heads and layers multiplies by once it
/// is packed: rounded to bf16, then to a multiple of the scale of its cpu::int8_group inputs. Rows of the
/// embedding that are looked up stay what they are; a tied one is untied for that, so that the logits' matrix
/// is one of its own.
template <class Set>
void round_to_int8(ModelWeights<Set, Fp32>& weights) {
  const auto round = [](Linear<float>& matrix) {
    float* const numbers = matrix.data();
    parallel_for(matrix.out(), [&](std::int64_t row) {
      for (std::int64_t first = 0; first < matrix.in(); first += cpu::int8_group) {
        const std::int64_t count = std::min<std::int64_t>(cpu::int8_group, matrix.in() - first);
        float* const group = numbers + row * matrix.in() + first;
        alignas(64) float stored[cpu::int8_group] = {};
        alignas(64) std::int8_t integers[cpu::int8_group];
        for (std::int64_t i = 0; i < count; ++i)
          stored[i] = convert<float>(convert<Int8Weights::Weight>(group[i]));
        const float scale = cpu::quantise<cpu::int8_group>(stored, integers);
        for (std::int64_t i = 0; i < count; ++i) group[i] = scale * static_cast<float>(integers[i]);
      }
    });
  };
  for (auto& layer : weights.layers) detail::for_each_matrix(layer, round);
  if (weights.shape.tied_embeddings) {
    weights.head = weights.embedding.clone();
    weights.shape.tied_embeddings = false;
  }
  round(weights.head);
}

}  // namespace rf

#endif  // RECURFORMER_MODEL_INT8_WEIGHTS_HPP
