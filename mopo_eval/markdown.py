"""Pieces of Markdown. Text of users, files and models is escaped here, so that it stays text."""

import re
from collections.abc import Sequence

from mopo_eval.plain_text import one_line

_ACTS = re.compile(r"[\\`*\[\]<>!|~$&@#]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.", re.IGNORECASE)
"""What may begin markup within a line. As character references they cannot (CommonMark 0.31, section 2.5), nor end a
table's cell, which a backslash would not prevent everywhere."""


def plain(value: object, most: int = 300) -> str:
    """``value`` as one line that is read as it stands, at most ``most`` characters of it."""
    return _ACTS.sub(lambda found: f"&#{ord(found[0])};", one_line(str(value), most)) or "(empty)"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the cells are Markdown already."""
    ruled = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in ruled)


def bullets(sentences: Sequence[str]) -> str:
    """A list; the sentences are Markdown already."""
    return "\n".join(f"- {sentence}" for sentence in sentences)
