"""The pairs that people compare, and their labels: rows that ``mopo-train`` and ``mopo-eval calibrate`` read.

Which pairs are worth a label is decided by `mopo_eval.select_pairs`; the draw is kept in ``FAMILY/pairs.jsonl`` (or was
put there by ``mopo-eval select-pairs --out``). Labels are only ever added to ``FAMILY/labels.jsonl``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from dashboards.journal import append, read_journal
from mopo_eval.profiles import Floors
from mopo_eval.results import read_results
from mopo_eval.select_pairs import select_pairs
from mopo_train.family import PolicyFamily, write_whole
from mopo_train.rows import to_json

QUEUE, FILE, DONE = "pairs.jsonl", "labels.jsonl", "labelled-pairs.jsonl"
BETTER_A, BETTER_B, TIE = 1.0, 0.0, 0.5
Key = tuple[str, str, str]
"""Prompt id and the policies of answers A and B."""


class Pair(BaseModel):
    """One row of the queue; fields that are not named here are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    prompt: str | list[dict[str, str]]
    response_a: str
    response_b: str
    policy_a: str
    policy_b: str
    prompt_id: str

    @property
    def key(self) -> Key:
        """Which pair this is."""
        return self.prompt_id, self.policy_a, self.policy_b


class Done(BaseModel):
    """A pair that somebody labelled or passed over."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    annotator: str
    pair: Key


def choose_pairs(root: Path, family: PolicyFamily, floors: Floors, count: int, seed: int) -> int:
    """Draw about ``count`` pairs that tell most (where it is open whether ``floors`` hold) as the new queue.

    Gives how many were drawn. Raises FamilyError, DataError for more pairs than there are, OSError.
    """
    rows = list(select_pairs(read_results(root, family), floors, count, seed))
    write_whole(root / QUEUE, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return len(rows)


def read_queue(root: Path) -> tuple[list[Pair], list[str]]:
    """The pairs to label in order, and what could not be read."""
    return read_journal(root / QUEUE, Pair)


def label_row(pair: Pair, preferences: Mapping[str, float | None], annotator: str) -> str:
    """The pair with its labels (None: cannot say), as one line of JSON."""
    row: dict[str, Any] = pair.model_dump(mode="json")
    return to_json(row | {"preferences": dict(preferences), "annotator": annotator})


def save_label(root: Path, row: str | None, pair: Pair, annotator: str) -> None:
    """Add a row (None: passed over) to the family's labels, and the pair to those that are done. Raises OSError."""
    if row is not None:
        append(root / FILE, row)
    append(root / DONE, Done(annotator=annotator, pair=pair.key).model_dump_json())


def done_pairs(root: Path, annotator: str) -> set[Key]:
    """Pairs that ``annotator`` labelled or passed over; others may label them too, which shows how far people agree."""
    entries, _ = read_journal(root / DONE, Done)
    return {entry.pair for entry in entries if entry.annotator == annotator}
