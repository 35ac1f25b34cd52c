#include <algorithm>
#include <nlohmann/json.hpp>

#include "report.hpp"
#include "report_values.hpp"

namespace cli {

namespace {

using nlohmann::json;
using values::Number;

/// A column: two lines of heading, and one text per row. The first column is set to the left.
struct Column {
  std::string group, heading;
  std::vector<std::string> cells;
};

/// Characters, not bytes: names may hold more than ASCII.
std::size_t width(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

std::string padded(const std::string& text, std::size_t columns, bool left) {
  const std::string space(columns - std::min(columns, width(text)), ' ');
  return left ? text + space : space + text;
}

template <class Write>
std::string shown(Number value, Write write) {
  return value ? write(*value) : "-";
}

std::vector<Column> columns_of(const json& report) {
  const json *original = values::row(report, "original"),
             *continued = values::row(report, "original_continued");
  const auto bits = [](const json* row) { return row ? values::number(*row, "/bits_per_byte") : Number(); };
  const std::vector<std::int64_t> contexts = values::cache_contexts(report);
  const Number speed_context = values::number(report, "/speed_context");
  const std::string at =
      speed_context ? "@" + values::context(static_cast<std::int64_t>(*speed_context)) : "";

  std::vector<Column> columns{{"", "model", {}},
                              {"bits/", "byte", {}},
                              {"vs", "original", {}},
                              {"vs trained", "on", {}},
                              {"copy", "recall", {}}};
  for (const std::int64_t context : contexts)
    columns.push_back({"cache", "@" + values::context(context), {}});
  if (!contexts.empty()) columns.push_back({"of", "orig.", {}});
  columns.push_back({"prefill", "tok/s" + at, {}});
  columns.push_back({"decode", "tok/s" + at, {}});

  for (const json& row : values::array(report, "/rows")) {
    std::size_t at_column = 0;
    const auto put = [&](std::string text) { columns[at_column++].cells.push_back(std::move(text)); };
    put(values::string(row, "/name"));
    put(shown(bits(&row), [](double v) { return values::decimal(v, 4); }));
    put(&row == original ? "" : shown(values::ratio(bits(&row), bits(original)), values::change));
    put(&row == continued || !values::trained_to_the_end(row)
            ? ""
            : shown(values::ratio(bits(&row), bits(continued)), values::change));
    put(shown(values::number(row, "/copy_recall"), [](double v) { return values::decimal(v, 3); }));
    for (const std::int64_t context : contexts) put(shown(values::cache_bytes(row, context), values::bytes));
    if (!contexts.empty())
      put(shown(values::ratio(values::cache_bytes(row, contexts.back()),
                              original ? values::cache_bytes(*original, contexts.back()) : Number()),
                values::percent));
    put(shown(values::number(row, "/prefill_tokens_per_second"), values::grouped));
    put(shown(values::number(row, "/decode_tokens_per_second"), values::grouped));
  }
  return columns;
}

}  // namespace

std::string text_table(const json& report) {
  const std::vector<Column> columns = columns_of(report);
  std::vector<std::string> lines(2 + columns[0].cells.size());
  std::string rule;
  for (std::size_t c = 0; c < columns.size(); ++c) {
    const Column& column = columns[c];
    std::size_t columns_wide = std::max(width(column.group), width(column.heading));
    for (const std::string& cell : column.cells) columns_wide = std::max(columns_wide, width(cell));
    const std::string gap = c == 0 ? "" : "  ";
    lines[0] += gap + padded(column.group, columns_wide, c == 0);
    lines[1] += gap + padded(column.heading, columns_wide, c == 0);
    for (std::size_t r = 0; r < column.cells.size(); ++r)
      lines[2 + r] += gap + padded(column.cells[r], columns_wide, c == 0);
    rule += gap + std::string(columns_wide, '-');
  }
  lines.insert(lines.begin() + 2, rule);
  std::string out;
  for (const std::string& line : lines) out += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  return out;
}

}  // namespace cli
