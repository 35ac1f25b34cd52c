#include "figures.hpp"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "report_values.hpp"
#include "svg.hpp"

namespace cli::figures {

namespace {

using nlohmann::json;
using values::Grid;

bool is_replaced(const json& report, std::size_t layer, std::size_t group) {
  return values::flag(report, "/recency/replaced/" + std::to_string(layer) + "/" + std::to_string(group));
}

/// Heads that share a KV group; 1 where the report does not say.
std::size_t heads_per_group(const json& report) {
  return static_cast<std::size_t>(
      std::max(1.0, values::number(report, "/model/queries_per_group").value_or(1)));
}

double at(const Grid& grid, std::size_t i, std::size_t j) {
  return i < grid.size() && j < grid[i].size() ? grid[i][j] : std::nan("");
}

std::size_t widest(const Grid& grid) {
  std::size_t columns = 0;
  for (const auto& row : grid) columns = std::max(columns, row.size());
  return columns;
}

/// Sizes of the heat map; small cells carry no text.
struct HeatLayout {
  double cell_width, cell_height;
  std::size_t per_group;
  double left = 74, top = 30, group_gap = 20, caption = 24;

  bool with_text() const { return cell_width >= 44; }
  double x(std::size_t head) const {
    return left + static_cast<double>(head) * cell_width + static_cast<double>(head / per_group) * group_gap;
  }
  double y(std::size_t layer) const {
    return top + static_cast<double>(layer) * (cell_height + (with_text() ? caption : 0) + 8);
  }
};

std::string heat_cell(const HeatLayout& layout, std::size_t layer, std::size_t head, double ratio,
                      double error) {
  const std::string name = "layer " + std::to_string(layer) + ", head " + std::to_string(head);
  const svg::Point corner{layout.x(head), layout.y(layer)};
  const svg::Point size{layout.cell_width, layout.cell_height};
  if (std::isnan(ratio)) return svg::rectangle(corner, size, "class=\"empty\"", name + ": not measured");
  const std::string spread = std::isnan(error) ? "" : " ± " + values::decimal(error, 3);
  std::string out = svg::rectangle(corner, size, "fill=\"" + svg::heat_colour(ratio) + "\"",
                                   name + ": " + values::decimal(ratio, 3) + spread);
  if (!layout.with_text()) return out;
  const std::string side = svg::heat_text_colour(ratio) == "#000" ? "on-light" : "on-dark";
  const double middle = corner.x + size.x / 2;
  out += svg::text({middle, corner.y + 20}, values::decimal(ratio, 2), {"cell " + side});
  if (!std::isnan(error))
    out += svg::text({middle, corner.y + 36}, "± " + values::decimal(error, 3), {"small " + side});
  return out;
}

std::string heat_group(const HeatLayout& layout, std::size_t layer, std::size_t group, std::size_t heads,
                       double mean, bool replaced) {
  const std::size_t first = group * layout.per_group;
  const double x = layout.x(first), y = layout.y(layer);
  const double width = static_cast<double>(std::min(layout.per_group, heads - first)) * layout.cell_width;
  std::string out;
  if (replaced)
    out += svg::rectangle({x - 3, y - 3}, {width + 6, layout.cell_height + 6}, "class=\"replaced\"");
  if (!layout.with_text()) return out;
  const std::string number = std::isnan(mean) ? "" : values::decimal(mean, 2);
  std::string caption = width < 100 || number.empty() ? number : "mean " + number;
  if (width >= 100 && replaced) caption += caption.empty() ? "replaced" : " · replaced";
  return out + svg::text({x + width / 2, y + layout.cell_height + 18}, caption,
                         {replaced ? "small strong" : "small"});
}

/// The colours of 0 to 1, with numbers.
std::string colour_bar(svg::Point corner, double height) {
  std::string out;
  constexpr int steps = 40;
  for (int i = 0; i < steps; ++i)
    out += svg::rectangle({corner.x, corner.y + height * (steps - 1 - i) / steps}, {16, height / steps + 0.6},
                          "fill=\"" + svg::heat_colour((i + 0.5) / steps) + "\"");
  for (const double tick : {0.0, 0.25, 0.5, 0.75, 1.0})
    out += svg::text({corner.x + 22, corner.y + height * (1 - tick) + 4}, values::decimal(tick, 2),
                     {"tick", "start"});
  return out + svg::text({corner.x + 66, corner.y + height / 2}, "recency ratio", {"label", "middle", -90});
}

}  // namespace

std::string heat_map(const json& report) {
  const Grid heads = values::grid(report, "/recency/heads"), errors = values::grid(report, "/recency/errors"),
             groups = values::grid(report, "/recency/groups");
  const std::size_t columns = widest(heads);
  if (columns == 0) return {};
  const double cell_width = std::clamp(760.0 / static_cast<double>(columns), 12.0, 66.0);
  const HeatLayout layout{cell_width, cell_width >= 44 ? 46.0 : cell_width, heads_per_group(report)};
  std::string body;
  for (std::size_t head = 0; head < columns; ++head)
    if (layout.with_text() || head % 8 == 0)
      body += svg::text({layout.x(head) + cell_width / 2, 16},
                        (layout.with_text() ? "head " : "") + std::to_string(head), {});
  for (std::size_t layer = 0; layer < heads.size(); ++layer) {
    body += svg::text({layout.left - 14, layout.y(layer) + layout.cell_height / 2 + 4},
                      "layer " + std::to_string(layer), {"tick", "end"});
    for (std::size_t head = 0; head < heads[layer].size(); ++head)
      body += heat_cell(layout, layer, head, heads[layer][head], at(errors, layer, head));
    for (std::size_t group = 0; group * layout.per_group < heads[layer].size(); ++group)
      body += heat_group(layout, layer, group, heads[layer].size(), at(groups, layer, group),
                         is_replaced(report, layer, group));
  }
  const double right = layout.x(columns - 1) + cell_width;
  const double height = std::max(layout.y(heads.size() - 1) + layout.cell_height - layout.top, 120.0);
  body += colour_bar({right + 30, layout.top}, std::min(height, 320.0));
  return svg::drawing({right + 116, layout.top + height + 34}, "Recency ratio by layer and head", body);
}

namespace {

/// One small chart of the grid of profiles: x is the lag on a log(1 + lag) scale, y the probability.
struct ProfilePanel {
  svg::Point corner;
  svg::Axis x, y;
  static constexpr svg::Point size{112, 84};

