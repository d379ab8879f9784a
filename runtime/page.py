"""One HTML page that needs nothing but itself: the frame of every report, whatever is reported.

Its own policy forbids the page to load anything, and one style sheet serves light, dark, phone and paper. What came
from outside (questions, answers, file names) goes through `text`.
"""

from __future__ import annotations

import unicodedata
from html import escape
from importlib.metadata import version

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f5f2; --card: #ffffff; --ink: #1d1f23; --soft: #646973; --line: #e2e0da; --track: #ebe9e3;
  --accent: #0d6b8c; --second: #b5661b; --faint: #b9bcc2;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #121417; --card: #1a1d22; --ink: #e8e9ec; --soft: #9ba1ac; --line: #2c3038; --track: #2a2e36;
    --accent: #56bcdf; --second: #e39a55; --faint: #565c66;
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
h2 {
  font-size: .8125rem; font-weight: 600; letter-spacing: .06em; text-transform: uppercase; color: var(--soft);
  margin: 0 0 .875rem;
}
section {
  background: var(--card); border: 1px solid var(--line); border-radius: .75rem; padding: 1.125rem; margin-top: 1rem;
}
.note { color: var(--soft); font-size: .875rem; margin: .75rem 0 0; }
ul { margin: 0; padding-left: 1.125rem; }
summary { cursor: pointer; color: var(--soft); }
pre { font-size: .8125rem; line-height: 1.4; white-space: pre-wrap; margin: .875rem 0 0; }
@media (max-width: 30rem) { section { padding: .875rem; } }
@media print { body { background: none; padding: 0; } section { break-inside: avoid; } }
"""
"""CSS that every page has; its colours are `var(--page)` and the like."""


def page_html(title: str, main: str, *, style: str, header: str = "", about: str = "", pictures: bool = False) -> str:
    """The whole page.

    Args:
        title: plain text.
        main: HTML of the page's content.
        style: CSS beside STYLE.
        header: plain text above the content.
        about: plain text behind the program's version at the end.
        pictures: whether `main` holds pictures as `data:` addresses.
    """
    policy = f"default-src 'none'; {'img-src data:; ' if pictures else ''}style-src 'unsafe-inline'"
    above = f"<header>{text(header)}</header>\n" if header else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title>
<style>{STYLE}{style}</style>
</head>
<body>
{above}<main>
{main}
</main>
<footer>tam-edge {text(version("tam-edge") + about)}</footer>
</body>
</html>
"""


def section_html(title: str, content: str) -> str:
    """A card: a plain title, which may be empty, above HTML."""
    heading = f"<h2>{text(title)}</h2>" if title else ""
    return f"<section>{heading}{content}</section>"


def text(value: str) -> str:
    """Text from outside as HTML that shows it and does nothing else."""
    return escape(harmless(value))


def harmless(value: str) -> str:
    """Text without what would steer a terminal: a file name or a model's answer may hold anything."""
    return "".join("\N{REPLACEMENT CHARACTER}" if _steers(c) else c for c in value)


def _steers(character: str) -> bool:
    return character not in "\n\t" and unicodedata.category(character) in ("Cc", "Cs")
