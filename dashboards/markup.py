"""HTML for the pages. Every text that comes from a file, model or judge is escaped: it is shown, never interpreted."""

import base64
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from dashboards import palette
from dashboards.answers import Answer, Judged
from dashboards.catalogue import Catalogue

WRAPPED = 24
"""Characters of a cell beyond which it gets a width to wrap in, where the table is too wide for a phone."""


class Cell(NamedTuple):
    """A table cell: text, how it is meant, and a second line."""

    text: str
    tone: str = ""
    """Words of ``good``, ``bad``, ``muted``, ``name`` (kept on one line) and ``number``; or nothing."""
    note: str = ""


def table(columns: Sequence[Cell], rows: Sequence[Sequence[Cell]], caption: str) -> str:
    """A table that scrolls sideways where it does not fit; ``caption`` names it for screen readers."""
    head = "".join(f'<th scope="col" class="{_class(cell)}">{_content(cell)}</th>' for cell in columns)
    body = "".join(
        "<tr>" + "".join(f'<td class="{_class(c)}">{_content(c)}</td>' for c in row) + "</tr>" for row in rows
    )
    # To be scrolled with the keyboard, what scrolls must take the focus.
    opened = f'<div class="m-scroll" tabindex="0"><table class="m-table" aria-label="{escape(caption)}">'
    return f"{opened}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _class(cell: Cell) -> str:
    return "number" if "number" in cell.tone.split() else ""


def _content(cell: Cell) -> str:
    text = escape(cell.text)
    if len(cell.text) > WRAPPED:
        text = f'<span class="long">{text}</span>'
    for tone in {"good", "bad", "muted", "name"} & set(cell.tone.split()):
        text = f'<span class="m-{tone}">{text}</span>'
    if not cell.note:
        return text
    size = ' class="long"' if len(cell.note) > 40 else ""
    return f"{text}<br><small{size}>{escape(cell.note)}</small>"


def facts(parts: Sequence[tuple[str, str]]) -> str:
    """One line of facts: (what stands out, what follows it)."""
    return (
        '<div class="m-facts">' + "".join(f"<span><b>{escape(a)}</b> {escape(b)}</span>" for a, b in parts) + "</div>"
    )


def figures(parts: Sequence[tuple[str, str]]) -> str:
    """Large numbers side by side, each under what it counts."""
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in parts)
    return f'<dl class="m-figures">{items}</dl>'


def verdict(text: str, detail: str, *, feasible: bool) -> str:
    """The answer to what was asked, in one sentence and a second, smaller one."""
    tone = "" if feasible else " none"
    return f'<div class="m-verdict{tone}" role="status">{escape(text)}<small>{escape(detail)}</small></div>'


def note(text: str) -> str:
    """A paragraph of explanation."""
    return f'<div class="m-note">{escape(text)}</div>'


def help_page(heading: str, text: str, commands: Sequence[str] = ()) -> str:
    """What is missing and which commands make it."""
    shown = "".join(f"<pre>{escape(command)}</pre>" for command in commands)
    sentence = escape(text[:1].upper() + text[1:])
    return f'<div class="m-help" role="alert"><h2>{escape(heading)}</h2><p>{sentence}</p>{shown}</div>'


_KEYS = {
    "interval": f'<path d="M1 8H23" stroke="{palette.GREY}" stroke-width="2.4"/>',
    "certified": f'<path d="M4 2V14" stroke="{palette.VERMILLION}" stroke-width="2.4"/>'
    f'<path d="M4 8H22" stroke="{palette.VERMILLION}" stroke-width="1"/>',
    "dot": f'<circle cx="12" cy="8" r="6" fill="{palette.BLUE}"/>',
    "faded-dot": f'<circle cx="12" cy="8" r="6" fill="{palette.PALE_BLUE}"/>',
    "reference": f'<path d="M12 1L19 8L12 15L5 8Z" fill="{palette.INK}"/>',
    "out": f'<circle cx="12" cy="8" r="5.6" fill="white" stroke="{palette.MUTED}" stroke-width="2.2"/>',
    "faded": f'<circle cx="12" cy="8" r="6" fill="{palette.INK}" opacity="0.35"/>',
    "chosen": f'<circle cx="12" cy="8" r="6.6" fill="none" stroke="{palette.BLUE}" stroke-width="2.4"/>',
    "low": f'<path d="M5 3H19L12 14Z" fill="{palette.INK}"/>',
    "middle": f'<circle cx="12" cy="8" r="6" fill="{palette.INK}"/>',
    "high": f'<path d="M5 13H19L12 2Z" fill="{palette.INK}"/>',
    "line": f'<path d="M1 8H23" stroke="{palette.GREEN}" stroke-width="2.4"/>',
    "dotted": f'<path d="M1 8H23" stroke="{palette.GREEN}" stroke-width="2.4" stroke-dasharray="2.5 2.5"/>',
    "dot-line": f'<path d="M1 8H23" stroke="{palette.BLUE}" stroke-width="3"/>',
    "band": '<rect x="1" y="2" width="22" height="12" fill="#0072B2" opacity="0.16"/>',
    "floor-line": f'<path d="M12 1V15" stroke="{palette.RUST}" stroke-width="1.8" stroke-dasharray="3 2"/>',
    "floor": f'<path d="M12 1V15" stroke="{palette.MUTED}" stroke-width="1.8" stroke-dasharray="2 2"/>',
}


