#ifndef EXAMPLES_RECURFORMER_STYLES_HPP
#define EXAMPLES_RECURFORMER_STYLES_HPP

// Which colour, dashes and marker a model has in the report's figures.

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "report_values.hpp"
#include "svg.hpp"

namespace cli::figures {

/// "RecurFormer (Mamba), stage 1" -> "RecurFormer (Mamba)".
inline std::string base_of(const std::string& name) { return name.substr(0, name.find(", ")); }

/// One style per model, the same in all figures: the original, the original trained on, then the arms in the
/// order of the table.
class Styles {
 public:
  explicit Styles(const nlohmann::json& report) {
    for (const nlohmann::json& row : values::array(report, "/rows")) {
      const std::string key = values::string(row, "/key"), name = values::string(row, "/name");
      if (key == "original") original_ = name;
      if (key == "original_continued") continued_ = name;
    }
    for (const nlohmann::json& row : values::array(report, "/rows")) of(values::string(row, "/name"));
  }

  int of(const std::string& name) {
    if (name == original_) return 0;
    if (name == continued_) return 1;
    const std::string base = base_of(name);
    auto found = std::find(arms_.begin(), arms_.end(), base);
    if (found == arms_.end()) found = arms_.insert(found, base);
    return 2 + static_cast<int>(found - arms_.begin()) % (svg::styles - 2);
  }
  bool is_original(const std::string& name) const { return name == original_; }

 private:
  std::string original_ = "original", continued_ = "original, trained on";
  std::vector<std::string> arms_;
};

}  // namespace cli::figures

#endif  // EXAMPLES_RECURFORMER_STYLES_HPP
