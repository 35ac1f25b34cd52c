#ifndef RECURFORMER_KERNEL_ATTENTION_HPP
#define RECURFORMER_KERNEL_ATTENTION_HPP

// The forward pass of softmax attention as a tile program (FlashAttention-2, arXiv 2307.08691): one tile of
// queries walks over the tiles of keys it can see and keeps, per query, the running maximum m, the sum l of
// 2^(s - m) and the output o relative to m. Scores s are in units of log 2: the queries come scaled by
// log2(e)/√d_head, or tiles of scores know the unit of their elements and apply it in row_max() and
// exponentiate(). It runs on whatever a Backend's tiles are made of: vector registers, or CUDA fragments.
//
//   Backend::Output, Scores, Rows     tiles (queries, d_head), (queries, keys), (queries)
//   backend.rows(x)                   a Rows full of x
//   backend.queries()                 the tile of queries
//   backend.stream(f)                 calls f(keys, values, mask) for every tile of visible keys, in order;
//                                     mask.hide(scores) sets masked scores to -inf (nothing, for full tiles)
//   backend.observe(scores, mask, correction)   the recency probe; empty unless asked for at compile time
//   backend.finish(output, m, l)      divides by l and writes
//
// A query that sees no key at all ends with l = 0, output 0 and log-sum-exp -inf.

#include "recurformer/core/config.hpp"

namespace rf::kernel {

template <class Backend>
RECURFORMER_HOST_DEVICE void flash_attention_forward(Backend& backend) {
  auto output = backend.output();
  auto maximum = backend.rows(backend.minus_infinity);
  auto sum = backend.rows(0.0f);
  const auto& queries = backend.queries();

  backend.stream([&](const auto& keys, const auto& values, const auto& mask) {
    auto scores = backend.scores();
    multiply_abt(scores, queries, keys);
    mask.hide(scores);

    const auto new_maximum = row_max(maximum, scores, keys.rows);
    // -inf - -inf would be NaN: a row that has seen nothing yet is measured from 0
    const auto offset =
        zip(new_maximum, new_maximum, [](auto m, auto) { return Backend::finite_or_zero(m); });
    const auto correction = zip(maximum, offset, [](auto m, auto o) { return Backend::exp2(m - o); });
    maximum = new_maximum;

    sum = zip(sum, correction, [](auto l, auto c) { return l * c; });
    exponentiate(scores, offset, sum, keys.rows);
    backend.observe(scores, mask, correction);
    scale_multiply_ab(output, correction, scores, values);
  });

  backend.finish(output, maximum, sum);
}

}  // namespace rf::kernel

#endif  // RECURFORMER_KERNEL_ATTENTION_HPP
