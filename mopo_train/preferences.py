"""Preference data in memory: integer and label arrays over texts that stay in memory-mapped Arrow.

Reads every source through ``mopo_train.sources`` (where), ``formats`` (what its columns mean) and ``canonical``
(Arrow). Prompts and responses are told apart by digests of their texts, so nothing here depends on the order
of rows or on which response comes first. Computes no win rates and knows no model.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mopo_train.errors import DataError
from mopo_train.family import DataSummary
from mopo_train.formats import PairFormat, known_formats, recognise
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
from mopo_train.rows import Comparison, Message, RowError, check_objective
from mopo_train.sources import RawRows, find

if TYPE_CHECKING:
    import datasets

NAMED_SOURCE = re.compile(r"([a-z][a-z0-9_-]*)=(.+)", re.DOTALL)


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

    def response(self, index: int) -> str:
        """The text of a distinct response."""
        row, side = divmod(int(self._response_place[index]), 2)
        return str(self.rows.data.column("response_b" if side else "response_a")[row].as_py())

    def compared(self) -> IntArray:
        """(M, 2) distinct unordered pairs of responses that were compared, smaller index first, sorted."""
        pairs = np.sort(np.stack([self.first, self.second], axis=1), axis=1)  # (R, 2)
        found: IntArray = np.unique(pairs, axis=0)
        return found

    def comparisons(self) -> Iterator[Comparison]:
        """The canonical rows in order, read from the memory map in batches; labels on ``objectives`` only."""
        for batch in self.rows.data.to_batches(max_chunksize=1000):
            for row in batch.to_pylist():
                labels = dict(zip(row["objectives"], row["labels"], strict=True))
                preferences = {name: labels[name] for name in self.objectives if name in labels}
                texts = row["prompt"], row["response_a"], row["response_b"]
                yield Comparison(*texts, preferences, row["weight"], row["annotator"], row["group"])


class Source(NamedTuple):
    """One DATA argument."""

    given: str
    """As given, without the objective."""
    objective: str | None
    """From ``objective=DATA``."""


class _File(NamedTuple):
    source: int
    """Which DATA argument it belongs to."""
    raw: RawRows
    source_format: PairFormat


def read_preferences(
    sources: Sequence[str | Path], *, objectives: Sequence[str] | None = None, at_least: int = 2
) -> PreferenceData:
    """Everything that ``sources`` hold, joined: the same prompt text is the same prompt.

    A source is a path, a directory or a hub name. Where its one label has no name (HH-RLHF, TRL), ``objective=PATH``
    gives it, or ``objectives`` does: one for all such sources or one for each, in order. Where every source names its
    labels, ``objectives`` selects the ones to read, in this order. ``at_least`` is the least number of objectives;
    MOPO needs two. Raises DataError for data that cannot be used.
    """
    given = [parse_source(source) for source in sources]
    if not given:
        raise DataError("no preference data was named; give at least one file, directory or hub name.")
    files = [_File(index, raw, _recognise(raw)) for index, source in enumerate(given) for raw in find(source.given)]
    names = _name_labels(given, files, list(objectives or []))
    selected = (
        None if any(file.source_format.unnamed and not given[file.source].objective for file in files) else objectives
    )
    return _join([str(source) for source in sources], files, names, selected, at_least)


def parse_source(source: str | Path) -> Source:
    """Path or hub name and, from ``objective=DATA``, the name of its label. An existing path is never split."""
    match = NAMED_SOURCE.fullmatch(str(source))
    if match is None or isinstance(source, Path) or Path(source).exists():
        return Source(str(source), None)
    return Source(match[2], match[1])


def _recognise(raw: RawRows) -> PairFormat:
    _, first = next(raw.rows(), (0, None))
    if first is None:
        raise DataError(f"'{raw.name}' holds no rows; expected one comparison per {raw.unit}.")
    found = recognise(first)
    if found is None:
        raise DataError(
            f"'{raw.name}' has the columns {', '.join(map(str, first)) or '(none)'}, which are no known format of "
            f"preference data. Known are: {known_formats()}. Rename the columns, or write one comparison per line with "
            "prompt, response_a, response_b and preferences ({objective: number in [0, 1] or null})."
        )
    return found


def _name_labels(given: list[Source], files: list[_File], objectives: list[str]) -> list[str | None]:
    """The name of each file's label, None where the file itself names its labels. Raises DataError."""
    for name in objectives:
        try:
            check_objective(name)
        except RowError as error:
            raise DataError(f"objective {name!r}: {error}.") from error
    open_sources = list(
        dict.fromkeys(f.source for f in files if f.source_format.unnamed and not given[f.source].objective)
    )
    if len(objectives) not in (0, 1, len(open_sources)) and open_sources:
        raise DataError(
            f"{len(objectives)} objectives for {len(open_sources)} sources whose labels have no name; "
            "give one for all, one for each in the order of the sources, or write objective=DATA."
        )
    names: list[str | None] = []
    for file in files:
        source, known = given[file.source], file.source_format
        if not known.unnamed:
            if source.objective:
                raise DataError(
                    f"'{source.given}' is in the format {known.name}, which names its own objectives; "
                    f"write it without '{source.objective}='."
                )
            names.append(None)
            continue
        listed = objectives * len(open_sources) if len(objectives) == 1 else objectives
        label = source.objective or (listed[open_sources.index(file.source)] if listed else known.default)
        if label is None:
            raise DataError(
                f"'{source.given}' is in the format {known.name}, whose labels have no name; say which objective the "
                f"annotators judged: write helpfulness={source.given}, or give --objective helpfulness."
            )
        names.append(label)
    return names


