"""Pairs from rated answers: every two answers to one prompt, the better rated preferred, equal ratings a tie.

Tied pairs stay: a response's win rate is its mean over all that it meets, and without the ties the good ones would
always seem to win. Rated rows are kept in a memory-mapped file while they are grouped, because the answers to one
prompt may lie anywhere in the source.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mopo_train.formats import Rated
from mopo_train.indices import IntArray, KeyArray, distinct
from mopo_train.rows import Comparison, row_keys

MANY = 64
"""Of more answers to one prompt than this, each meets only ``MANY`` others."""
BATCH = 1000
ALONE = "the only answer to its prompt"


class Index(NamedTuple):
    """Where each rated row belongs, N rows of D distinct answers."""

    prompt: IntArray
    """(N,) number of the row's prompt."""
    answer: IntArray
    """(N,) number of the row's distinct answer."""
    keys: KeyArray
    """(D, 2) digest of each answer."""


class Answer(NamedTuple):
    """A distinct answer with the means of its ratings."""

    place: int
    text: str
    ratings: dict[str, float]


def pairs(
    rated: Iterable[tuple[int, Rated, bytes]], scratch: Path, skipped: Counter[str]
) -> Iterator[tuple[int, Comparison, bytes]]:
    """Comparisons with the place of their later row and their keys, from answers with place and keys.

    ``scratch`` is a file to write the answers to; those that meet no other are counted in ``skipped``.
    """
    index = _spill(rated, scratch)
    if not len(index.prompt):
        return
    import pyarrow as pa

    with pa.memory_map(str(scratch)) as source:
        table = pa.ipc.open_stream(source).read_all()
        order = np.argsort(index.prompt, kind="stable")  # rows of a prompt together, in order of appearance
        starts = np.flatnonzero(np.diff(index.prompt[order], prepend=-1))
        for rows in np.split(order, starts[1:]):
            prompt = table["prompt"][int(rows[0])].as_py()
            answers = _answers(table, index, rows)
            if len(answers) == 1:
                skipped[ALONE] += len(rows)
            for a, b in partners(len(answers)):
                first, second = answers[a], answers[b]
                labels = compare(first.ratings, second.ratings)
                if labels:
                    row = Comparison(prompt, first.text, second.text, labels)
                    yield max(first.place, second.place), row, row_keys(row)


def compare(first: dict[str, float], second: dict[str, float]) -> dict[str, float]:
    """Labels on the objectives that both are rated on: 1 where ``first`` is rated higher, 0 lower, 0.5 equal."""
    return {name: 0.5 + 0.5 * float(np.sign(first[name] - second[name])) for name in first if name in second}


def partners(answers: int) -> Iterator[tuple[int, int]]:
    """Which answers meet: all, or each ``MANY`` others along a circle, so that pairs do not grow with the square."""
    if answers <= MANY + 1:
        yield from combinations(range(answers), 2)
        return
    for a in range(answers):
        for step in range(1, MANY // 2 + 1):
            yield a, (a + step) % answers


def _answers(table: Any, index: Index, rows: IntArray) -> list[Answer]:
    """The distinct answers in ``rows``; in the order of their digests where only some pairs are formed."""
    found: dict[int, list[int]] = {}
    for row in rows:
        found.setdefault(int(index.answer[row]), []).append(int(row))
    numbers = list(found)
    if len(numbers) > MANY + 1:
        numbers.sort(key=lambda number: tuple(index.keys[number]))
    answers = []
    for number in numbers:
        ratings: dict[str, list[float]] = {}
        for row in found[number]:
            for name, rating in zip(table["objectives"][row].as_py(), table["ratings"][row].as_py(), strict=True):
                ratings.setdefault(name, []).append(rating)
        first = found[number][0]
        means = {name: sum(values) / len(values) for name, values in ratings.items()}
        answers.append(Answer(table["place"][first].as_py(), table["response"][first].as_py(), means))
    return answers


def _spill(rated: Iterable[tuple[int, Rated, bytes]], scratch: Path) -> Index:
    """Write the rows to ``scratch`` and number their prompts and answers."""
    import pyarrow as pa

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    schema = pa.schema(
        [
            ("prompt", pa.list_(message)),
            ("response", pa.string()),
            ("objectives", pa.list_(pa.string())),
            ("ratings", pa.list_(pa.float64())),
            ("place", pa.int64()),
        ]
    )
    keys = bytearray()
    with pa.OSFile(str(scratch), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        batch: list[dict[str, Any]] = []
        for place, row, row_digests in rated:
            keys += row_digests
            names, values = list(row.ratings), list(row.ratings.values())
            batch.append(
                {"prompt": row.prompt, "response": row.response, "objectives": names, "ratings": values, "place": place}
            )
            if len(batch) == BATCH:
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
                batch = []
        writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
    digests = np.frombuffer(bytes(keys), dtype="<u8").reshape(-1, 4).astype(np.uint64)
    answers = distinct(digests[:, 2:4])
    return Index(distinct(digests[:, 0:2]).number, answers.number, digests[answers.first, 2:4])
