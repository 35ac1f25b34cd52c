#ifndef EXAMPLES_RECURFORMER_MODEL_IO_HPP
#define EXAMPLES_RECURFORMER_MODEL_IO_HPP

#include <cstdint>
#include <string>
#include <vector>

#include "common.hpp"

namespace cli {

/// Loads a model folder into this program's precision (fp32, whatever the file stores); says so if that
/// converts.
Model load(const std::string& folder);

/// Writes a model to a folder. What config.json says beside sizes and plan is that of `like`.
void save(Model& model, const std::string& folder, const rf::ModelConfig& like);

/// The config of a new model of bytes, as far as `save` asks for it.
rf::ModelConfig byte_config();

/// The plan of a model folder's config, bound to this program's kinds.
rf::BoundPlan<Model::Kinds> program_plan(const rf::ModelConfig& config);

/// The mixers that heads can be replaced by: those of the program whose cache does not grow.
std::vector<std::string> replacement_mixers();

/// The kind that replaces heads of a model with this plan, by its mixer's name; sink and window are those of
/// "streaming".
rf::KindChoice replacement_kind(const std::string& name, const rf::Plan& of, std::int64_t sink,
                                std::int64_t window);

}  // namespace cli

#endif  // EXAMPLES_RECURFORMER_MODEL_IO_HPP
