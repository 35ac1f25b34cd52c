#ifndef EXAMPLES_RECURFORMER_REPORT_VALUES_HPP
#define EXAMPLES_RECURFORMER_REPORT_VALUES_HPP

// Reading the figures of a report, any of which may be missing, and writing them as text.

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace cli::values {

using Number = std::optional<double>;
/// Rows of numbers; NaN where the report has none.
using Grid = std::vector<std::vector<double>>;

/// The finite number at a path like "/settings/seed"; nothing if there is none.
Number number(const nlohmann::json& node, const std::string& path);
/// The string at a path; empty if there is none.
std::string string(const nlohmann::json& node, const std::string& path);
/// True only where the path leads to `true`.
bool flag(const nlohmann::json& node, const std::string& path);
/// The array at a path; an empty one if there is none.
const nlohmann::json& array(const nlohmann::json& node, const std::string& path);
std::vector<double> numbers(const nlohmann::json& list);
Grid grid(const nlohmann::json& node, const std::string& path);

/// The row of an arm; null if it did not run.
const nlohmann::json* row(const nlohmann::json& report, const std::string& key);
/// The row the report is about: the replacement trained to the end; null if it did not run.
const nlohmann::json* main_row(const nlohmann::json& report);
/// Contexts, ascending, for which any row gives its cache.
std::vector<std::int64_t> cache_contexts(const nlohmann::json& report);
Number cache_bytes(const nlohmann::json& row, std::int64_t context);
/// value / base, if both are there and base is not zero.
Number ratio(Number value, Number base);
/// Whether a row has had all of its training, so that it compares with the original trained on as long.
bool trained_to_the_end(const nlohmann::json& row);

/// A number with `digits` digits after the point.
std::string decimal(double value, int digits);
/// 12345.6 -> "12,346".
std::string grouped(double value);
/// "1.50 MiB": three significant digits.
std::string bytes(double value);
/// "2.50M", "750k", "512".
std::string tokens(double value);
/// 8192 -> "8k".
std::string context(std::int64_t length);
/// How much larger than one a ratio is: 1.015 -> "+1.5 %".
std::string change(double ratio);
/// A share: 0.528 -> "53 %"; below 10 % with one digit after the point.
std::string percent(double share);

}  // namespace cli::values

#endif  // EXAMPLES_RECURFORMER_REPORT_VALUES_HPP
