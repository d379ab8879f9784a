"""The look of a report of answers, beside what every page has."""

STYLE = """
article { margin-bottom: 3rem; }
h1 { font-size: 1.125rem; font-weight: 500; color: var(--soft); margin: 1.5rem 0 .25rem; white-space: pre-wrap; }
.answer {
  font-size: clamp(1.5rem, 6vw, 2.25rem); line-height: 1.2; font-weight: 650; margin: 0 0 1rem; white-space: pre-wrap;
}
.reasons p { margin: 0 0 .25rem; max-width: 46rem; }
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
.clip { position: relative; height: 1.25rem; border-radius: .25rem; background: var(--track); margin: 0 0 .25rem; }
.clip i { position: absolute; top: 0; bottom: 0; width: 2px; margin-left: -1px; background: var(--accent); }
.ends { display: flex; justify-content: space-between; color: var(--soft); font-size: .8125rem; margin: 0 0 1rem; }
.frames { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .75rem; }
figure { margin: 0; }
figure img { display: block; width: 100%; height: auto; border-radius: .375rem; background: var(--track); }
figcaption { color: var(--soft); font-size: .8125rem; font-variant-numeric: tabular-nums; margin-top: .25rem; }
.trace { width: 100%; border-collapse: collapse; font-size: .9375rem; font-variant-numeric: tabular-nums; }
.trace th, .trace td { text-align: right; font-weight: 400; padding: .25rem 0 .25rem .75rem; }
.trace th { color: var(--soft); font-size: .8125rem; }
.trace th:first-child, .trace td:first-child { text-align: left; padding-left: 0; }
@media (max-width: 30rem) {
  .frames { grid-template-columns: repeat(2, 1fr); gap: .5rem; }
}
"""
"""CSS of the page."""
