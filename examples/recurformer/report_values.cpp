#include "report_values.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <nlohmann/json.hpp>

namespace cli::values {

namespace {

using nlohmann::json;

const json* find(const json& node, const std::string& path) {
  const json::json_pointer pointer(path);
  return node.contains(pointer) ? &node.at(pointer) : nullptr;
}

double number_or_nan(const json& node) {
  return node.is_number() ? node.get<double>() : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace

Number number(const json& node, const std::string& path) {
  const json* found = find(node, path);
  if (!found || !found->is_number() || !std::isfinite(found->get<double>())) return {};
  return found->get<double>();
}

std::string string(const json& node, const std::string& path) {
  const json* found = find(node, path);
  return found && found->is_string() ? found->get<std::string>() : std::string();
}

bool flag(const json& node, const std::string& path) {
  const json* found = find(node, path);
  return found && found->is_boolean() && found->get<bool>();
}

const json& array(const json& node, const std::string& path) {
  static const json empty = json::array();
  const json* found = find(node, path);
  return found && found->is_array() ? *found : empty;
}

std::vector<double> numbers(const json& list) {
  std::vector<double> out;
  if (list.is_array())
    for (const json& value : list) out.push_back(number_or_nan(value));
  return out;
}

Grid grid(const json& node, const std::string& path) {
  Grid out;
  for (const json& list : array(node, path)) out.push_back(numbers(list));
  return out;
}

const json* row(const json& report, const std::string& key) {
  for (const json& candidate : array(report, "/rows"))
    if (string(candidate, "/key") == key) return &candidate;
  return nullptr;
}

const json* main_row(const json& report) {
  const json* found = row(report, string(report, "/settings/replacement"));
  return found ? found : row(report, "mamba");
}

std::vector<std::int64_t> cache_contexts(const json& report) {
  std::vector<std::int64_t> out;
  for (const json& candidate : array(report, "/rows")) {
    const json* cache = find(candidate, "/cache_bytes");
    if (!cache || !cache->is_object()) continue;
    for (const auto& [length, bytes] : cache->items())
      if (!length.empty() && length.size() < 16 &&
          std::all_of(length.begin(), length.end(), [](char c) { return c >= '0' && c <= '9'; }))
        out.push_back(std::stoll(length));
  }
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

Number cache_bytes(const json& row, std::int64_t context) {
  return number(row, "/cache_bytes/" + std::to_string(context));
}

Number ratio(Number value, Number base) {
  if (!value || !base || *base == 0) return {};
  return *value / *base;
}

bool trained_to_the_end(const json& row) {
  const std::string key = string(row, "/key");
  return key != "original" && !key.ends_with("_untrained") && !key.ends_with("_stage1");
}

std::string decimal(double value, int digits) {
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, "%.*f", digits, value);
  return buffer;
}

std::string grouped(double value) {
  std::string digits = decimal(value, 0);
  const std::size_t first = digits.starts_with('-') ? 1 : 0;
  for (std::size_t at = digits.size(); at > first + 3;) {
    at -= 3;
    digits.insert(at, 1, ',');
  }
  return digits;
}

std::string bytes(double value) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  int unit = 0;
  for (; value >= 999.5 && unit < 4; ++unit) value /= 1024;
  return decimal(value, unit == 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2) + " " + units[unit];
}

std::string tokens(double value) {
  if (value >= 999'500) return decimal(value / 1e6, 2) + "M";
  if (value >= 10'000) return decimal(value / 1e3, 0) + "k";
  return decimal(value, 0);
}

std::string context(std::int64_t length) {
  return length >= 1024 && length % 1024 == 0 ? std::to_string(length / 1024) + "k" : std::to_string(length);
}

std::string change(double ratio) {
  const std::string text = decimal(100 * (ratio - 1), 1);
  if (text == "-0.0" || text == "0.0") return "0.0 %";
  return (text.starts_with('-') ? "" : "+") + text + " %";
}

std::string percent(double share) { return decimal(100 * share, share < 0.0995 ? 1 : 0) + " %"; }

}  // namespace cli::values
