"""How the report looks, on a screen and on paper: one style sheet, light, no font from outside."""

from typing import Final

STYLE: Final = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 60rem; color: #1c1c1c;
  background: #fff; font: 15px/1.5 system-ui, "Segoe UI", "Liberation Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .5rem; padding-bottom: .2rem;
  border-bottom: 1px solid #ccc; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p { margin: .4rem 0; max-width: 46rem; }
.faint { color: #5a5a5a; }
.finding { margin: 1.2rem 0; padding: 1rem 1.2rem; border: 1px solid #bbb; border-left-width: 8px;
  border-radius: 4px; background: #fafafa; }
.finding h2 { border: 0; margin: 0 0 .4rem; padding: 0; font-size: 1.35rem; }
.holds, .suppressed { border-left-color: #b5541c; }
.returns { border-left-color: #c99a2e; }
.partly { border-left-color: #b26a00; }
.like_reference { border-left-color: #2b5c9e; }
.undecided { border-left-color: #777; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0; font-size: .88rem; }
th, td { padding: .25rem .7rem .25rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid #e3e3e3; overflow-wrap: break-word; }
th { border-bottom: 1px solid #999; font-weight: 600; overflow-wrap: normal; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
td.n { white-space: nowrap; }
td.hash { min-width: 15rem; overflow-wrap: anywhere;
  font: .8rem/1.5 ui-monospace, "Liberation Mono", monospace; }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; white-space: pre-wrap;
  overflow-wrap: anywhere; font: .8rem/1.45 ui-monospace, "Liberation Mono", monospace; }
figure { margin: 1rem 0; max-width: 46rem; }
figcaption { font-weight: 600; font-size: .92rem; }
.drawing { overflow-x: auto; }
.drawing svg { width: 100%; min-width: 30rem; height: auto; display: block; }
svg text { font: 12px system-ui, "Liberation Sans", sans-serif; fill: #333; stroke: #fff;
  stroke-width: 3px; paint-order: stroke; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .88rem; }
svg.key { width: 16px; height: 14px; vertical-align: -2px; }
ul { margin: .4rem 0; padding-left: 1.2rem; max-width: 46rem; }
.sign { display: flex; flex-wrap: wrap; gap: 2rem; margin-top: 2rem; }
.sign div { flex: 1 1 14rem; border-top: 1px solid #555; padding-top: .3rem; font-size: .88rem; }
@media print {
  body { padding: 0; max-width: none; font-size: 10.5pt; }
  h2, h3, figcaption { break-after: avoid; }
  .finding, .whole, figure, tr { break-inside: avoid; }
  .scroll, .drawing { overflow: visible; }
  .drawing svg { min-width: 0; }
  table { font-size: 8.5pt; }
  th, td { padding-right: .45rem; }
  td.hash { min-width: 0; }
  @page { margin: 16mm; }
}
"""
