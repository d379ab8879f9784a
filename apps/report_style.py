"""The look of a report: one style sheet for light, dark, phone and paper, without a font or picture from outside."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f5f2; --card: #ffffff; --ink: #1d1f23; --soft: #646973; --line: #e2e0da; --track: #ebe9e3;
  --accent: #0d6b8c; --second: #b5661b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #121417; --card: #1a1d22; --ink: #e8e9ec; --soft: #9ba1ac; --line: #2c3038; --track: #2a2e36;
    --accent: #56bcdf; --second: #e39a55;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; padding: 1.5rem 1rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  overflow-wrap: anywhere;
}
header, main, footer { max-width: 60rem; margin: 0 auto; }
header, footer { color: var(--soft); font-size: .875rem; }
article { margin-bottom: 3rem; }
h1 { font-size: 1.125rem; font-weight: 500; color: var(--soft); margin: 1.5rem 0 .25rem; white-space: pre-wrap; }
h2 {
  font-size: .8125rem; font-weight: 600; letter-spacing: .06em; text-transform: uppercase; color: var(--soft);
  margin: 0 0 .875rem;
}
.answer {
  font-size: clamp(1.5rem, 6vw, 2.25rem); line-height: 1.2; font-weight: 650; margin: 0 0 1rem; white-space: pre-wrap;
}
.reasons p { margin: 0 0 .25rem; max-width: 46rem; }
section {
  background: var(--card); border: 1px solid var(--line); border-radius: .75rem; padding: 1.125rem; margin-top: 1rem;
}
.facts {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(max(7rem, 22%), 1fr)); gap: .875rem 1rem; margin: 0;
}
.facts dt { color: var(--soft); font-size: .8125rem; }
.facts dd { margin: 0; font-size: 1.125rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 0 1rem; }
.pair > div { display: flex; flex-direction: column; }
.pair section { flex: 1; }
.bars {
  display: grid; grid-template-columns: fit-content(44%) 1fr auto; gap: .4375rem .75rem; align-items: center; margin: 0;
}
.bars .row { display: contents; }
.track { height: .625rem; border-radius: .3125rem; background: var(--track); overflow: hidden; }
.fill { display: block; height: 100%; min-width: 2px; border-radius: inherit; background: var(--accent); }
.row.faint .fill { background: var(--soft); opacity: .55; }
.row.sum .fill { background: var(--second); }
.bars b { font-weight: 500; font-variant-numeric: tabular-nums; text-align: right; font-size: .9375rem; }
.bars span.name { font-size: .9375rem; }
.row.chosen .name, .row.chosen b { font-weight: 650; }
.note { color: var(--soft); font-size: .875rem; margin: .75rem 0 0; }
.clip { position: relative; height: 1.25rem; border-radius: .25rem; background: var(--track); margin: 0 0 .25rem; }
.clip i { position: absolute; top: 0; bottom: 0; width: 2px; margin-left: -1px; background: var(--accent); }
.ends { display: flex; justify-content: space-between; color: var(--soft); font-size: .8125rem; margin: 0 0 1rem; }
.frames { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .75rem; }
figure { margin: 0; }
figure img { display: block; width: 100%; height: auto; border-radius: .375rem; background: var(--track); }
figcaption { color: var(--soft); font-size: .8125rem; font-variant-numeric: tabular-nums; margin-top: .25rem; }
ul { margin: 0; padding-left: 1.125rem; }
summary { cursor: pointer; color: var(--soft); }
pre { font-size: .8125rem; line-height: 1.4; white-space: pre-wrap; margin: .875rem 0 0; }
@media (max-width: 30rem) {
  .frames { grid-template-columns: repeat(2, 1fr); gap: .5rem; }
  section { padding: .875rem; }
}
@media print { body { background: none; padding: 0; } section { break-inside: avoid; } }
"""
"""CSS of the page."""
