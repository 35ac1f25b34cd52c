// The report as a page. The figures are drawn in figures.cpp and curve_figures.cpp, the sentences come from
// findings.cpp.

#include "report.hpp"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "figures.hpp"
#include "report_style.hpp"
#include "report_values.hpp"
#include "svg.hpp"

namespace cli {

namespace {

using nlohmann::json;
using svg::escape;
using values::Number;

template <class Write>
std::string shown(Number value, Write write) {
  return value ? write(*value) : "–";
}

std::string with_minus_sign(std::string text) {
  if (text.starts_with('-')) text.replace(0, 1, "−");
  return text;
}

std::string change(Number ratio) { return with_minus_sign(shown(ratio, values::change)); }

std::string section(const std::string& title, const std::string& caption, const std::string& body) {
  if (body.empty()) return {};
  return "<section>\n<h2>" + escape(title) + "</h2>\n" +
         (caption.empty() ? "" : "<p class=\"caption\">" + escape(caption) + "</p>\n") + body +
         "</section>\n";
}

std::string main_name(const json& report) {
  const json* row = values::main_row(report);
  return row ? values::string(*row, "/name") : "RecurFormer";
}

std::string introduction(const json& report) {
  std::string what =
      "In many heads of a trained Transformer attention looks mostly at the latest tokens. RecurFormer "
      "finds these recency-aware heads and replaces them, inside their layers, by heads with a "
      "recurrent state of fixed size, so that their keys and values need not be kept; heads that "
      "look far back stay attention. ";
  std::string run = "This run trained a small Transformer";
  if (const Number parameters = values::number(report, "/model/parameters"))
    run += " (" + values::tokens(*parameters) + " parameters)";
  if (const Number tokens = values::number(report, "/settings/original_tokens"))
    run += " on " + values::tokens(*tokens) + " tokens (bytes)";
  run += ", measured where its heads look, replaced ";
  const Number fraction = values::number(report, "/settings/fraction");
  run += fraction ? values::percent(*fraction) + " of its KV groups" : "some of its KV groups";
  run += ", those with the highest recency ratio, and trained on";
  if (const Number tokens = values::number(report, "/settings/arm_tokens"))
    run += " for " + values::tokens(*tokens) + " tokens";
  run += ". Its rivals were treated alike and stand beside it.";
  std::string out = "<h1>RecurFormer: recurrent heads in place of recency-aware attention</h1>\n<p>" +
                    escape(what + run) + "</p>\n";
  if (values::flag(report, "/settings/quick"))
    out +=
        "<p class=\"quick\">" +
        escape(
            "Quick run with a fraction of the training: it shows that everything works, not what the method "
            "is worth.") +
        "</p>\n";
  return out;
}

std::string tile(const std::string& value, const std::string& meaning) {
  return "<li><b>" + escape(value) + "</b><span>" + escape(meaning) + "</span></li>\n";
}

/// The four figures that matter, of the arm the report is about.
std::string tiles(const json& report) {
  const json *row = values::main_row(report), *original = values::row(report, "original"),
             *continued = values::row(report, "original_continued");
  if (!row || !original) return {};
  const auto against = [&](const json* base, const std::string& path) {
    return base ? values::ratio(values::number(*row, path), values::number(*base, path)) : Number();
  };
  std::string out;
  if (const Number bits = against(original, "/bits_per_byte")) {
    std::string meaning = "bits per byte against the original (less is better)";
    if (const Number fair = against(continued, "/bits_per_byte"))
      meaning += "; " + change(fair) + " against the original trained on as long";
    out += tile(change(bits), meaning);
  }
  if (const Number recall = values::number(*row, "/copy_recall"))
    out += tile(values::decimal(*recall, 3),
                "copy recall; the original has " + shown(values::number(*original, "/copy_recall"),
                                                         [](double v) { return values::decimal(v, 3); }));
  const std::vector<std::int64_t> contexts = values::cache_contexts(report);
  if (!contexts.empty())
    if (const Number share = against(original, "/cache_bytes/" + std::to_string(contexts.back())))
      out += tile(values::percent(*share),
                  "of the original's cache at " + values::context(contexts.back()) + " tokens");
  if (const Number decode = against(original, "/decode_tokens_per_second")) {
    const Number context = values::number(report, "/speed_context");
    out += tile("× " + values::decimal(*decode, 2),
                "decode speed against the original" +
                    (context ? " at " + values::context(std::llround(*context)) + " tokens" : ""));
  }
  return out.empty() ? out
                     : "<h3>" + escape(main_name(report)) + ", trained on</h3>\n<ul class=\"tiles\">\n" +
                           out + "</ul>\n";
}

std::string table_head(const json& report, const std::vector<std::int64_t>& contexts) {
  const Number context = values::number(report, "/speed_context");
  const std::string speed = context ? " at " + values::context(std::llround(*context)) : "";
  std::string out = "<thead>\n<tr><th></th><th class=\"group\" colspan=\"3\">bits per byte</th><th></th>";
  if (!contexts.empty())
    out += "<th class=\"group\" colspan=\"" + std::to_string(contexts.size()) +
           "\">cache, and share of the original's</th>";
  out += "<th class=\"group\" colspan=\"2\">tokens/s" + escape(speed) +
         "</th><th></th></tr>\n<tr><th>model</th>" +
         "<th>value</th><th>against<br>original</th><th>against<br>original<br>trained on</th>" +
         "<th>copy<br>recall</th>";
  for (const std::int64_t length : contexts)
    out += "<th>" + escape(values::context(length)) + "<br>tokens</th>";
  return out + "<th>prefill</th><th>decode</th><th>tokens<br>trained</th></tr>\n</thead>\n";
}

std::string cell(const std::string& text, const std::string& second_line = {}) {
  return "<td>" + escape(text) + (second_line.empty() ? "" : "<small>" + escape(second_line) + "</small>") +
         "</td>";
}

/// A speed, and how many times the original's it is.
std::string speed_cell(const json& row, const json* original, const std::string& path) {
  const Number ratio = original && original != &row
                           ? values::ratio(values::number(row, path), values::number(*original, path))
                           : Number();
  return cell(shown(values::number(row, path), values::grouped),
              ratio ? "× " + values::decimal(*ratio, 2) : std::string());
}

std::string table_row(const json& report, const json& row, const std::vector<std::int64_t>& contexts) {
  const json *original = values::row(report, "original"),
             *continued = values::row(report, "original_continued");
  const Number bits = values::number(row, "/bits_per_byte");
  const auto against = [&](const json* base) {
    return base && base != &row ? values::ratio(bits, values::number(*base, "/bits_per_byte")) : Number();
  };
  const bool partial = values::string(row, "/key") != "original" && !values::trained_to_the_end(row);
  std::string out = &row == values::main_row(report) ? "<tr class=\"main\">"
                    : partial                        ? "<tr class=\"partial\">"
                                                     : "<tr>";
  out += cell(values::string(row, "/name"));
  out += cell(shown(bits, [](double v) { return values::decimal(v, 4); }));
  out += cell(&row == original ? "" : change(against(original)));
  // Only rows that have trained for as long compare with the original trained on.
  out += cell(&row == continued || !values::trained_to_the_end(row) ? "" : change(against(continued)));
  out += cell(shown(values::number(row, "/copy_recall"), [](double v) { return values::decimal(v, 3); }));
  for (const std::int64_t length : contexts) {
    const Number bytes = values::cache_bytes(row, length);
    const Number share = original && original != &row
                             ? values::ratio(bytes, values::cache_bytes(*original, length))
                             : Number();
    out += cell(shown(bytes, values::bytes), share ? values::percent(*share) : std::string());
  }
  out += speed_cell(row, original, "/prefill_tokens_per_second");
  out += speed_cell(row, original, "/decode_tokens_per_second");
  return out + cell(shown(values::number(row, "/tokens_trained"), values::tokens)) + "</tr>\n";
}

std::string table(const json& report) {
  const std::vector<std::int64_t> contexts = values::cache_contexts(report);
  std::string out = "<div class=\"scroll\"><table>\n" + table_head(report, contexts) + "<tbody>\n";
  for (const json& row : values::array(report, "/rows")) out += table_row(report, row, contexts);
  return out + "</tbody>\n</table></div>\n";
}

std::string list(const std::vector<std::string>& sentences) {
  std::string out = "<ul class=\"findings\">\n";
  for (std::string sentence : sentences) {
    // A per cent sign stays with its number.
    for (std::size_t at = 0; (at = sentence.find(" %", at)) != std::string::npos; ++at)
      sentence.replace(at, 1, "\u00a0");
    out += "<li>" + escape(sentence) + "</li>\n";
  }
  return out + "</ul>\n";
}

std::string figure(const std::string& body) {
  return body.empty() ? body : "<figure>\n" + body + "</figure>\n";
}

std::string heat_section(const json& report) {
  std::string caption = "The recency ratio of a head is the share of its attention on the latest tokens";
  if (const Number window = values::number(report, "/recency/window"))
    caption += " (window " + values::decimal(*window, 0) + ")";
  caption += ", averaged over queries";
  if (const Number sequences = values::number(report, "/recency/sequences"))
    caption += " and " + values::decimal(*sequences, 0) + " sequences, ± its standard error";
  caption += ". Heads that share keys and values form a group and are replaced together";
  if (!values::array(report, "/recency/replaced").empty()) caption += "; framed groups were replaced";
  return section("Where the heads look: recency ratio", caption + ".", figure(figures::heat_map(report)));
}

std::string profile_section(const json& report) {
  return section(
      "Attention against distance",
      "Mean probability that a query gives to a key at each distance, measured on the original, one "
      "small chart per head (L layer, H head, recency ratio). All charts have the same axes; the "
      "probability axis is logarithmic.",
      figure(figures::profiles(report)));
}

std::string loss_section(const json& report) {
  return section(
      "Losses while training",
      "Measured on the rows being trained on, text and copies mixed, so not the held-out figures of the "
      "table. Thick: running mean; faint: as recorded. Every curve starts at the first token of its own "
      "phase. What counts is the end, when the learning rate has come down.",
      figure(figures::losses(report)));
}

std::string context_section(const json& report) {
  return section(
      "Growth with the context",
      "Cache of one sequence (both axes logarithmic) and decode speed with that much context already "
      "there (length logarithmic).",
      figure(figures::contexts(report)));
}

std::string sample_section(const json& report) {
  const std::string text = values::string(report, "/sample/text");
  if (text.empty()) return {};
  const std::string model = values::string(report, "/sample/model");
  return section(
      "Sample",
      "Generated with the hybrid cache" + (model.empty() ? "" : " by " + model) +
          ", after the prompt shown in bold. Not selected.",
      "<pre><b>" + escape(values::string(report, "/sample/prompt")) + "</b>" + escape(text) + "</pre>\n");
}

/// One object of the report as a table of names and values, those that are there.
std::string facts(const json& report, const std::string& title,
                  const std::vector<std::pair<std::string, std::string>>& names_and_paths) {
  std::string out;
  for (const auto& [name, path] : names_and_paths) {
    std::string value = values::string(report, path);
    if (const Number number = values::number(report, path)) {
      const double v = *number;
      value = path == "/settings/seed" ? values::decimal(v, 0)
              : v == std::floor(v)     ? values::grouped(v)
                                       : values::decimal(v, 2);
    }
    if (!value.empty()) out += "<tr>" + cell(name) + cell(value) + "</tr>\n";
  }
  return out.empty()
             ? out
             : "<div><h3>" + escape(title) + "</h3>\n<table class=\"facts\">\n" + out + "</table></div>\n";
}

std::string fact_section(const json& report) {
  const std::string all = facts(report, "Settings",
                                {{"text", "/settings/text"},
                                 {"text, bytes", "/settings/text_bytes"},
                                 {"row length, tokens", "/settings/length"},
                                 {"rows per step", "/settings/rows_per_step"},
                                 {"copy lag, tokens", "/settings/copy_lag"},
                                 {"original trained on, tokens", "/settings/original_tokens"},
                                 {"each arm trained on, tokens", "/settings/arm_tokens"},
                                 {"replacement", "/settings/replacement"},
                                 {"fraction of KV groups replaced", "/settings/fraction"},
                                 {"seed", "/settings/seed"},
                                 {"duration, seconds", "/settings/seconds"}}) +
                          facts(report, "Model",
                                {{"layers", "/model/layers"},
                                 {"width (d_model)", "/model/d_model"},
                                 {"query heads", "/model/heads"},
                                 {"KV groups", "/model/kv_groups"},
                                 {"query heads per group", "/model/queries_per_group"},
                                 {"head width (d_head)", "/model/d_head"},
                                 {"MLP width (d_ff)", "/model/d_ff"},
                                 {"parameters", "/model/parameters"}}) +
                          facts(report, "Machine",
                                {{"backend", "/machine/backend"},
                                 {"processor", "/machine/cpu"},
                                 {"instruction set", "/machine/instruction_set"},
                                 {"threads", "/machine/threads"}});
  return section("Settings and machine", "",
                 all.empty() ? all : "<div class=\"facts-columns\">\n" + all + "</div>\n");
}

}  // namespace

std::string html_report(const json& report) {
  const std::string table_caption =
      "Bits per byte on held-out text: less is better. Copy recall: share of the repeated letters predicted "
      "right. Grey rows have not had all of their training; the shaded one is what this run is about.";
  return "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
         "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
         "<title>RecurFormer: what the demo measured</title>\n<style>" +
         std::string(report_style) + "</style>\n</head>\n<body>\n" + introduction(report) + tiles(report) +
         section("Comparison", table_caption, table(report)) +
         section("What the comparison shows, and what it does not", "",
                 list(observations(report)) + "<h3>What it does not show</h3>\n" + list(limits(report))) +
         heat_section(report) + profile_section(report) + loss_section(report) + context_section(report) +
         sample_section(report) + fact_section(report) + "</body>\n</html>\n";
}

}  // namespace cli
