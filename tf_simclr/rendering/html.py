"""Self-contained HTML pages. All given text is escaped here."""

import base64
import html
import platform
from collections.abc import Iterable, Mapping, Sequence

import tensorflow as tf

_STYLE = """
:root { color-scheme: light dark; --text: #1c2126; --soft: #5c6773; --line: #dce1e6; --back: #fff; --box: #f5f7f9 }
@media (prefers-color-scheme: dark) {
  :root { --text: #e3e7eb; --soft: #9ba6b1; --line: #363e46; --back: #14181c; --box: #1e242a } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 3rem; color: var(--text); background: var(--back);
  font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .5rem } h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem } p { margin: .5rem 0; max-width: 45rem }
.lead { font-size: 1.1rem } .soft, footer { color: var(--soft); font-size: .9rem }
.scroll { overflow-x: auto; margin: .75rem 0 }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: .35rem 1.1rem .35rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; white-space: nowrap }
th { color: var(--soft); font-weight: 600 } td:first-child { font-weight: 600 }
.results { width: 100% } .results :is(th, td):first-child { position: sticky; left: 0; background: var(--back) }
.results :is(th, td):nth-child(n+4) { text-align: right; padding: .35rem 0 .35rem 1.1rem }
.mistakes :is(th, td):nth-child(n+3) { text-align: right }
.settings td { font: .8rem ui-monospace, monospace }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: .75rem }
img { display: block; width: 100%; background: #fff; border: 1px solid var(--line); border-radius: 6px }
.square { max-width: 40rem } .pixels { max-width: 40rem; image-rendering: pixelated }
ul { display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; list-style: none; padding: 0 }
pre { overflow-x: auto; padding: .8rem 1rem; background: var(--box); border-radius: 6px;
  font: .85rem/1.5 ui-monospace, monospace; user-select: all }
summary { cursor: pointer } footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .75rem }
"""


def render(title: str, lead: str, sections: Mapping[str, str]) -> str:
    """Returns a whole page; `sections` are HTML by heading."""
    versions = f"Python {platform.python_version()}, TensorFlow {tf.__version__}"
    body = "".join(f"<section><h2>{html.escape(name)}</h2>{section}</section>\n" for name, section in sections.items())
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n<body>"
        f"<h1>{html.escape(title)}</h1>{text(lead, 'lead')}\n{body}<footer>{versions}</footer>"
        "</body></html>\n"
    )


def text(content: str, kind: str = "plain") -> str:
    """Returns a paragraph; `kind`, here and below, is a class of the style sheet."""
    return f'<p class="{kind}">{html.escape(content)}</p>'


def subheading(content: str) -> str:
    """Returns the heading of a subsection."""
    return f"<h3>{html.escape(content)}</h3>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], kind: str) -> str:
    """Returns a table that scrolls separately in a narrow window."""

    def line(mark: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{mark}>{html.escape(cell)}</{mark}>" for cell in cells) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    return f'<div class="scroll"><table class="{kind}">{line("th", header)}{body}</table></div>'


def picture(png: bytes, description: str, kind: str = "plain") -> str:
    """Returns a picture with its pixels in the page."""
    data = base64.b64encode(png).decode()
    return f'<img class="{kind}" alt="{html.escape(description)}" src="data:image/png;base64,{data}">'


def grid(pictures: Iterable[str]) -> str:
    """Returns pictures side by side, as many as fit into the window."""
    return f'<div class="grid">{"".join(pictures)}</div>'


def legend(entries: Iterable[tuple[str, str, str]]) -> str:
    """Returns the legend of a picture from (sign, colour, name) triples."""
    items = (f'<li><span style="color:{c}">{s}</span> {html.escape(name)}</li>' for s, c, name in entries)
    return f"<ul>{''.join(items)}</ul>"


def code(content: str) -> str:
    """Returns a program; a click selects all of it."""
    return f"<pre>{html.escape(content)}</pre>"


def details(summary: str, content: str) -> str:
    """Returns HTML `content`, folded."""
    return f"<details><summary>{html.escape(summary)}</summary>{content}</details>"
