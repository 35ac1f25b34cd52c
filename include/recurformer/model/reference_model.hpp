#ifndef RECURFORMER_MODEL_REFERENCE_MODEL_HPP
#define RECURFORMER_MODEL_REFERENCE_MODEL_HPP

// The executable definition of a whole model: naive loops in double over the model's own parameters, one
// sequence, no cache. Logits, losses and (by finite differences) gradients are tested against it. It can also
// be a plain implementation in low precision: given a rounding, what passes from one operation to the next is
// rounded; given the lengths of the calls that take the tokens in, caches are stored in the runs' own types
// between them. Kernels may be at most twice as far from the exact result as that.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "recurformer/core/dtype.hpp"
#include "recurformer/model/weights.hpp"
#include "recurformer/reference/mixer_reference.hpp"

namespace rf::reference {

namespace detail {

inline std::vector<double> rounded(std::vector<double> values, Rounding round) {
  for (double& value : values) value = round(value);
  return values;
}

template <class T>
std::vector<double> to_double(const T* data, std::int64_t size) {
  std::vector<double> out(static_cast<std::size_t>(size));
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = convert<double>(data[i]);
  return out;
}

/// y (rows, out) += x (rows, in) Wᵀ with W (out, in).
template <class T, class Packed>
void add_product(const std::vector<double>& x, const Linear<T, Packed>& w, std::vector<double>& y) {
  const auto in = static_cast<std::size_t>(w.in()), out = static_cast<std::size_t>(w.out());
  const auto elements = to_double(w.data(), w.size());
  for (std::size_t r = 0; r < x.size() / in; ++r)
    for (std::size_t o = 0; o < out; ++o)
      for (std::size_t i = 0; i < in; ++i) y[r * out + o] += x[r * in + i] * elements[o * in + i];
}

inline std::vector<double> rms_norm_rows(const std::vector<double>& x, const std::vector<float>& gain,
                                         double epsilon) {
  std::vector<double> y(x.size());
  const std::size_t d = gain.size();
  for (std::size_t r = 0; r < x.size() / d; ++r) {
    double squares = 0;
    for (std::size_t i = 0; i < d; ++i) squares += x[r * d + i] * x[r * d + i];
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(d) + epsilon);
    for (std::size_t i = 0; i < d; ++i) y[r * d + i] = x[r * d + i] * scale * static_cast<double>(gain[i]);
  }
  return y;
}

/// Gains of a layer's norms of queries and keys, (d_head) each; empty without qk_norm.
struct QueryKeyNorms {
  std::vector<double> query, key;
};

/// One run's heads into their columns of u (rows, heads · d_head).
template <class K>
void run_heads(const RunWeights<K>& run, const LayerShape& shape, const QueryKeyNorms& norms,
               const std::vector<double>& h, std::size_t rows, Rounding round,
               std::span<const std::int64_t> calls, std::vector<double>& u) {
  if (run.groups.empty()) return;
  const HeadShape head_shape = shape.head_shape();
  const auto width = static_cast<std::size_t>(run.width(head_shape));
  const std::size_t all = width * run.groups.size();
  std::vector<double> projected(rows * all);
  add_product(h, run.projection, projected);
  if (!run.bias.empty())
    for (std::size_t i = 0; i < projected.size(); ++i) projected[i] += static_cast<double>(run.bias[i % all]);
  projected = rounded(std::move(projected), round);
  for (std::size_t g = 0; g < run.groups.size(); ++g) {
    std::vector<double> group_projected(rows * width),
        out(rows * static_cast<std::size_t>(head_shape.group_width()));
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t i = 0; i < width; ++i)
        group_projected[r * width + i] = projected[r * all + g * width + i];
    std::vector<std::vector<double>> local;
    for (const auto& tensor : run.local) {
      const std::size_t size = tensor.size() / run.groups.size();
      local.push_back(to_double(tensor.data() + g * size, static_cast<std::int64_t>(size)));
    }
    const std::vector<std::span<const double>> spans(local.begin(), local.end());
    using Reference = MixerReference<typename K::Mixer>;
    typename Reference::State state;
    if (!calls.empty()) store_as<typename K::Precision>(state);
    const auto whole = static_cast<std::int64_t>(rows);
    std::int64_t position = 0;
    for (const std::int64_t call : calls.empty() ? std::span(&whole, 1) : calls) {
      Reference::forward(run.mixer, head_shape,
                         {.rows = call,
                          .position = position,
                          .projected = group_projected.data() + static_cast<std::size_t>(position) * width,
                          .local = spans,
                          .query_norm = norms.query.empty() ? nullptr : norms.query.data(),
                          .key_norm = norms.key.empty() ? nullptr : norms.key.data(),
                          .out = out.data() + position * head_shape.group_width()},
                         state);
      position += call;
    }
    const auto columns = static_cast<std::size_t>(head_shape.group_width()),
               total = static_cast<std::size_t>(shape.heads_width());
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t i = 0; i < columns; ++i)
        u[r * total + static_cast<std::size_t>(run.groups[g]) * columns + i] = round(out[r * columns + i]);
  }
}

}  // namespace detail

