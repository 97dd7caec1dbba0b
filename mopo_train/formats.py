"""The source formats of preference data, recognised by their columns.

A pair format holds one comparison per row; a rated format holds one answer per row with its ratings, and
answers to one prompt become pairs (``mopo_train.sources``). Rows of third parties' formats that are no
comparison, such as one with an empty answer, are skipped and counted, because their users cannot correct them; in our
own format they are errors.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from mopo_train.rows import (
    Comparison,
    RowError,
    read_name,
    read_preferences_field,
    read_prompt,
    read_text,
    read_weight,
    shown,
)

Row = Mapping[str, Any]


class Skipped(NamedTuple):
    """A row that holds no usable comparison."""

    reason: str


EMPTY = Skipped("an empty response")


@dataclass(frozen=True)
class PairFormat:
    """A format with one comparison per row."""

    name: str
    columns: str
    """For messages: what it is recognised by."""
    required: frozenset[str]
    """Columns that every row has."""
    matches: Callable[[Row], bool]
    convert: Callable[[Row, str | None], Comparison | Skipped]
    """From a row and the objective's name; raises RowError."""
    unnamed: bool = False
    """Has one label whose objective the file does not name."""
    default: str | None = None
    """Objective of an unnamed label when the caller gives none."""


def _own(row: Row, _: str | None) -> Comparison:
    return Comparison(
        prompt=read_prompt(row.get("prompt")),
        response_a=read_text(row.get("response_a"), "response_a"),
        response_b=read_text(row.get("response_b"), "response_b"),
        preferences=read_preferences_field(row.get("preferences")),
        weight=read_weight(row.get("weight")),
        annotator=read_name(row.get("annotator"), "annotator"),
        group=read_name(row.get("group"), "group"),
    )


SAFERLHF_LABELS = {"better_response_id": "helpfulness", "safer_response_id": "safety"}


def _saferlhf(row: Row, _: str | None) -> Comparison | Skipped:
    prompt = read_prompt(row.get("prompt"))
    responses = [row.get("response_0"), row.get("response_1")]
    if any(isinstance(text, str) and not text.strip() for text in responses):
        return EMPTY
    preferences = {}
    for column, objective in SAFERLHF_LABELS.items():
        if (preferred := row.get(column)) is None:
            continue
        if preferred not in (0, 1) or isinstance(preferred, bool):
            raise RowError(f"'{column}' is {shown(preferred)}; expected 0 or 1, the number of the preferred response")
        preferences[objective] = 1.0 - preferred
    texts = [read_text(text, f"response_{index}") for index, text in enumerate(responses)]
    return Comparison(prompt, texts[0], texts[1], preferences)


def _has(*columns: str) -> Callable[[Row], bool]:
    return lambda row: row.keys() >= set(columns)


OWN = PairFormat(
    name="MOPO",
    columns="prompt, response_a, response_b, preferences",
    required=frozenset({"prompt", "response_a", "response_b"}),
    matches=_has("prompt", "response_a", "response_b"),
    convert=_own,
)
SAFERLHF = PairFormat(
    name="PKU-SafeRLHF",
    columns="prompt, response_0, response_1, better_response_id and/or safer_response_id",
    required=frozenset({"prompt", "response_0", "response_1"}),
    matches=lambda row: (
        row.keys() >= {"prompt", "response_0", "response_1"} and not row.keys().isdisjoint(SAFERLHF_LABELS)
    ),
    convert=_saferlhf,
)

FORMATS: tuple[PairFormat, ...] = (OWN, SAFERLHF)


def recognise(row: Row) -> PairFormat | None:
    """The format that a file whose first row is ``row`` has, or None."""
    return next((known for known in FORMATS if known.matches(row)), None)


def known_formats() -> str:
    """Every format with its columns, for messages."""
    return "; ".join(f"{known.name} ({known.columns})" for known in FORMATS)
