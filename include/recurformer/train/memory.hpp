#ifndef RECURFORMER_TRAIN_MEMORY_HPP
#define RECURFORMER_TRAIN_MEMORY_HPP

// What training takes in memory, from sizes alone, so that a run which cannot fit is refused before it
// starts. With n tokens in a batch, per layer and token (floats):
//   x, h, x_mid, h_mid   4 · d_model          inputs of the two halves, plain and normalised
//   projected            Σ groups · width     what mixers read
//   saved                mixers' own          log-sum-exp, states between chunks
//   u                    heads · d_head       twice with a norm across the heads
//   gate, up, act        3 · d_ff
// and once: gradients of the widest of these, and the logits of a block of rows. Where activations are
// computed again, all layers have an x, and share the rest: of every kind as much as the layer with most of
// it takes.

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "recurformer/model/loss.hpp"
#include "recurformer/model/plan_sizes.hpp"
#include "recurformer/train/trainer.hpp"

namespace rf {

/// Bytes.
struct TrainingMemory {
  std::int64_t weights = 0;      ///< of the model
  std::int64_t gradients = 0;    ///< in float
  std::int64_t optimizer = 0;    ///< two moments per parameter, and a float copy of narrower weights
  std::int64_t activations = 0;  ///< kept for backward, and its scratch memory
  std::int64_t teacher = 0;      ///< weights and activations of the original model

  std::int64_t total() const { return weights + gradients + optimizer + activations + teacher; }
};

namespace detail {

inline std::int64_t total_rows(std::span<const SequenceRows> sequences) {
  std::int64_t rows = 0;
  for (const SequenceRows& sequence : sequences) rows += sequence.rows;
  return rows;
}

/// Floats of one layer's tape but for what its mixers read and keep.
inline std::int64_t layer_tape_floats(const LayerShape& shape, std::int64_t rows) {
  const std::int64_t d = shape.d_model, f = shape.d_ff, w = shape.heads_width();
  return rows * (d + 1 + w + (shape.heads_norm ? w + 1 : 0) + (f > 0 ? 2 * d + 1 + 3 * f : 0));
}

/// Floats that the mixers of one layer read and keep, kind by kind.
template <class Set>
std::array<std::int64_t, Set::size> mixer_tape_floats(const LayerShape& shape, const BoundPlan<Set>& plan,
                                                      std::size_t layer,
                                                      std::span<const SequenceRows> sequences) {
  const HeadShape heads = shape.head_shape();
  std::array<std::int64_t, Set::size> floats{};
  std::size_t kind = 0;
  for_each_kind(plan.mixers, plan.kind_of_group[layer], Set{},
                [&]<class K>(const typename K::Mixer& mixer, const std::vector<int>& groups) {
                  using Kernel = cpu::MixerKernel<typename K::Mixer>;
                  const auto count = static_cast<std::int64_t>(groups.size());
                  if (count > 0)
                    floats[kind] = total_rows(sequences) * count * projection_width(mixer, heads) +
                                   Kernel::saved_size(mixer, heads, count, sequences);
                  ++kind;
                });
  return floats;
}

/// Floats that the tape of a whole model keeps of these whole sequences.
template <class Set>
std::int64_t tape_floats(const ModelShape& shape, const BoundPlan<Set>& plan,
                         std::span<const SequenceRows> sequences, Activations activations) {
  const std::int64_t rows = total_rows(sequences), d = shape.layer.d_model;
  const auto layers = static_cast<std::int64_t>(plan.kind_of_group.size());
  std::int64_t all = 0;                              // what the mixers of all layers take
  std::array<std::int64_t, Set::size> most_of = {};  // what a kind takes where it takes most
  for (std::size_t l = 0; l < plan.kind_of_group.size(); ++l) {
    const auto floats = mixer_tape_floats(shape.layer, plan, l, sequences);
    for (std::size_t kind = 0; kind < Set::size; ++kind) {
      all += floats[kind];
      most_of[kind] = std::max(most_of[kind], floats[kind]);
    }
  }
  const std::int64_t of_inputs = layers * rows * d, of_outputs = rows * (2 * d + 1),
                     of_layer = layer_tape_floats(shape.layer, rows);
  if (activations == Activations::kept) return of_inputs + of_outputs + layers * of_layer + all;
  return of_inputs + of_outputs + of_layer + std::accumulate(most_of.begin(), most_of.end(), std::int64_t{0});
}

}  // namespace detail

/// Of a Trainer<M> on batches of `rows` sequences of `length` tokens, with its option `activations`, for
/// models whose kinds have one precision. With a teacher, whose plan is given, training starts by matching
/// heads and goes on with a divergence.
template <class M>
TrainingMemory training_memory(const ModelShape& shape, const BoundPlan<typename M::Kinds>& plan,
                               std::int64_t rows, std::int64_t length,
                               const BoundPlan<typename M::Kinds>* teacher = nullptr,
                               Activations activations = Activations::kept) {
  using Weight = typename M::Precision::Weight;
  constexpr std::int64_t bytes = sizeof(float), master = std::same_as<Weight, float> ? 0 : bytes;
  constexpr std::int64_t most_tokens = std::int64_t{1} << 32;  // keeps every sum below within 63 bits
  check(rows >= 1 && length >= 1 && rows <= most_tokens / length, "a batch of ", rows, " rows of ", length,
        " tokens; allowed: at least one of each, and at most 2^32 tokens");
  const SequenceRows row{.rows = length};
  const auto tape = [&](const auto& of) {
    return rows * detail::tape_floats(shape, of, {&row, 1}, activations);
  };
  const LayerShape& layer = shape.layer;
  const std::int64_t tokens = rows * length, d = layer.d_model, f = layer.d_ff;
  const std::int64_t parameters = parameter_count(shape, plan);
  std::int64_t widest = 0;  // projections of a run
  detail::for_each_kind(plan.mixers, {}, typename M::Kinds{},
                        [&]<class K>(const typename K::Mixer& mixer, const std::vector<int>&) {
                          widest = std::max(widest, projection_width(mixer, layer.head_shape()));
                        });
  const std::int64_t backward = tokens * (3 * d + layer.heads_width() + 3 * f + layer.kv_groups * widest);
  const std::int64_t logits = std::min(detail::logit_block_rows(shape.vocabulary), tokens) * shape.vocabulary;

  TrainingMemory out{.weights = parameters * static_cast<std::int64_t>(sizeof(Weight)),
                     .gradients = parameters * bytes,
                     .optimizer = parameters * (2 * bytes + master),
                     .activations = (tape(plan) + backward + logits) * bytes};
  if (teacher)
    out.teacher = parameter_count(shape, *teacher) * static_cast<std::int64_t>(sizeof(Weight)) +
                  (tape(*teacher) + logits) * bytes;
  return out;
}

}  // namespace rf

#endif  // RECURFORMER_TRAIN_MEMORY_HPP