  double across(double lag) const { return corner.x + std::min(1.0, x.fraction(lag + 1)) * size.x; }
  double down(double p) const { return corner.y + (1 - std::clamp(y.fraction(p), 0.0, 1.0)) * size.y; }
};

std::string panel_frame(const ProfilePanel& panel, bool leftmost, bool lowest, double window,
                        double far_lag) {
  const double bottom = panel.corner.y + ProfilePanel::size.y;
  std::string out;
  if (window > 0)
    out += svg::rectangle(panel.corner, {panel.across(window - 1) - panel.corner.x, ProfilePanel::size.y},
                          "class=\"recent\"");
  for (const double tick : panel.y.ticks) {
    out += svg::line({panel.corner.x, panel.down(tick)},
                     {panel.corner.x + ProfilePanel::size.x, panel.down(tick)}, "grid");
    if (leftmost)
      out += svg::text({panel.corner.x - 5, panel.down(tick) + 4}, panel.y.tick_text(tick), {"tick", "end"});
  }
  for (const double tick : panel.x.ticks) {
    out += svg::line({panel.across(tick), bottom}, {panel.across(tick), bottom + 4}, "axis");
    if (lowest) out += svg::text({panel.across(tick), bottom + 17}, panel.x.tick_text(tick), {});
  }
  if (far_lag > 0)
    out += svg::line({panel.across(far_lag), panel.corner.y}, {panel.across(far_lag), bottom}, "mark");
  out += svg::line({panel.corner.x, bottom}, {panel.corner.x + ProfilePanel::size.x, bottom}, "axis");
  return out + svg::line(panel.corner, {panel.corner.x, bottom}, "axis");
}

std::string profile_curve(const ProfilePanel& panel, const std::vector<double>& lag,
                          const std::vector<double>& lags, const std::vector<double>& probability,
                          bool replaced) {
  std::vector<svg::Point> points;
  for (std::size_t i = 0; i < std::min(lag.size(), probability.size()); ++i) {
    const double middle = lag[i] + (i < lags.size() && lags[i] > 1 ? (lags[i] - 1) / 2 : 0);
    if (std::isfinite(middle) && std::isfinite(probability[i]))
      points.push_back({panel.across(middle), panel.down(std::max(probability[i], 0.0))});
  }
  return svg::polyline(points, replaced ? "p replaced-curve" : "p kept-curve");
}

/// Powers of ten around all positive probabilities, no more than five of them.
svg::Axis probability_axis(const json& layers) {
  double low = 1, high = 0;
  for (const json& layer : layers)
    for (const json& head : layer.is_array() ? layer : json::array())
      for (const double p : values::numbers(head)) {
        if (p > 0) low = std::min(low, p);
        if (p > 0) high = std::max(high, p);
      }
  if (!(high > 0)) return svg::logarithmic_axis(0.001, 1, "", [](double) { return std::string(); });
  high = std::pow(10.0, std::ceil(std::log10(high) - 1e-9));
  low = std::max(std::pow(10.0, std::floor(std::log10(low) + 1e-9)), high * 1e-5);
  svg::Axis axis = svg::logarithmic_axis(low, std::max(high, 100 * low), "", [](double p) {
    return p >= 0.001 ? values::decimal(p, p >= 1      ? 0
                                           : p >= 0.1  ? 1
                                           : p >= 0.01 ? 2
                                                       : 3)
                      : "1e" + values::decimal(std::log10(p), 0);
  });
  axis.ticks.clear();
  for (double p = axis.high; p >= axis.low * 0.99; p /= 10) axis.ticks.push_back(p);
  return axis;
}

svg::Axis lag_axis(double longest) {
  svg::Axis axis{
      1, std::max(longest, 1.0) + 1, true, {}, "", [](double lag) { return values::decimal(lag, 0); }};
  for (const double lag : {0.0, 3.0, 15.0, 63.0, 255.0, 1023.0, 4095.0, 16383.0, 65535.0})
    if (lag <= 0.9 * longest) axis.ticks.push_back(lag);
  return axis;
}

}  // namespace

std::string profiles(const json& report) {
  const json& layers = values::array(report, "/profiles/heads");
  const std::vector<double> lag = values::numbers(values::array(report, "/profiles/lag")),
                            lags = values::numbers(values::array(report, "/profiles/lags"));
  std::size_t columns = 0;
  for (const json& layer : layers) columns = std::max(columns, layer.is_array() ? layer.size() : 0);
  if (columns == 0 || lag.empty()) return {};
  const Grid ratios = values::grid(report, "/recency/heads");
  const std::size_t per_group = heads_per_group(report);
  const double longest = lag.back() + (lags.size() == lag.size() ? lags.back() - 1 : 0);
  const double window = values::number(report, "/recency/window").value_or(0);
  // To copy what stood `copy_lag` before the next token, a head looks one step less far back from this one.
  const double far_lag = values::number(report, "/settings/copy_lag").value_or(0) - 1;
  ProfilePanel panel{{}, lag_axis(longest), probability_axis(layers)};

  constexpr svg::Point pitch{132, 116};
  constexpr svg::Point first{66, 22};
  std::string body;
  for (std::size_t l = 0; l < layers.size(); ++l)
    for (std::size_t h = 0; layers[l].is_array() && h < layers[l].size(); ++h) {
      panel.corner = {first.x + pitch.x * static_cast<double>(h), first.y + pitch.y * static_cast<double>(l)};
      const bool replaced = is_replaced(report, l, h / per_group);
      std::string title = "L" + std::to_string(l) + " H" + std::to_string(h);
      if (!std::isnan(at(ratios, l, h))) title += " · " + values::decimal(at(ratios, l, h), 2);
      body += panel_frame(panel, h == 0, l + 1 == layers.size(), window, far_lag);
      body += svg::text({panel.corner.x, panel.corner.y - 6}, title,
                        {replaced ? "small strong" : "small", "start"});
      body += profile_curve(panel, lag, lags, values::numbers(layers[l][h]), replaced);
    }
  const svg::Point end{first.x + pitch.x * static_cast<double>(columns),
                       first.y + pitch.y * static_cast<double>(layers.size())};
  body += svg::text({(first.x + end.x) / 2, end.y + 12},
                    "lag: tokens between query and key, log(1 + lag) scale", {"label"});
  body += svg::text({13, (first.y + end.y) / 2}, "mean attention probability", {"label", "middle", -90});
  std::string out = svg::drawing({end.x, end.y + 20}, "Attention probability against distance", body);
  out += "<ul class=\"legend\"><li><svg width=\"34\" height=\"12\" aria-hidden=\"true\">" +
         svg::polyline({{1, 6}, {33, 6}}, "p kept-curve") + "</svg>head kept as attention</li>" +
         "<li><svg width=\"34\" height=\"12\" aria-hidden=\"true\">" +
         svg::polyline({{1, 6}, {33, 6}}, "p replaced-curve") + "</svg>head in a replaced group</li>";
  if (window > 0)
    out += "<li><svg width=\"34\" height=\"12\" aria-hidden=\"true\">" +
           svg::rectangle({1, 0}, {32, 12}, "class=\"recent\"") + "</svg>recent: lag below " +
           values::decimal(window, 0) + "</li>";
  if (far_lag > 0)
    out += "<li><svg width=\"34\" height=\"12\" aria-hidden=\"true\">" +
           svg::line({17, 0}, {17, 12}, "mark") + "</svg>lag " + values::decimal(far_lag, 0) +
           ", where the copy task has its answer</li>";
  return out + "</ul>\n";
}

}  // namespace cli::figures
