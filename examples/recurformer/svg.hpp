#ifndef EXAMPLES_RECURFORMER_SVG_HPP
#define EXAMPLES_RECURFORMER_SVG_HPP

// Drawings for the report: SVG text, coloured by classes of the page's style sheet, so that one drawing is
// readable on light, dark and paper.

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace cli::svg {

/// Text as HTML and SVG content or attribute: markup escaped; control bytes and bytes that are not UTF-8
/// shown as \xNN.
std::string escape(std::string_view bytes);

struct Point {
  double x = 0, y = 0;
};

/// Attributes of a text: a CSS class and an anchor, "start", "middle" or "end".
struct TextStyle {
  std::string css = "tick";
  std::string anchor = "middle";
  double degrees = 0;
};

std::string text(Point at, std::string_view content, const TextStyle& style);
std::string line(Point from, Point to, std::string_view css);
/// `extra` is put into the tag as it is; `tip` is shown while the pointer rests on the rectangle.
std::string rectangle(Point corner, Point size, std::string_view attributes, std::string_view tip = {});
std::string polyline(const std::vector<Point>& points, std::string_view css);
/// A drawing of `size` pixels that may shrink to fit; `label` is read out where it cannot be seen.
std::string drawing(Point size, std::string_view label, std::string_view body);

/// Maps values to [0, 1]. `high` must exceed `low`; on a logarithmic axis both are positive.
struct Axis {
  double low = 0, high = 1;
  bool logarithmic = false;
  std::vector<double> ticks;
  std::string label;
  std::function<std::string(double)> tick_text;

  double fraction(double value) const;
};

/// An axis over all of [low, high] with round ticks; widens an empty range.
Axis linear_axis(double low, double high, std::string label, std::function<std::string(double)> tick_text);
Axis logarithmic_axis(double low, double high, std::string label,
                      std::function<std::string(double)> tick_text);

/// One curve. `style` picks colour, dashes and marker; curves without a name stay out of the legend.
struct Series {
  std::string name;
  int style = 0;
  std::vector<Point> points;
  bool markers = false;
  bool faint = false;
};

struct Chart {
  std::string title;
  Axis x, y;
  std::vector<Series> series;
};

inline constexpr int styles = 8;

/// Axes, grid, curves, and a legend below.
std::string line_chart(const Chart& chart);

/// The colour of `value` in [0, 1], dark blue to yellow (cividis: equal steps for the colour-blind too), as
/// "#rrggbb".
std::string heat_colour(double value);
/// Black or white, whichever reads better on heat_colour(value).
std::string heat_text_colour(double value);

}  // namespace cli::svg

#endif  // EXAMPLES_RECURFORMER_SVG_HPP
