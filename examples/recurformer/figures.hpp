#ifndef EXAMPLES_RECURFORMER_FIGURES_HPP
#define EXAMPLES_RECURFORMER_FIGURES_HPP

// The figures of the report, as HTML; each is empty where the report has nothing to draw.

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace cli::figures {

/// Recency ratio of every head, layer by layer; the groups that were replaced are framed.
std::string heat_map(const nlohmann::json& report);
/// Mean attention probability against distance, one small chart per head.
std::string profiles(const nlohmann::json& report);
/// Loss against tokens: the original's training, the arms', and the matching of head outputs.
std::string losses(const nlohmann::json& report);
/// Cache and decode speed against the context length.
std::string contexts(const nlohmann::json& report);

}  // namespace cli::figures

#endif  // EXAMPLES_RECURFORMER_FIGURES_HPP
