// The figures made of curves: losses while training, cache and speed against the context length.

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "figures.hpp"
#include "report_values.hpp"
#include "styles.hpp"
#include "svg.hpp"

namespace cli::figures {

namespace {

using nlohmann::json;

struct Curve {
  std::string name, unit;
  std::vector<svg::Point> points;
};

std::vector<Curve> loss_curves(const json& report) {
  std::vector<Curve> out;
  for (const json& curve : values::array(report, "/loss_curves")) {
    Curve& one = out.emplace_back();
    one.name = values::string(curve, "/name");
    one.unit = values::string(curve, "/unit");
    for (const std::vector<double>& point : values::grid(curve, "/points"))
      if (point.size() >= 2 && std::isfinite(point[0]) && std::isfinite(point[1]))
        one.points.push_back({point[0], point[1]});
    if (one.points.size() < 2) out.pop_back();
  }
  return out;
}

/// Means over about a twentieth of the curve on either side: single steps differ by what text they drew.
std::vector<svg::Point> smoothed(const std::vector<svg::Point>& points) {
  const std::size_t reach = points.size() / 20;
  std::vector<svg::Point> out;
  for (std::size_t i = 0; i < points.size(); ++i) {
    // The same reach on both sides, smaller near the start, so that the steep beginning stays where it is; at
    // the end the curve is flat and the figure that counts, so there only what comes before is averaged.
    const std::size_t before = std::min(reach, i), after = std::min(before, points.size() - 1 - i);
    double sum = 0;
    for (std::size_t j = i - before; j <= i + after; ++j) sum += points[j].y;
    out.push_back({points[i].x, sum / static_cast<double>(before + after + 1)});
  }
  return out;
}

/// Range of all points of all series.
struct Bounds {
  svg::Point low{1e300, 1e300}, high{-1e300, -1e300};

  explicit Bounds(const std::vector<svg::Series>& series) {
    for (const svg::Series& one : series)
      for (const svg::Point& point : one.points) {
        low = {std::min(low.x, point.x), std::min(low.y, point.y)};
        high = {std::max(high.x, point.x), std::max(high.y, point.y)};
      }
  }
};

/// Two digits after the point, fewer where they say nothing.
std::string short_number(double value) {
  std::string text = values::decimal(value, value < 0.1 ? 3 : 2);
  while (text.ends_with('0')) text.pop_back();
  if (text.ends_with('.')) text.pop_back();
  return text;
}

svg::Axis loss_axis(double low, double high, const std::string& label) {
  // From eight bits at the start to a little over one: on a linear axis the end would be a flat line.
  if (low > 0 && high / low > 3) return svg::logarithmic_axis(0.95 * low, 1.05 * high, label, short_number);
  const double margin = 0.05 * (high - low);
  return svg::linear_axis(low - margin, high + margin, label, short_number);
}

std::string loss_chart(const std::string& title, const std::vector<Curve>& curves, Styles& style_list) {
  if (curves.empty()) return {};
  std::vector<svg::Series> series;
  for (const Curve& curve : curves)
    series.push_back({"", style_list.of(curve.name), curve.points, false, true});
  for (const Curve& curve : curves)
    series.push_back({curve.name, style_list.of(curve.name), smoothed(curve.points), false, false});
  const Bounds bounds(series);
  return svg::line_chart(
      {title, svg::linear_axis(0, bounds.high.x, "tokens trained on in this phase", values::tokens),
       loss_axis(bounds.low.y, bounds.high.y, curves.front().unit), std::move(series)});
}

svg::Axis length_axis(const std::vector<double>& lengths) {
  svg::Axis axis = svg::logarithmic_axis(lengths.front(), lengths.back(), "context length in tokens",
                                         [](double n) { return values::context(std::llround(n)); });
  axis.ticks = lengths;
  return axis;
}

/// 65536 -> "64 KiB".
std::string round_bytes(double value) {
  std::string text = values::bytes(value);
  if (const auto point = text.find('.'); point != std::string::npos)
    text.erase(point, text.find(' ') - point);
  return text;
}

/// Powers of four, so that the labels are round in KiB and MiB.
svg::Axis bytes_axis(double low, double high) {
  double bottom = 1;
  while (bottom * 4 <= low) bottom *= 4;
  svg::Axis axis{bottom, bottom, true, {}, "cache of one sequence", round_bytes};
  for (axis.ticks = {bottom}; axis.high < high; axis.ticks.push_back(axis.high)) axis.high *= 4;
  if (axis.ticks.size() == 1) axis.ticks.push_back(axis.high *= 4);
  return axis;
}

std::vector<svg::Series> context_series(const json& report, const std::vector<double>& lengths,
                                        const std::string& field) {
  Styles style_list(report);
  std::vector<svg::Series> out;
  for (const json& row : values::array(report, "/context/rows")) {
    const std::string name = values::string(row, "/name");
    svg::Series one{name, style_list.of(name), {}, true, false};
    const std::vector<double> y = values::numbers(values::array(row, field));
    for (std::size_t i = 0; i < std::min(y.size(), lengths.size()); ++i)
      if (std::isfinite(y[i]) && y[i] > 0) one.points.push_back({lengths[i], y[i]});
    if (!one.points.empty()) out.push_back(std::move(one));
  }
  return out;
}

}  // namespace

std::string losses(const json& report) {
  Styles style_list(report);
  std::vector<Curve> original, arms, matching;
  for (Curve& curve : loss_curves(report)) {
    auto& where = curve.unit == "relative error"       ? matching
                  : style_list.is_original(curve.name) ? original
                                                       : arms;
    where.push_back(std::move(curve));
  }
  const std::string charts =
      loss_chart("Training the original", original, style_list) +
      loss_chart("Training on: the original and the arms", arms, style_list) +
      loss_chart("Stage 1: matching the replaced heads' outputs", matching, style_list);
  return charts.empty() ? charts : "<div class=\"charts\">" + charts + "</div>\n";
}

std::string contexts(const json& report) {
  const std::vector<double> lengths = values::numbers(values::array(report, "/context/lengths"));
  // A curve over fewer than two lengths shows nothing; neither does a list that is out of order.
  if (lengths.size() < 2 || !std::is_sorted(lengths.begin(), lengths.end()) || !(lengths.front() > 0))
    return {};
  std::string charts;
  if (auto series = context_series(report, lengths, "/cache_bytes"); !series.empty()) {
    const Bounds bounds(series);
    charts += svg::line_chart(
        {"Cache", length_axis(lengths), bytes_axis(bounds.low.y, bounds.high.y), std::move(series)});
  }
  if (auto series = context_series(report, lengths, "/decode_tokens_per_second"); !series.empty()) {
    const Bounds bounds(series);
    charts += svg::line_chart(
        {"Decode speed", length_axis(lengths),
         svg::linear_axis(0, 1.05 * bounds.high.y, "tokens per second", values::grouped), std::move(series)});
  }
  return charts.empty() ? charts : "<div class=\"charts\">" + charts + "</div>\n";
}

}  // namespace cli::figures
