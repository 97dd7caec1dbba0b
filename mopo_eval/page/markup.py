"""Pieces of HTML. Every text is escaped here; nothing else may put text into the page."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from mopo_eval.plain_text import shortened, visible


class Cell(NamedTuple):
    """A table cell: its text, smaller further lines, and how it is meant."""

    text: str
    note: str = ""
    tone: str = ""
    """``good``, ``bad`` or nothing."""


def text(value: str, most: int = 10_000) -> str:
    """``value``, escaped, at most ``most`` characters of it."""
    return escape(visible(shortened(value, most)))


def section(title: str, *parts: str, name: str) -> str:
    """A section with its heading; ``name`` is its anchor."""
    return f'<section id="{escape(name)}"><h2>{text(title)}</h2>{"".join(parts)}</section>'


def paragraph(value: str, kind: str = "") -> str:
    """A paragraph; ``kind`` is a class."""
    return f'<p class="{kind}">{text(value)}</p>' if kind else f"<p>{text(value)}</p>"


def items(sentences: Sequence[str], kind: str = "") -> str:
    """A list."""
    return f'<ul class="{kind}">' + "".join(f"<li>{text(sentence)}</li>" for sentence in sentences) + "</ul>"


def table(columns: Sequence[Cell], rows: Sequence[Sequence[Cell]], caption: str) -> str:
    """A table that scrolls sideways where it does not fit; the first cell of a row names it."""
    head = "".join(f'<th scope="col">{_content(cell)}</th>' for cell in columns)
    body = "".join(
        "<tr>"
        + f'<th scope="row">{_content(row[0])}</th>'
        + "".join(f"<td{_tone(cell)}>{_content(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f'<p class="caption">{text(caption)}</p><div class="scroll" tabindex="0"><table aria-label="{text(caption)}">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def quotation(label: str, value: str, most: int) -> str:
    """A text of a user, model or judge, in its own direction, set apart from what surrounds it."""
    shown = text(value, most) if value.strip() else "<i>(empty)</i>"
    return (
        f'<div class="quote"><span class="label">{text(label)}</span><div class="said" dir="auto">{shown}</div></div>'
    )


def _content(cell: Cell) -> str:
    note = f"<small>{text(cell.note)}</small>" if cell.note else ""
    return f"{text(cell.text, 300)}{note}"


def _tone(cell: Cell) -> str:
    return f' class="{cell.tone}"' if cell.tone in {"good", "bad"} else ""
