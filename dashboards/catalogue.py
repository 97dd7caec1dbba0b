"""The words of the pages: one catalogue per language in ``texts``, looked up by key, filled by name.

Names from a family's files (policies, categories, runs) are never translated; the three default objectives are.
Messages of errors that a command prints stay as they are, in English: they are to be searched for.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

TEXTS = Path(__file__).with_name("texts")
LANGUAGES = {"en": "English", "ja": "日本語"}
"""Name of each language in itself, by the name of its file."""
DEFAULT = "en"


class Catalogue:
    """The texts of one language."""

    def __init__(self, language: str, texts: Mapping[str, str]) -> None:
        self.language, self._texts = language, texts

    def __call__(self, key: str, **values: object) -> str:
        """The text at ``key`` (``section.name``) with its ``{name}`` placeholders filled. Raises KeyError."""
        text = self._texts[key]
        return text.format(**values) if values else text

    def __contains__(self, key: str) -> bool:
        """True if there is a text at ``key``."""
        return key in self._texts

    def objective(self, name: str) -> str:
        """An objective inside a sentence: translated where the catalogue has it, else as the family writes it.

        A floor's name, ``objective.win_rate``, says its unit.
        """
        plain, _, metric = name.partition(".")
        told = self._texts.get(f"objective.{plain}", plain.replace("_", " ").replace("-", " "))
        return self("word.by_win_rate", name=told) if metric else told

    def title(self, name: str) -> str:
        """An objective that stands alone."""
        told = self.objective(name)
        return told[:1].upper() + told[1:]

    def listed(self, parts: Iterable[str]) -> str:
        """Several words or clauses, one after the other."""
        return self("word.comma").join(parts)

    def floors(self, floors: Mapping[str, float], key: str = "word.floor") -> str:
        """Floors above 0 in words; ``key`` is the clause of one with ``name`` and ``floor``."""
        return self.listed(
            self(key, name=self.objective(name), floor=floor) for name, floor in floors.items() if floor > 0
        )

    def interval(self, low: float, high: float, form: str = ".3f") -> str:
        """Two ends, as typeset: with minus signs, and words between that no minus sign can be taken for."""
        ends = (f"{end:{form}}".replace("-", "−") for end in (low, high))
        return self("word.interval", **dict(zip(("low", "high"), ends, strict=True)))

    def number(self, count: int, key: str) -> str:
        """A counted noun: the text at ``key``, or at ``key`` + ``_one`` for 1 where the language has it."""
        single = f"{key}_one"
        return self(single if count == 1 and single in self._texts else key, count=count)


@cache
def catalogue(language: str) -> Catalogue:
    """The catalogue called ``language``, the default one for a language that there is none for."""
    known = language if language in LANGUAGES else DEFAULT
    return Catalogue(known, read_texts(TEXTS / f"{known}.yaml"))


def read_texts(path: Path) -> dict[str, str]:
    """Texts by ``section.name``."""
    content: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {f"{section}.{name}": str(text) for section, texts in content.items() for name, text in texts.items()}
