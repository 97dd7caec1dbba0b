"""Which answers to compare next, and the labels that people give, as preference rows that ``mopo-train`` reads.

Pure but for ``FAMILY/labels.jsonl``, which is only ever added to.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from dashboards.journal import append, read_journal
from dashboards.matrix import FloatArray, ScoreMatrix
from mopo_eval.profiles import Floors
from mopo_eval.scorecards import Scorecard
from mopo_eval.selection import certified_bound
from mopo_train.rows import Comparison, RowError, read_prompt, to_json

FILE, DONE = "labels.jsonl", "labelled-pairs.jsonl"
NEAR = 0.05
"""Margin to a floor, in judge score, at which it counts about a third of one that is just met."""
BETTER_A, BETTER_B, TIE = 1.0, 0.0, 0.5


class Done(BaseModel):
    """A line of the list of pairs that were seen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    annotator: str
    prompt_id: str
    pair: tuple[str, str]


class Pair(NamedTuple):
    """Two policies' answers to one prompt; which is shown as A is drawn by ``shown``."""

    prompt_id: str
    first: str
    second: str
    worth: float
    """How much a label is expected to tell; only the order has a meaning."""

    @property
    def shown(self) -> tuple[str, str]:
        """The policies of answers A and B: swapped for half of all pairs, always the same way for one pair."""
        digest = hashlib.sha256("\0".join(self[:3]).encode()).digest()
        return (self.second, self.first) if digest[0] % 2 else (self.first, self.second)


def choose_pairs(
    matrix: ScoreMatrix, order: list[str], weights: Mapping[str, float], done: Iterable[tuple[str, str, str]]
) -> list[Pair]:
    """The most informative pair of each prompt, best first.

    Policies next to each other in ``order`` (along the front) are compared, since a label between them moves the front
    where it is steep. A pair tells most where the judge cannot tell the answers apart: the sum over objectives of
    ``weights`` x (1 - |difference of scores|). ``done`` are pairs (prompt id, first, second) that were labelled.
    """
    known, objectives = set(done), [name for name in weights if name in matrix.objectives]
    best: dict[str, Pair] = {}
    for first, second in pairwise(order):
        worth = _worth(matrix, first, second, {name: weights[name] for name in objectives})
        for place in np.flatnonzero(~np.isnan(worth)):
            pair = Pair(matrix.prompts[place], first, second, float(worth[place]))
            if pair[:3] in known:
                continue
            if pair.prompt_id not in best or pair.worth > best[pair.prompt_id].worth:
                best[pair.prompt_id] = pair
    return sorted(best.values(), key=lambda pair: (-pair.worth, pair.prompt_id))


def _worth(matrix: ScoreMatrix, first: str, second: str, weights: Mapping[str, float]) -> FloatArray:
    """(N,) NaN where one of the answers was not judged on some objective, or there is no objective."""
    total = np.zeros(len(matrix.prompts)) if weights else np.full(len(matrix.prompts), np.nan)
    for name, weight in weights.items():
        total = total + weight * (1 - np.abs(matrix.of(first, name) - matrix.of(second, name)))
    return total


def objective_weights(
    cards: Iterable[Scorecard], objectives: Iterable[str], floors: Iterable[Floors]
) -> dict[str, float]:
    """1 per objective, and up to 1 more where some policy's certified bound is near a floor, on either side of it."""
    known = list(cards)
    weights = dict.fromkeys(objectives, 1.0)
    for layer in floors:
        for floor_name, floor in layer.items():
            name = floor_name.partition(".")[0]
            bounds = [bound for card in known if (bound := certified_bound(card, floor_name)) is not None]
            if name in weights and bounds and floor > 0:
                nearest = min(abs(bound - floor) for bound in bounds)
                weights[name] = max(weights[name], 1 + float(np.exp(-nearest / NEAR)))
    return weights


def label_row(prompt: str, answers: tuple[str, str], preferences: Mapping[str, float], annotator: str) -> str:
    """One line of JSON in the format of the data (design section 3). Raises RowError for an empty prompt."""
    comparison = Comparison(conversation(prompt), *answers, dict(preferences), annotator=annotator)
    return to_json(comparison.canonical())


def conversation(prompt: str) -> list[dict[str, str]]:
    """Messages of a prompt as an evaluation keeps it: a JSON list of them, or plain text."""
    if prompt.startswith("["):
        try:
            return read_prompt(json.loads(prompt))
        except (ValueError, RecursionError, RowError):
            pass
    return read_prompt(prompt)


def save_label(root: Path, row: str | None, pair: Pair, annotator: str) -> None:
    """Add a row (None: passed over) to the family's labels, and the pair to those that are done. Raises OSError."""
    if row is not None:
        append(root / FILE, row)
    append(root / DONE, Done(annotator=annotator, prompt_id=pair.prompt_id, pair=pair[1:3]).model_dump_json())


def done_pairs(root: Path, annotator: str) -> list[tuple[str, str, str]]:
    """Pairs that ``annotator`` labelled or passed over; others may label them too, which shows how far people agree."""
    entries, _ = read_journal(root / DONE, Done)
    return [(entry.prompt_id, *entry.pair) for entry in entries if entry.annotator == annotator]
