#ifndef RECURFORMER_PLAN_SWAP_HPP
#define RECURFORMER_PLAN_SWAP_HPP

// The swap score: what replacing one KV group, and nothing else, by its untrained replacement does. Forward
// passes only.
//   divergence   KL(original ‖ swapped) on text, nats per token
//   recall_drop  recall of the original minus that of the swapped model on copies
// Recency says where a head looks; this says what is lost when it can look no more (a head that attends
// locally on plain text may still be the one that copies).

#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "recurformer/eval/token_text.hpp"
#include "recurformer/eval/copy.hpp"
#include "recurformer/eval/evaluate.hpp"
#include "recurformer/model/loss.hpp"
#include "recurformer/plan/convert.hpp"
#include "recurformer/plan/select.hpp"

namespace rf {

struct SwapScores {
  GroupScores divergence;
  GroupScores recall_drop;
};

struct SwapOptions {
  KindChoice replacement;
  CopyTask copy;  ///< how recall is measured
  std::int64_t copy_rows = 32;
  std::uint64_t seed = 0;
};

/// One number per group for select_groups(): groups whose swap costs least come first, recall counted
/// `recall_weight` nats per unit of recall.
inline GroupScores swap_group_scores(const SwapScores& scores, double recall_weight = 1.0) {
  GroupScores out = scores.divergence;
  for (std::size_t l = 0; l < out.size(); ++l)
    for (std::size_t g = 0; g < out[l].size(); ++g)
      out[l][g] = -(out[l][g] + recall_weight * std::max(0.0, scores.recall_drop[l][g]));
  return out;
}

namespace detail {

/// Mean KL(original ‖ other) over the counted tokens of the batches.
template <class M>
double mean_divergence(M& original, M& other, std::span<const Batch> batches) {
  NextTokenLoss loss;
  LossSums sums;
  for (const Batch& batch : batches) {
    const float* hidden = original.forward(batch.tokens, batch.sequences);
    sums +=
        loss.compare(other, other.forward(batch.tokens, batch.sequences), original, hidden, batch.targets);
  }
  return sums.mean_divergence();
}

}  // namespace detail

/// Swaps every group in turn. `progress(done, total)` is called after each.
template <class M>
SwapScores swap_scores(M& original, const ModelProfiles& profiles, std::span<const Batch> batches,
                       const SwapOptions& options,
                       const std::function<void(std::int64_t, std::int64_t)>& progress = {}) {
  const Plan plan = original.named_plan();
  // Training rows: what is chosen by these scores must not have looked at the rows that evaluation counts.
  const auto recall_of = [&](M& model) {
    return evaluate_task(model, options.copy, Split::train, options.copy_rows, options.seed).accuracy();
  };
  const double recall = recall_of(original);
  std::int64_t done = 0;
  const std::int64_t total = std::int64_t{original.shape().layers} * original.shape().layer.kv_groups;
  SwapScores out;
  for (std::size_t l = 0; l < plan.kind_of_group.size(); ++l) {
    out.divergence.emplace_back();
    out.recall_drop.emplace_back();
    for (std::size_t g = 0; g < plan.kind_of_group[l].size(); ++g) {
      Plan swapped_plan = plan;
      swapped_plan.kind_of_group[l][g] = with_kind(swapped_plan, options.replacement);
      M swapped = convert_model(original, swapped_plan, profiles, options.seed);
      out.divergence[l].push_back(detail::mean_divergence(original, swapped, batches));
      out.recall_drop[l].push_back(recall - recall_of(swapped));
      if (progress) progress(++done, total);
    }
  }
  return out;
}

}  // namespace rf

#endif  // RECURFORMER_PLAN_SWAP_HPP
