#ifndef RECURFORMER_REFERENCE_ATTENTION_HPP
#define RECURFORMER_REFERENCE_ATTENTION_HPP

// Softmax attention in double, one query at a time:
//
//   w_j = exp(q_i · k_j / √d_head) / Σ_j' …  over the visible j,   out_i = Σ_j w_j v_j
//
// Key j is visible to query i iff j <= i and (j < sink or i - j < window); Attention sees everything before
// it. q and k go through the layer's norms, if it has them, and are rotated by RoPE at their absolute
// positions. Projected columns of one group:
// q (queries · d_head) | k (d_head) | v (d_head).

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "recurformer/reference/mixer_reference.hpp"
#include "recurformer/reference/rope.hpp"
#include "recurformer/spec/attention.hpp"
#include "recurformer/spec/streaming_attention.hpp"

namespace rf::reference {

/// Which keys a query may look at.
struct AttentionMask {
  std::int64_t sink = 0;
  std::int64_t window = std::numeric_limits<std::int64_t>::max();

  bool visible(std::int64_t query, std::int64_t key) const {
    return key <= query && (key < sink || query - key < window);
  }
};

/// RMSNorm of one head's vector x (d_head), in place; nothing without a gain.
inline void normalise(double* x, const HeadShape& shape, const double* gain) {
  if (!gain) return;
  double squares = 0;
  for (int d = 0; d < shape.d_head; ++d) squares += x[d] * x[d];
  const double scale = 1.0 / std::sqrt(squares / shape.d_head + shape.norm_epsilon);
  for (int d = 0; d < shape.d_head; ++d) x[d] *= scale * gain[d];
}

/// The attention of one query: a weight for every key, and the log-sum-exp of the scaled scores.
struct AttentionRow {
  std::vector<double> weights;  ///< one per key; exactly 0 where masked
  double log_sum_exp = -std::numeric_limits<double>::infinity();
};

/// keys: (count, d_head), rotated as the query is; the query's position is `position`.
inline AttentionRow attention_row(const double* query, const double* keys, std::int64_t count, int d_head,
                                  const AttentionMask& mask, std::int64_t position) {
  AttentionRow row;
  row.weights.assign(static_cast<std::size_t>(count), 0.0);
  double largest = -std::numeric_limits<double>::infinity();
  const double scale = 1.0 / std::sqrt(static_cast<double>(d_head));
  for (std::int64_t j = 0; j < count; ++j) {
    if (!mask.visible(position, j)) continue;
    double score = 0;
    for (int d = 0; d < d_head; ++d) score += query[d] * keys[j * d_head + d];
    row.weights[static_cast<std::size_t>(j)] = score * scale;
    largest = std::fmax(largest, score * scale);
  }
  double sum = 0;
  for (std::int64_t j = 0; j < count; ++j) {
    double& weight = row.weights[static_cast<std::size_t>(j)];
    if (mask.visible(position, j)) sum += weight = std::exp(weight - largest);
  }
  if (sum > 0) {
    for (double& weight : row.weights) weight /= sum;
    row.log_sum_exp = largest + std::log(sum);
  }
  return row;
}

/// What one group remembers between calls.
struct AttentionState {
  template <class Precision>
  using Stored = typename Precision::Cache;

  std::vector<double> keys, values;   ///< (position, d_head), keys rotated
  RowRounding round_row = exact_row;  ///< of every new key and value
};

/// Both mixers: they differ in the mask only.
inline void attention_forward(const AttentionMask& mask, const HeadShape& shape, const GroupArguments& a,
                              AttentionState& state) {
  const int d_head = shape.d_head, queries = shape.queries_per_group;
  const std::int64_t width = (queries + 2) * d_head;
  std::vector<double> query(static_cast<std::size_t>(d_head));
  for (std::int64_t t = 0; t < a.rows; ++t) {
    const std::int64_t position = a.position + t;
    const double* row = a.projected + t * width;
    const double* key = row + queries * d_head;
    state.keys.insert(state.keys.end(), key, key + d_head);
    state.values.insert(state.values.end(), key + d_head, key + 2 * d_head);
    double* new_key = state.keys.data() + position * d_head;
    double* new_value = state.values.data() + position * d_head;
    normalise(new_key, shape, a.key_norm);
    rotate(new_key, shape, position);
    state.round_row({new_key, static_cast<std::size_t>(d_head)});
    state.round_row({new_value, static_cast<std::size_t>(d_head)});
    for (int h = 0; h < queries; ++h) {
      query.assign(row + h * d_head, row + (h + 1) * d_head);
      normalise(query.data(), shape, a.query_norm);
      rotate(query.data(), shape, position);
      const AttentionRow weights =
          attention_row(query.data(), state.keys.data(), position + 1, d_head, mask, position);
      double* out = a.out + (t * queries + h) * d_head;
      for (int d = 0; d < d_head; ++d) out[d] = 0;
      for (std::int64_t j = 0; j <= position; ++j) {
        const double weight = weights.weights[static_cast<std::size_t>(j)];
        if (!mask.visible(position, j)) continue;
        for (int d = 0; d < d_head; ++d)
          out[d] += weight * state.values[static_cast<std::size_t>(j * d_head + d)];
      }
    }
  }
}

template <AttentionPolicy Policy>
struct MixerReference<Attention<Policy>> {
  using State = AttentionState;
  static void forward(const Attention<Policy>&, const HeadShape& shape, const GroupArguments& arguments,
                      State& state) {
    attention_forward(AttentionMask{}, shape, arguments, state);
  }
};

template <StreamingWindow Default, AttentionPolicy Policy>
struct MixerReference<StreamingAttention<Default, Policy>> {
  using State = AttentionState;
  static void forward(const StreamingAttention<Default, Policy>& mixer, const HeadShape& shape,
                      const GroupArguments& arguments, State& state) {
    attention_forward({.sink = mixer.sink, .window = mixer.window}, shape, arguments, state);
  }
};

}  // namespace rf::reference

#endif  // RECURFORMER_REFERENCE_ATTENTION_HPP
