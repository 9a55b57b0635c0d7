"""One HTML file that holds everything it shows: no scripts, no links, images inline."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from toolkit import files

STYLE = """
:root { color-scheme: light dark; --ink: #1a202c; --paper: #ffffff; --line: #d5dae1; --quiet: #5a6472; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ee; --paper: #161a20; --line: #3a424e; --quiet: #9aa5b4; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .8rem; border-bottom: 1px solid var(--line); }
th { color: var(--quiet); font-weight: 600; } td.number { text-align: right; }
img { max-width: 100%; background: #ffffff; border-radius: 6px; margin: .6rem 0; }
"""


@dataclass(frozen=True)
class Section:
    """A heading, then paragraphs, then a table (one mapping a row, the same keys in each), then PNG files."""

    title: str
    text: Sequence[str] = ()
    table: Sequence[Mapping[str, object]] = ()
    images: Sequence[Path] = ()


def write_page(path: Path, title: str, sections: Sequence[Section]) -> Path:
    """Write the page whole or not at all; returns ``path``. All text is escaped; images are read and embedded.

    Raises OSError where an image cannot be read.
    """
    body = "\n".join(_section(section) for section in sections)
    page = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )
    files.write_text(path, page)
    return path


def _section(section: Section) -> str:
    parts = [f"<h2>{escape(section.title)}</h2>"]
    parts += [f"<p>{escape(paragraph)}</p>" for paragraph in section.text]
    if section.table:
        parts.append(_table(section.table))
    parts += [_image(image, section.title) for image in section.images]
    return "\n".join(parts)


def _table(rows: Sequence[Mapping[str, object]]) -> str:
    head = "".join(f"<th>{escape(key)}</th>" for key in rows[0])
    body = "\n".join("<tr>" + "".join(_cell(row[key]) for key in rows[0]) + "</tr>" for row in rows)
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{body}\n</table></div>'


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f'<td class="number">{value:.4g}</td>'
    if isinstance(value, int):
        return f'<td class="number">{value}</td>'
    return f"<td>{escape(str(value))}</td>"


def _image(image: Path, title: str) -> str:
    content = base64.b64encode(Path(image).read_bytes()).decode()
    return f'<img alt="{escape(title)}: {escape(Path(image).stem)}" src="data:image/png;base64,{content}">'