/// x (rows, d_model) through one layer, in place. `calls` add up to the rows, or are empty: nothing is
/// stored.
template <class Set, class P>
void forward_layer(const LayerWeights<Set, P>& weights, const LayerShape& shape, std::vector<double>& x,
                   Rounding round = exact, std::span<const std::int64_t> calls = {}) {
  const std::size_t rows = x.size() / static_cast<std::size_t>(shape.d_model);
  const auto h = detail::rounded(detail::rms_norm_rows(x, weights.mixer_norm, shape.norm_epsilon), round);
  std::vector<double> u(rows * static_cast<std::size_t>(shape.heads_width()));
  const detail::QueryKeyNorms norms{{weights.query_norm.begin(), weights.query_norm.end()},
                                    {weights.key_norm.begin(), weights.key_norm.end()}};
  weights.for_each_run(
      [&](std::size_t, const auto& run) { detail::run_heads(run, shape, norms, h, rows, round, calls, u); });
  if (shape.heads_norm)
    u = detail::rounded(detail::rms_norm_rows(u, weights.heads_norm, shape.norm_epsilon), round);
  detail::add_product(u, weights.output, x);
  x = detail::rounded(std::move(x), round);
  if (shape.d_ff == 0) return;
  const auto f = static_cast<std::size_t>(shape.d_ff);
  std::vector<double> gate_up(rows * 2 * f), act(rows * f);
  detail::add_product(detail::rounded(detail::rms_norm_rows(x, weights.mlp_norm, shape.norm_epsilon), round),
                      weights.gate_up, gate_up);
  gate_up = detail::rounded(std::move(gate_up), round);
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t i = 0; i < f; ++i) {
      const double gate = gate_up[r * 2 * f + i];
      act[r * f + i] = round(gate / (1.0 + std::exp(-gate)) * gate_up[r * 2 * f + f + i]);
    }
  detail::add_product(act, weights.down, x);
  x = detail::rounded(std::move(x), round);
}

/// Logits (tokens, vocabulary) of one sequence. `calls` add up to the tokens, or are empty: nothing is
/// stored.
template <class Set, class P>
std::vector<double> logits(const ModelWeights<Set, P>& weights, std::span<const std::int32_t> tokens,
                           Rounding round = exact, std::span<const std::int64_t> calls = {}) {
  const LayerShape& shape = weights.shape.layer;
  const auto d = static_cast<std::size_t>(shape.d_model);
  std::vector<double> x(tokens.size() * d);
  for (std::size_t r = 0; r < tokens.size(); ++r)
    for (std::size_t i = 0; i < d; ++i)
      x[r * d + i] = convert<double>(weights.embedding.data()[static_cast<std::size_t>(tokens[r]) * d + i]);
  for (const auto& layer : weights.layers) forward_layer(layer, shape, x, round, calls);
  std::vector<double> out(tokens.size() * static_cast<std::size_t>(weights.shape.vocabulary));
  detail::add_product(
      detail::rounded(detail::rms_norm_rows(x, weights.final_norm, shape.norm_epsilon), round),
      weights.logits(), out);
  return out;
}

/// Mean cross entropy of the rows of logits whose target is not negative.
inline double cross_entropy_of(const std::vector<double>& logits, std::span<const std::int32_t> targets) {
  const std::size_t vocabulary = logits.size() / targets.size();
  double total = 0;
  std::int64_t counted = 0;
  for (std::size_t r = 0; r < targets.size(); ++r) {
    if (targets[r] < 0) continue;
    const double* row = logits.data() + r * vocabulary;
    double most = row[0], sum = 0;
    for (std::size_t i = 1; i < vocabulary; ++i) most = row[i] > most ? row[i] : most;
    for (std::size_t i = 0; i < vocabulary; ++i) sum += std::exp(row[i] - most);
    total += most + std::log(sum) - row[static_cast<std::size_t>(targets[r])];
    ++counted;
  }
  return counted == 0 ? 0.0 : total / static_cast<double>(counted);
}

}  // namespace rf::reference

#endif  // RECURFORMER_MODEL_REFERENCE_MODEL_HPP
