"""The one-page report of a profile: what it asks for, what serves it, who signed. HTML that a browser prints as PDF."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from dashboards.catalogue import Catalogue
from mopo_eval.page.style import STYLE

Row = Sequence[str]
PRINT = """@page { size: A4; margin: 12mm; }
@media print { body { font-size: 12px; line-height: 1.4; } h1 { font-size: 1.5rem; }
  h2 { font-size: 1.05rem; margin: 0.9rem 0 0.25rem; } th, td { padding: 0.2rem 0.9rem 0.2rem 0; } }"""
"""So that a profile with a handful of sign-offs fits on one page."""


class Section(NamedTuple):
    """A heading with sentences and a table."""

    heading: str
    sentences: Sequence[str] = ()
    columns: Row = ()
    rows: Sequence[Row] = ()


def report(title: str, facts: Sequence[str], summary: str, sections: Sequence[Section], t: Catalogue) -> str:
    """The page; every text is escaped."""
    body = "".join(_section(section) for section in sections)
    told = " · ".join(escape(fact) for fact in facts)
    return (
        f'<!doctype html><html lang="{t.language}"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
        f"<style>{STYLE} {PRINT}</style></head><body><main>"
        f'<h1>{escape(title)}</h1><p class="facts">{told}</p><ul class="summary"><li>{escape(summary)}</li></ul>'
        f"{body}</main></body></html>"
    )


def _section(section: Section) -> str:
    sentences = "".join(f"<p>{escape(sentence)}</p>" for sentence in section.sentences)
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in section.columns)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in section.rows)
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    return f"<h2>{escape(section.heading)}</h2>{sentences}{table if section.rows else ''}"
