"""Preference data: integer and label arrays over texts that stay in memory-mapped Arrow; long ones are mapped, too.

``mopo_train.naming`` says what is asked for, ``sources`` where it lies, ``formats`` what its columns mean, and
``canonical`` makes Arrow of it. Prompts and responses are told apart by digests of their texts, so nothing here depends
on the order of rows or on which response comes first. Computes no win rates and knows no model.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mopo_train.canonical import convert
from mopo_train.columns import mapped
from mopo_train.errors import DataError
from mopo_train.family import DataSummary
from mopo_train.indices import (
    FloatArray,
    IntArray,
    KeyArray,
    distinct,
    label_matrix,
    labelled_objectives,
    row_digests,
    split_groups,
)
from mopo_train.naming import listed, resolve, select
from mopo_train.rows import Comparison, Message

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True, eq=False)
class PreferenceData:
    """R rows (comparisons), P distinct prompts, Y distinct responses (distinct text within a prompt), K objectives."""

    objectives: tuple[str, ...]
    labels: FloatArray
    """(R, K) probability that response_a is preferred; NaN where unlabelled."""
    weight: FloatArray
    """(R,) greater than 0."""
    prompt: IntArray
    """(R,) index of the row's prompt, in order of first appearance."""
    first: IntArray
    """(R,) index of response_a among the distinct responses."""
    second: IntArray
    """(R,) index of response_b; never equal to ``first``."""
    response_prompt: IntArray
    """(Y,) index of each response's prompt, sorted ascending: the responses of a prompt are contiguous."""
    group: IntArray
    """(P,) split group of each prompt; prompts that share a ``group`` value share it."""
    prompt_key: KeyArray
    """(P, 2) digest of each prompt's text, the same wherever and in whatever order it is read."""
    summary: DataSummary
    """For ``family.json``."""
    skipped: dict[str, int]
    """Rows that hold no usable comparison (identical responses, an empty answer in a third party's file), by reason."""
    rows: "datasets.Dataset"
    """(R) canonical rows, memory-mapped (``mopo_train.canonical.schema``)."""
    _prompt_row: IntArray
    """(P,) a row that has the prompt."""
    _response_place: IntArray
    """(Y,) 2 * row + (0 for response_a, 1 for response_b) of a row that has the response."""

    def messages(self, prompt: int) -> list[Message]:
        """The conversation of a prompt up to the answer, as ``{"role", "content"}``."""
        found: list[Message] = self.rows.data.column("prompt")[int(self._prompt_row[prompt])].as_py()
        return found

    def prompt_text(self, prompt: int) -> str:
        """What the messages of a prompt say, a line break between them."""
        return "\n".join(message["content"] for message in self.messages(prompt))

    def prompt_texts(self) -> Iterator[str]:
        """``prompt_text`` of every prompt in order, read from the memory map in batches."""
        import pyarrow as pa

        begin = at = 0
        for batch in self.rows.data.to_batches():
            end = at + int(np.searchsorted(self._prompt_row[at:], begin + len(batch)))
            for messages in batch.column("prompt").take(pa.array(self._prompt_row[at:end] - begin)).to_pylist():
                yield "\n".join(message["content"] for message in messages)
            begin, at = begin + len(batch), end

    def response(self, index: int) -> str:
        """The text of a distinct response."""
        row, side = divmod(int(self._response_place[index]), 2)
        return str(self.rows.data.column("response_b" if side else "response_a")[row].as_py())

    def characters(self) -> int:
        """Of all prompts and distinct responses; bytes of UTF-8 for a prompt."""
        import pyarrow as pa
        import pyarrow.compute as pc

        table = self.rows.data
        sides = np.stack([table.column(name).to_numpy() for name in ("length_a", "length_b")], axis=1)  # (R, 2)
        asked = pc.list_flatten(table.column("prompt").take(pa.array(self._prompt_row)))
        prompts = pc.sum(pc.binary_length(pc.struct_field(asked, "content"))).as_py()
        return int(sides.ravel()[self._response_place].sum()) + int(prompts or 0)

    def compared(self) -> IntArray:
        """(M, 2) distinct unordered pairs of responses that were compared, smaller index first, sorted."""
        pairs = np.sort(np.stack([self.first, self.second], axis=1), axis=1)  # (R, 2)
        responses = len(self.response_prompt)
        numbers = np.unique(pairs[:, 0] * responses + pairs[:, 1])
        return np.stack(np.divmod(numbers, responses), axis=1)

    def notes(self) -> list[str]:
        """What a person should know of the reading, a line each: rows left out, by reason."""
        return [f"left out {count} row{'' if count == 1 else 's'}: {reason}" for reason, count in self.skipped.items()]

    def comparisons(self) -> Iterator[Comparison]:
        """The canonical rows in order, read from the memory map in batches; labels on ``objectives`` only."""
        for batch in self.rows.data.to_batches(max_chunksize=1000):
            for row in batch.to_pylist():
                labels = dict(zip(row["objectives"], row["labels"], strict=True))
                preferences = {name: labels[name] for name in self.objectives if name in labels}
                texts = row["prompt"], row["response_a"], row["response_b"]
                yield Comparison(*texts, preferences, row["weight"], row["annotator"], row["group"])


