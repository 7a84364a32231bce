"""How the page looks, on a screen and on paper."""

STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #fff; color: #1a1a1a;
  font: 15px/1.45 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 24px 60px; }
h1 { font-size: 26px; margin: 0 0 2px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 34px 0 10px; padding-bottom: 4px; border-bottom: 1px solid #c9ced6; }
h3 { font-size: 16px; margin: 0 0 2px; overflow-wrap: anywhere; }
h3 small { font-weight: 400; color: #4d4d4d; }
.meta, .caption, figcaption { color: #4d4d4d; font-size: 13px; margin: 0 0 8px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; width: 100%; }
th { font-weight: 600; text-align: left; vertical-align: bottom; border-bottom: 1.5px solid #1a1a1a; padding: 4px 8px; }
td { vertical-align: top; border-bottom: 1px solid #e3e6ea; padding: 4px 8px; }
th.number, td.number { text-align: right; }
td.number { white-space: nowrap; }
td.word { overflow-wrap: anywhere; min-width: 5em; }
tbody tr:last-child td { border-bottom: 1.5px solid #1a1a1a; }
.card { border: 1px solid #8d96a3; border-left: 5px solid #0072B2; border-radius: 4px;
  padding: 14px 16px; margin: 0 0 18px; }
td.word:first-child { min-width: 13em; }
.card td:last-child { font-weight: 600; min-width: 26em; }
td small { display: block; white-space: pre-line; font-size: 12px; font-weight: 400; color: #4d4d4d; }
.wide + .card { margin-top: 18px; }
.cautions { margin: 10px 0 0; padding-left: 18px; font-size: 13px; }
dl { display: flex; flex-wrap: wrap; gap: 4px 22px; margin: 12px 0 0; font-size: 12px; color: #4d4d4d; }
dl div { display: flex; gap: 6px; }
dt { font-weight: 600; }
dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 0 0 22px; text-align: center; break-inside: avoid; }
figure img { max-width: 100%; width: 900px; height: auto; }
figcaption { max-width: 900px; margin: 4px auto 0; text-align: left; }
.file { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 12px; }
ul { margin: 0; padding-left: 20px; font-size: 13.5px; }
@page { margin: 14mm; }
@media print {
  body { font-size: 11px; }
  main { max-width: none; padding: 0; }
  table { font-size: 9.5px; }
  th, td { padding: 3px 5px; }
  td small { font-size: 8.5px; }
  td.word:first-child, .card td:last-child { min-width: 10em; }
  .card, tr { break-inside: avoid; }
  .wide { overflow: visible; }
  h2 { break-after: avoid; }
}
"""