def key(entries: Sequence[tuple[str, str]], scale: tuple[str, float, float] | None = None) -> str:
    """The chart's key: (mark, meaning), the mark being one of the drawn ones; ``scale`` names the colours' range."""
    items = "".join(
        f'<span><img src="{_picture(mark)}" width="24" height="16" alt="">{escape(text)}</span>'
        for mark, text in entries
    )
    if scale is not None:
        name, low, high = scale
        colours = ", ".join(palette.SEQUENCE)
        bar = f'<i style="background: linear-gradient(to right, {colours})"></i>'
        items = f"<span>{escape(name)} {low:.2f} {bar} {high:.2f}</span>{items}"
    return f'<div class="m-key">{items}</div>'


def signed(margin: float) -> str:
    """A difference with its sign, as typeset."""
    return f"{margin:+.3f}".replace("-", "−")


def _picture(mark: str) -> str:
    """A mark as a data address: Streamlit removes SVG elements from HTML, pictures stay."""
    drawing = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 16">{_KEYS[mark]}</svg>'
    return "data:image/svg+xml;base64," + base64.b64encode(drawing.encode()).decode()


def prompt(text: str, category: str, t: Catalogue) -> str:
    """The prompt, as plain text."""
    label = f"{t('word.prompt')} · {category}" if category else t("word.prompt")
    return f'<div class="m-label">{escape(label)}</div><div class="m-prompt" tabindex="0">{escape(text)}</div>'


def answer_grid(answers: Sequence[Answer], kinds: dict[str, str], t: Catalogue) -> str:
    """Answers beside each other, each with what the judges said; ``kinds`` by policy id."""
    cards = "".join(_answer(answer, kinds.get(answer.policy, ""), t) for answer in answers)
    return f'<div class="m-grid">{cards}</div>'


def _answer(answer: Answer, kind: str, t: Catalogue) -> str:
    aside = " · ".join(
        part for part in ("" if kind == answer.policy else kind, t("answers.cut") if answer.cut_off else "") if part
    )
    judged = "".join(_judged(entry, t) for entry in answer.judgements)
    judged = judged or f'<div class="why">{escape(t("answers.unjudged"))}</div>'
    return card(answer.policy, aside, answer.response, judged, t)


def card(heading: str, aside: str, text: str, below: str, t: Catalogue) -> str:
    """One answer with its ``heading``; ``below`` is HTML, everything else plain text."""
    shown = f'<p tabindex="0">{escape(text)}</p>'
    if not text.strip():
        shown = f'<p class="m-empty">{escape(t("answers.empty"))}</p>'
    said = f'<div class="m-judged">{below}</div>' if below else ""
    return (
        f'<article class="m-answer" aria-label="{escape(t("answers.answer_of", name=heading))}">'
        f"<header><span>{escape(heading)}</span><small>{escape(aside)}</small></header>"
        f"{shown}{said}</article>"
    )


def _judged(entry: Judged, t: Catalogue) -> str:
    if entry.score is None or entry.score != entry.score:
        value, width = "–", 0.0
    else:
        value, width = f"{entry.score:.2f}", 100 * min(max(entry.score, 0.0), 1.0)
    label = f"<b>{escape(entry.label)}</b>" if entry.label else ""
    why = " – ".join(part for part in (label, escape(entry.evidence)) if part)
    title = escape(t("answers.judge", name=entry.judge))
    return (
        f'<div title="{title}"><div class="line"><span>{escape(t.objective(entry.objective))}</span>'
        f'<span class="bar"><i style="width:{width:.0f}%"></i></span><span class="value">{value}</span></div>'
        + (f'<div class="why">{why}</div>' if why else "")
        + "</div>"
    )
