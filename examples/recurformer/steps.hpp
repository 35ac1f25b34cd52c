#ifndef EXAMPLES_RECURFORMER_STEPS_HPP
#define EXAMPLES_RECURFORMER_STEPS_HPP

// The steps that commands and the demo are made of.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common.hpp"
#include "recurformer/plan/analysis.hpp"
#include "text_codec.hpp"

namespace cli {

/// One point of a loss curve.
struct LossPoint {
  std::int64_t tokens = 0;
  double loss = 0;  ///< nats per token (next_token) or mean relative error (match_heads)
};

/// Where a run keeps the state that it resumes from.
struct SavedRun {
  std::string path;          ///< of the state file
  std::string run;           ///< everything the run depends on, see save_training_state()
  std::int64_t every = 100;  ///< steps between saves
};

/// Runs a trainer to its end, with progress. With `saved`, resumes from the state file if there is one and
/// saves to it.
std::vector<LossPoint> train(rf::Trainer<Model>& trainer, const rf::MixedData& data, const std::string& label,
                             const std::optional<SavedRun>& saved = {});

/// Analyses `batches` batches of the training data.
rf::ModelAnalysis analyse(Model& model, const rf::MixedData& data, std::int64_t batches,
                          const rf::AnalysisOptions& options);

/// Loss and copy recall on held-out rows.
struct Quality {
  rf::TextScore text;
  double copy_recall = 0;
};
Quality evaluate(Model& model, const rf::TokenText& text, std::int64_t length, std::int64_t copy_lag,
                 std::uint64_t seed, std::int64_t text_rows, std::int64_t copy_rows);

/// "loss 2.0794 per token, perplexity 8.00, bits per byte 0.9931"; without the last where nobody knows the
/// text of tokens. The same goes to `results`.
std::string score_text(const rf::TextScore& score, const rf::TokenText& text, const TextCodec& codec,
                       nlohmann::json& results);

/// Tokens per second at a context of held-out text, with weights packed as for generation.
struct Speed {
  double prefill = 0;
  double decode = 0;
};
Speed measure_speed(Model& trained, const rf::TokenText& text, std::int64_t context,
                    std::int64_t decoded_tokens);

/// Cache bytes of one sequence, as a JSON object {"1024": …}.
nlohmann::json cache_json(const rf::CacheLayout& layout);

/// The context lengths that caches are quoted at.
inline constexpr std::int64_t quoted_contexts[] = {1024, 8192, 65536};

/// Number of parameters.
std::int64_t parameter_count(const Model& model);

}  // namespace cli

#endif  // EXAMPLES_RECURFORMER_STEPS_HPP
