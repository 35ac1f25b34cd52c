#include "svg.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>

namespace cli::svg {

namespace {

std::string pixels(double value) {
  char buffer[48];
  std::snprintf(buffer, sizeof buffer, "%.1f", value);
  return buffer;
}

std::string attribute(std::string_view name, std::string_view value) {
  return " " + std::string(name) + "=\"" + std::string(value) + "\"";
}

/// Length of the well-formed UTF-8 sequence that `bytes` begins with; 0 if it does not begin with one.
std::size_t utf8_length(std::string_view bytes) {
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned lead = at(0);
  const std::size_t length = lead < 0x80                    ? 1
                             : lead >= 0xC2 && lead <= 0xDF ? 2
                             : lead >= 0xE0 && lead <= 0xEF ? 3
                             : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                            : 0;
  if (length == 0 || length > bytes.size()) return 0;
  for (std::size_t i = 1; i < length; ++i)
    if (at(i) < 0x80 || at(i) > 0xBF) return 0;
  // Overlong forms, surrogates, and what lies beyond the last code point.
  if ((lead == 0xE0 && at(1) < 0xA0) || (lead == 0xED && at(1) > 0x9F) || (lead == 0xF0 && at(1) < 0x90) ||
      (lead == 0xF4 && at(1) > 0x8F))
    return 0;
  return length;
}

bool is_control(std::string_view character) {
  const auto byte = static_cast<unsigned char>(character[0]);
  if (character.size() == 2) return byte == 0xC2 && static_cast<unsigned char>(character[1]) < 0xA0;
  return character.size() == 1 && ((byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7F);
}

}  // namespace

std::string escape(std::string_view bytes) {
  std::string out;
  while (!bytes.empty()) {
    const std::size_t length = std::max<std::size_t>(utf8_length(bytes), 1);
    const std::string_view character = bytes.substr(0, length);
    if (utf8_length(bytes) == 0 || is_control(character)) {
      for (const char byte : character) {
        char shown[8];
        std::snprintf(shown, sizeof shown, "\\x%02X", static_cast<unsigned char>(byte));
        out += shown;
      }
    } else if (character == "&") {
      out += "&amp;";
    } else if (character == "<") {
      out += "&lt;";
    } else if (character == ">") {
      out += "&gt;";
    } else if (character == "\"") {
      out += "&quot;";
    } else if (character == "'") {
      out += "&#39;";
    } else {
      out += character;
    }
    bytes.remove_prefix(length);
  }
  return out;
}

std::string text(Point at, std::string_view content, const TextStyle& style) {
  std::string tag = "<text" + attribute("x", pixels(at.x)) + attribute("y", pixels(at.y)) +
                    attribute("class", style.css) + attribute("text-anchor", style.anchor);
  if (style.degrees != 0)
    tag += attribute("transform",
                     "rotate(" + pixels(style.degrees) + " " + pixels(at.x) + " " + pixels(at.y) + ")");
  return tag + ">" + escape(content) + "</text>\n";
}

std::string line(Point from, Point to, std::string_view css) {
  return "<line" + attribute("x1", pixels(from.x)) + attribute("y1", pixels(from.y)) +
         attribute("x2", pixels(to.x)) + attribute("y2", pixels(to.y)) + attribute("class", css) + "/>\n";
}

std::string rectangle(Point corner, Point size, std::string_view attributes, std::string_view tip) {
  const std::string tag = "<rect" + attribute("x", pixels(corner.x)) + attribute("y", pixels(corner.y)) +
                          attribute("width", pixels(size.x)) + attribute("height", pixels(size.y)) + " " +
                          std::string(attributes);
  if (tip.empty()) return tag + "/>\n";
  return tag + "><title>" + escape(tip) + "</title></rect>\n";
}

std::string polyline(const std::vector<Point>& points, std::string_view css) {
  std::string list;
  for (const Point& point : points)
    list += (list.empty() ? "" : " ") + pixels(point.x) + "," + pixels(point.y);
  return "<polyline" + attribute("class", css) + attribute("points", list) + "/>\n";
}

std::string drawing(Point size, std::string_view label, std::string_view body) {
  return "<div class=\"scroll\"><svg role=\"img\"" + attribute("aria-label", escape(label)) +
         attribute("viewBox", "0 0 " + pixels(size.x) + " " + pixels(size.y)) +
         attribute("width", pixels(size.x)) + attribute("style", "min-width:" + pixels(0.7 * size.x) + "px") +
         ">\n" + std::string(body) + "</svg></div>\n";
}

double Axis::fraction(double value) const {
  if (logarithmic) return std::log(std::max(value, 1e-300) / low) / std::log(high / low);
  return (value - low) / (high - low);
}

Axis linear_axis(double low, double high, std::string label, std::function<std::string(double)> tick_text) {
  if (!(high > low)) high = low + std::max(1.0, std::abs(low));
  const double power = std::pow(10.0, std::floor(std::log10((high - low) / 4)));
  double step = power;
  for (const double factor : {2.0, 5.0, 10.0})
    if ((high - low) / step > 6) step = factor * power;
  Axis axis{low, high, false, {}, std::move(label), std::move(tick_text)};
  for (double tick = std::ceil(low / step - 1e-9) * step; tick <= high + 1e-9 * step; tick += step)
    axis.ticks.push_back(std::abs(tick) < 1e-9 * step ? 0 : tick);
  return axis;
}

Axis logarithmic_axis(double low, double high, std::string label,
                      std::function<std::string(double)> tick_text) {
  if (!(high > low)) high = 2 * low;
  Axis axis{low, high, true, {}, std::move(label), std::move(tick_text)};
  const double decades = std::log10(high / low);
  const std::vector<double> steps = decades > 2.5 ? std::vector<double>{1}
                                    : decades > 1 ? std::vector<double>{1, 2, 5}
                                    : decades > .5
                                        ? std::vector<double>{1, 1.5, 2, 3, 4, 5, 7}
                                        : std::vector<double>{1, 1.2, 1.4, 1.6, 2, 2.5, 3, 4, 5, 6, 8};
  for (double power = std::pow(10.0, std::floor(std::log10(low))); power <= high; power *= 10)
    for (const double step : steps)
      if (power * step >= low * (1 - 1e-9) && power * step <= high * (1 + 1e-9))
        axis.ticks.push_back(power * step);
  return axis;
}

namespace {

constexpr Point chart_size{528, 340};
constexpr Point plot_corner{74, 34};
constexpr Point plot_size{438, 250};

std::string marker(int style, Point at) {
  const std::string css = attribute("class", "m s" + std::to_string(style));
  const double x = at.x, y = at.y, r = 4;
  const auto polygon = [&](const std::vector<Point>& corners) {
    std::string list;
    for (const Point& corner : corners) list += pixels(corner.x) + "," + pixels(corner.y) + " ";
    return "<polygon" + css + attribute("points", list) + "/>\n";
  };
  switch (style % 4) {
    case 1:
      return polygon({{x - r, y - r}, {x + r, y - r}, {x + r, y + r}, {x - r, y + r}});
    case 2:
      return polygon({{x, y - 5}, {x + 5, y + r}, {x - 5, y + r}});
    case 3:
      return polygon({{x, y - 5.5}, {x + 5.5, y}, {x, y + 5.5}, {x - 5.5, y}});
    default:
      return "<circle" + css + attribute("cx", pixels(x)) + attribute("cy", pixels(y)) +
             attribute("r", pixels(r)) + "/>\n";
  }
}

std::string legend(const std::vector<Series>& series) {
  std::string out = "<ul class=\"legend\">";
  for (const Series& one : series) {
    if (one.name.empty()) continue;
    out += "<li><svg width=\"34\" height=\"12\" aria-hidden=\"true\">" +
           polyline({{1, 6}, {33, 6}}, "c s" + std::to_string(one.style)) +
           (one.markers ? marker(one.style, {17, 6}) : "") + "</svg>" + escape(one.name) + "</li>";
  }
  return out + "</ul>\n";
}

std::string axes(const Chart& chart) {
  const double bottom = plot_corner.y + plot_size.y, right = plot_corner.x + plot_size.x;
  std::string out = text({plot_corner.x, 18}, chart.title, {"title", "start"});
  for (const double tick : chart.x.ticks) {
    const double x = plot_corner.x + chart.x.fraction(tick) * plot_size.x;
    out += line({x, plot_corner.y}, {x, bottom}, "grid");
    out += text({x, bottom + 17}, chart.x.tick_text(tick), {});
  }
  for (const double tick : chart.y.ticks) {
    const double y = bottom - chart.y.fraction(tick) * plot_size.y;
    out += line({plot_corner.x, y}, {right, y}, "grid");
    out += text({plot_corner.x - 8, y + 4}, chart.y.tick_text(tick), {"tick", "end"});
  }
  out += line({plot_corner.x, bottom}, {right, bottom}, "axis");
  out += line({plot_corner.x, plot_corner.y}, {plot_corner.x, bottom}, "axis");
  out += text({plot_corner.x + plot_size.x / 2, bottom + 40}, chart.x.label, {"label"});
  out += text({14, plot_corner.y + plot_size.y / 2}, chart.y.label, {"label", "middle", -90});
  return out;
}

}  // namespace

std::string line_chart(const Chart& chart) {
  std::string body = axes(chart);
  for (const Series& one : chart.series) {
    std::vector<Point> points;
    for (const Point& point : one.points)
      points.push_back({plot_corner.x + std::clamp(chart.x.fraction(point.x), 0.0, 1.0) * plot_size.x,
                        plot_corner.y + (1 - std::clamp(chart.y.fraction(point.y), 0.0, 1.0)) * plot_size.y});
    body += polyline(points, (one.faint ? "c faint s" : "c s") + std::to_string(one.style));
    if (one.markers)
      for (const Point& point : points) body += marker(one.style, point);
  }
  return "<div class=\"chart\">" + drawing(chart_size, chart.title, body) + legend(chart.series) + "</div>\n";
}

namespace {

std::array<double, 3> heat(double value) {
  constexpr std::array<std::array<double, 3>, 5> stops{
      {{0, 34, 78}, {65, 77, 107}, {124, 123, 120}, {188, 175, 111}, {254, 232, 56}}};
  const double at = std::clamp(value, 0.0, 1.0) * 4;
  const auto low = std::min<std::size_t>(static_cast<std::size_t>(at), 3);
  const double share = at - static_cast<double>(low);
  std::array<double, 3> out{};
  for (std::size_t i = 0; i < 3; ++i) out[i] = stops[low][i] * (1 - share) + stops[low + 1][i] * share;
  return out;
}

}  // namespace

std::string heat_colour(double value) {
  const auto [red, green, blue] = heat(value);
  char buffer[16];
  std::snprintf(buffer, sizeof buffer, "#%02x%02x%02x", static_cast<unsigned>(red) & 255U,
                static_cast<unsigned>(green) & 255U, static_cast<unsigned>(blue) & 255U);
  return buffer;
}

std::string heat_text_colour(double value) {
  const auto [red, green, blue] = heat(value);
  return 0.299 * red + 0.587 * green + 0.114 * blue > 120 ? "#000" : "#fff";
}

}  // namespace cli::svg
