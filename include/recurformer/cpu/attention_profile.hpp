#ifndef RECURFORMER_CPU_ATTENTION_PROFILE_HPP
#define RECURFORMER_CPU_ATTENTION_PROFILE_HPP

// The attention-distance profile of one head over one sequence, in a pass over q and k alone: with the
// log-sum-exp of the attention pass, p_ij = exp(q_i·k_j/√d - lse_i) needs no second softmax and no N×N
// matrix.
//
//   mass[i - j] += p_ij   for all keys j that query i sees
//
// Flow: keys are transposed once, so that a vector holds the scores of one query with consecutive keys. For a
// fixed query these go to consecutive lags, backwards; sums are therefore kept by rows - 1 - lag, in float
// over 64 queries and in double above that.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <span>
#include <vector>

#include "recurformer/core/config.hpp"
#include "recurformer/math/attention_mask.hpp"
#include "recurformer/tile/simd.hpp"

namespace rf::cpu {

/// One head's rotated queries and keys, rows apart by their strides, and its log-sum-exp (natural, of scaled
/// scores).
struct ProfileArguments {
  std::int64_t rows = 0;  ///< of the sequence, whose first token is row 0
  int d_head = 0;
  const float* q = nullptr;
  std::int64_t q_stride = 0;
  const float* k = nullptr;
  std::int64_t k_stride = 0;
  const float* log_sum_exp = nullptr;
  std::int64_t log_sum_exp_stride = 0;
  AttentionMask mask = {};  ///< of the attention that left the log-sum-exp
};

inline namespace RECURFORMER_ISA {

/// Writes the probability on each lag, summed over all queries, into mass (rows).
inline void attention_profile(const ProfileArguments& arguments, std::span<double> mass) {
  const std::int64_t rows = arguments.rows, padded = (rows + simd::width - 1) / simd::width * simd::width;
  const int d = arguments.d_head;
  // (d_head, padded rows); a vector may begin at any key
  std::vector<float> keys(static_cast<std::size_t>(d * padded + simd::width));
  std::vector<float> partial(static_cast<std::size_t>(rows + padded));  // [rows - 1 - lag]
  std::fill(mass.begin(), mass.end(), 0.0);
  for (std::int64_t j = 0; j < rows; ++j)
    for (int c = 0; c < d; ++c)
      keys[static_cast<std::size_t>(c * padded + j)] = arguments.k[j * arguments.k_stride + c];

  constexpr float to_base_two = std::numbers::log2e_v<float>;
  const float scale = to_base_two / std::sqrt(static_cast<float>(d));
  constexpr std::int64_t stretch = 64;
  for (std::int64_t first = 0; first < rows; first += stretch) {
    std::fill(partial.begin(), partial.end(), 0.0f);
    for (std::int64_t i = first; i < std::min(rows, first + stretch); ++i) {
      const float* q = arguments.q + i * arguments.q_stride;
      const float lse = arguments.log_sum_exp[i * arguments.log_sum_exp_stride] * to_base_two;
      float* out = partial.data() + (rows - 1 - i);
      for (const KeyRange& seen : arguments.mask.seen_by_any(i, i))
        for (std::int64_t j = seen.begin; j < seen.end; j += simd::width) {
          simd::Vec score = simd::zero();
          for (int c = 0; c < d; ++c) score += simd::load(keys.data() + c * padded + j) * q[c];
          const simd::Vec p = simd::exp2(score * scale - lse);
          const auto lanes = static_cast<int>(std::min<std::int64_t>(simd::width, seen.end - j));
          if (lanes == simd::width)
            simd::store(out + j, simd::load(out + j) + p);
          else
            simd::store_partial(out + j, simd::load_partial(out + j, lanes) + p, lanes);
        }
    }
    for (std::int64_t lag = 0; lag < rows; ++lag)
      mass[static_cast<std::size_t>(lag)] +=
          static_cast<double>(partial[static_cast<std::size_t>(rows - 1 - lag)]);
  }
}

}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_ATTENTION_PROFILE_HPP
