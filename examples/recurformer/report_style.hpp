#ifndef EXAMPLES_RECURFORMER_REPORT_STYLE_HPP
#define EXAMPLES_RECURFORMER_REPORT_STYLE_HPP

namespace cli {

/// The report's style sheet. Curve colours are those of Okabe and Ito, told apart by the colour-blind too,
/// and every curve also has dashes and markers of its own. Paper always gets the light colours.
inline constexpr const char* report_style = R"css(
:root {
  color-scheme: light dark;
  --page: #ffffff; --panel: #f5f6f8; --ink: #1b1f24; --soft: #57606a; --rule: #d0d5db; --grid: #e4e7eb;
  --accent: #d55e00; --recent: rgba(0, 114, 178, 0.12);
  --s0: #1b1f24; --s1: #7a828c; --s2: #d55e00; --s3: #0072b2; --s4: #b0549a; --s5: #00865f; --s6: #b07800;
  --s7: #3a9bd9;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --panel: #1e2329; --ink: #e6e8eb; --soft: #a3acb6; --rule: #3a424b; --grid: #2a3038;
    --accent: #ff8f4a; --recent: rgba(86, 180, 233, 0.16);
    --s0: #f0f2f4; --s1: #97a0aa; --s2: #ff8f4a; --s3: #56b4e9; --s4: #e39ac4; --s5: #2fc79a; --s6: #f0b73a;
    --s7: #a5d8f7;
  }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 28px 20px 60px; max-width: 1160px; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 27px; line-height: 1.25; margin: 0 0 10px; }
h2 { font-size: 19px; margin: 40px 0 8px; padding-top: 12px; border-top: 1px solid var(--rule); }
h3 { font-size: 15px; margin: 18px 0 4px; }
figure { margin: 0; }
p { margin: 0 0 10px; max-width: 880px; }
.caption { color: var(--soft); font-size: 14px; }
.quick { border-left: 4px solid var(--accent); padding: 6px 12px; background: var(--panel); }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0 0; padding: 0; list-style: none; }
.tiles li { flex: 1 1 190px; background: var(--panel); border-radius: 8px; padding: 12px 16px; }
.tiles b { display: block; font-size: 25px; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tiles span { display: block; color: var(--soft); font-size: 13px; line-height: 1.4; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: 5px 8px; text-align: right; white-space: nowrap; }
th { vertical-align: bottom; font-weight: 600; color: var(--soft); line-height: 1.3; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 150px; }
thead tr:last-child th { border-bottom: 1px solid var(--ink); }
th.group { text-align: center; border-bottom: 1px solid var(--rule); }
tbody td { border-bottom: 1px solid var(--grid); }
tbody td small { display: block; color: var(--soft); font-size: 12px; line-height: 1.2; }
tr.main td { background: var(--panel); font-weight: 600; }
tr.main td small { font-weight: 400; }
tr.partial td { color: var(--soft); }
table.facts { width: auto; }
table.facts td { text-align: left; white-space: normal; padding: 3px 14px 3px 0; overflow-wrap: anywhere; }
table.facts td:first-child { color: var(--soft); white-space: nowrap; }
.facts-columns { display: flex; flex-wrap: wrap; gap: 10px 50px; align-items: flex-start; }
.facts-columns > div { flex: 1 1 280px; max-width: 460px; }
ul.findings { padding-left: 22px; max-width: 900px; margin: 6px 0; }
ul.findings li { margin: 0 0 7px; }
.charts { display: flex; flex-wrap: wrap; gap: 16px 24px; }
.chart { flex: 1 1 420px; min-width: 0; max-width: 548px; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 4px 0 8px; padding: 0;
  font-size: 13px; }
.legend li { display: flex; align-items: center; gap: 7px; }
.legend svg { flex: none; }
pre { background: var(--panel); border-radius: 8px; padding: 14px 16px; margin: 8px 0; font-size: 13px;
  line-height: 1.45; white-space: pre-wrap; overflow-wrap: anywhere; tab-size: 4;
  font-family: ui-monospace, "DejaVu Sans Mono", monospace; }
pre b { color: var(--accent); }
svg { max-width: 100%; height: auto; }
svg text { font-family: inherit; fill: var(--ink); }
svg .tick, svg .small { font-size: 12px; fill: var(--soft); }
svg .label { font-size: 13px; }
svg .title { font-size: 14px; font-weight: 600; }
svg .cell { font-size: 14px; font-weight: 600; }
svg .strong { font-weight: 600; fill: var(--ink); }
svg .on-light { fill: #000; }
svg .on-dark { fill: #fff; }
svg .small.on-light, svg .small.on-dark { font-size: 11px; }
svg .axis { stroke: var(--soft); }
svg .grid { stroke: var(--grid); }
svg .mark { stroke: var(--ink); stroke-dasharray: 2 3; }
svg .recent { fill: var(--recent); }
svg .empty { fill: none; stroke: var(--rule); }
svg .replaced { fill: none; stroke: var(--accent); stroke-width: 3.5; rx: 4px; }
svg .c { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .p { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
svg .kept-curve { stroke: var(--s3); }
svg .replaced-curve { stroke: var(--accent); }
svg .c.s0 { stroke: var(--s0); } svg .m.s0 { fill: var(--s0); }
svg .c.s1 { stroke: var(--s1); stroke-dasharray: 7 4; } svg .m.s1 { fill: var(--s1); }
svg .c.s2 { stroke: var(--s2); stroke-dasharray: 2 3; } svg .m.s2 { fill: var(--s2); }
svg .c.s3 { stroke: var(--s3); } svg .m.s3 { fill: var(--s3); }
svg .c.s4 { stroke: var(--s4); stroke-dasharray: 9 3 2 3; } svg .m.s4 { fill: var(--s4); }
svg .c.s5 { stroke: var(--s5); stroke-dasharray: 12 4; } svg .m.s5 { fill: var(--s5); }
svg .c.s6 { stroke: var(--s6); stroke-dasharray: 4 4; } svg .m.s6 { fill: var(--s6); }
svg .c.s7 { stroke: var(--s7); stroke-dasharray: 12 3 2 3 2 3; } svg .m.s7 { fill: var(--s7); }
svg polyline.c.faint { stroke-width: 1; opacity: 0.28; stroke-dasharray: none; }
@media print {
  @page { margin: 12mm; }
  :root { color-scheme: light; }
  body { padding: 0; max-width: none; font-size: 10pt; -webkit-print-color-adjust: exact;
    print-color-adjust: exact; }
  .chart, .tiles, figure, table, li, pre { break-inside: avoid; }
  h2, h3, .caption { break-after: avoid; }
  section { break-inside: avoid; }
  h2 { margin-top: 20px; }
  .tiles li { flex-basis: 20%; padding: 8px 10px; }
  .tiles b { font-size: 15pt; }
  table { font-size: 7.5pt; }
  tbody td small { font-size: 6.5pt; }
  table.facts { font-size: 9pt; }
  th, td { padding: 3px 4px; }
  th:first-child, td:first-child { min-width: 0; }
  .scroll { overflow: visible; }
  .scroll svg { min-width: 0 !important; width: 100%; }
  .chart { flex: 0 1 47%; }
}
)css";

}  // namespace cli

#endif  // EXAMPLES_RECURFORMER_REPORT_STYLE_HPP