def _join(
    shown: list[str], files: list[_File], names: list[str | None], selected: Sequence[str] | None, at_least: int
) -> PreferenceData:
    """One ``PreferenceData`` from every file."""
    import datasets

    from mopo_train.canonical import convert

    parts = [convert(file.raw, file.source_format, name) for file, name in zip(files, names, strict=True)]
    skipped: Counter[str] = Counter()
    for part in parts:
        skipped.update(part.skipped)
    filled = [part.dataset for part in parts if len(part.dataset)]
    if not filled:
        raise DataError(
            f"{_listed(shown)} hold no usable comparison: "
            + ", ".join(f"{count} rows with {reason}" for reason, count in skipped.items())
            + ". Give data with two different answers per row."
        )
    rows = filled[0] if len(filled) == 1 else datasets.concatenate_datasets(filled)
    table = rows.data
    found = labelled_objectives(table)
    chosen = _select(shown, found, selected, at_least)
    labels = label_matrix(table, chosen)
    keys = row_digests(table)
    prompts = distinct(keys[:, 0:2])
    responses = distinct(keys[:, 2:6].reshape(-1, 2))  # a and b of a row are neighbours: (2R,)
    prompt_of = prompts.number[responses.first // 2]  # (Y,), in order of first appearance
    order = np.argsort(prompt_of, kind="stable")  # (Y,) contiguous per prompt, then first appearance
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    sides = rank[responses.number].reshape(-1, 2)  # (R, 2)
    return PreferenceData(
        objectives=chosen,
        labels=labels,
        weight=table.column("weight").to_numpy(),
        prompt=prompts.number,
        first=sides[:, 0],
        second=sides[:, 1],
        response_prompt=prompt_of[order],
        group=split_groups(table, prompts),
        prompt_key=keys[prompts.first, 0:2],
        summary=DataSummary(
            source=shown,
            sha256=hashlib.sha256(keys[:, 6:8].astype("<u8").tobytes()).hexdigest(),
            pairs=len(rows),
            prompts=len(prompts.first),
            labelled={name: int((~np.isnan(labels[:, k])).sum()) for k, name in enumerate(chosen)},
        ),
        skipped=dict(skipped),
        rows=rows,
        _prompt_row=prompts.first,
        _response_place=responses.first[order],
    )


def _select(shown: list[str], found: list[str], selected: Sequence[str] | None, at_least: int) -> tuple[str, ...]:
    """The objectives to read. Raises DataError."""
    if not found:
        raise DataError(
            f"no row of {_listed(shown)} carries a label; "
            'expected preferences such as {"helpfulness": 1, "safety": 0.5}.'
        )
    if unknown := [name for name in selected or () if name not in found]:
        raise DataError(
            f"objective '{unknown[0]}' is labelled nowhere in {_listed(shown)}; labelled are: {', '.join(found)}."
        )
    chosen = tuple(dict.fromkeys(selected)) if selected else tuple(found)
    if len(chosen) < at_least:
        raise DataError(
            f"{_listed(shown)} have labels on {len(chosen)} objective ({', '.join(chosen)}), but MOPO trades at least "
            f"{at_least} against each other. Name a second data set beside it that labels another; they are joined."
        )
    return chosen


def _listed(sources: Sequence[str]) -> str:
    return ", ".join(f"'{source}'" for source in sources)
