#ifndef EXAMPLES_RECURFORMER_REPORT_HPP
#define EXAMPLES_RECURFORMER_REPORT_HPP

// What the demo measured, for people: a page, sentences, and a table for the terminal. All three read the
// same JSON (report.json); apart from "rows" every field may be missing, and what needs it is then left out.

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace cli {

/// A complete page: inline CSS and SVG, no scripts, nothing loaded from elsewhere.
std::string html_report(const nlohmann::json& report);

/// What the comparison shows, then what it does not, in sentences computed from the figures.
std::vector<std::string> findings(const nlohmann::json& report);
/// The first part of findings(): what the figures say.
std::vector<std::string> observations(const nlohmann::json& report);
/// The second part: what must not be concluded from them.
std::vector<std::string> limits(const nlohmann::json& report);

/// The rows as aligned columns, for a terminal of about 120 characters.
std::string text_table(const nlohmann::json& report);

}  // namespace cli

#endif  // EXAMPLES_RECURFORMER_REPORT_HPP