def read_preferences(
    sources: Sequence[str | Path], *, objectives: Sequence[str] | None = None, at_least: int = 2
) -> PreferenceData:
    """Everything that ``sources`` hold, joined: the same prompt text is the same prompt.

    A source is a path, a directory or a hub name. Where its one label has no name (HH-RLHF, TRL), ``objective=PATH``
    gives it, or ``objectives`` does: one for all such sources or one for each, in order. Where every source names its
    labels, ``objectives`` selects the ones to read, in this order. ``at_least`` is the least number of objectives;
    MOPO needs two, and with 0 texts alone are wanted, whatever was judged. Raises DataError for data that cannot be
    used.
    """
    resolved = resolve(sources, objectives or (), named=at_least > 0)
    parts = [convert(file.raw, file.source_format, file.objective) for file in resolved.files]
    skipped: Counter[str] = Counter()
    for part in parts:
        skipped.update(part.skipped)
    filled = [part.dataset for part in parts if len(part.dataset)]
    if not filled:
        raise DataError(
            f"{listed(resolved.sources)}: no usable comparison, only rows with "
            + ", ".join(f"{reason} ({count})" for reason, count in skipped.items())
            + ". Give data with two different answers to a prompt."
        )
    chosen = select(resolved, labelled_objectives([dataset.data for dataset in filled]), at_least)
    return _assemble(filled, chosen, source=resolved.sources, skipped=dict(skipped))


def _assemble(
    parts: "list[datasets.Dataset]", objectives: tuple[str, ...], *, source: list[str], skipped: dict[str, int]
) -> PreferenceData:
    """The arrays of all canonical rows, one part after the other."""
    import datasets

    rows = parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)
    table = rows.data
    labels = mapped(label_matrix(table, objectives))
    keys = row_digests(table)
    prompts = distinct(keys[:, 0:2])
    responses = distinct(keys[:, 2:6].reshape(-1, 2))  # a and b of a row are neighbours: (2R,)
    prompt_of = prompts.number[responses.first // 2]  # (Y,), in order of first appearance
    order = np.argsort(prompt_of, kind="stable")  # (Y,) contiguous per prompt, then first appearance
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    first, second = (mapped(side) for side in rank[responses.number].reshape(-1, 2).T)  # (R,) each
    return PreferenceData(
        objectives=objectives,
        labels=labels,
        weight=mapped(table.column("weight").to_numpy()),
        prompt=mapped(prompts.number),
        first=first,
        second=second,
        response_prompt=mapped(prompt_of[order]),
        group=split_groups(table, prompts),
        prompt_key=keys[prompts.first, 0:2],
        summary=DataSummary(
            source=source,
            sha256=hashlib.sha256(keys[:, 6:8].astype("<u8").tobytes()).hexdigest(),
            pairs=len(rows),
            prompts=len(prompts.first),
            labelled={name: int((~np.isnan(labels[:, k])).sum()) for k, name in enumerate(objectives)},
        ),
        skipped=skipped,
        rows=rows,
        _prompt_row=prompts.first,
        _response_place=mapped(responses.first[order]),
    )
