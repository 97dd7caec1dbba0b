"""Integer and label arrays from the canonical table, by vectorised passes over its columns.

Texts are never touched here: rows are told apart by their digests. Does not read sources.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mopo_train.rows import KEY_WORDS

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
KeyArray = npt.NDArray[np.uint64]

USUAL = ("helpfulness", "safety", "factuality")
"""Objectives that come first, in this order; others follow by name."""


class Distinct(NamedTuple):
    """The distinct values among N, numbered in order of first appearance."""

    number: IntArray
    """(N,) number of each value."""
    first: IntArray
    """(D,) position of each distinct value's first appearance, ascending."""


def distinct(keys: KeyArray) -> Distinct:
    """Number the distinct rows of ``keys`` (N, 2)."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # (N,) stable: equal keys stay in order of appearance
    ordered = keys[order]
    new = np.ones(len(keys), dtype=bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = order[new]  # (D,) in order of keys
    by_appearance = np.argsort(first)
    rank = np.empty_like(by_appearance)
    rank[by_appearance] = np.arange(len(first))
    number = np.empty(len(keys), dtype=np.int64)
    number[order] = rank[np.cumsum(new) - 1]
    return Distinct(number, first[by_appearance])


def labelled_objectives(tables: Sequence[Any]) -> list[str]:
    """Objectives with at least one label in any of the canonical tables, the usual ones first."""
    import pyarrow.compute as pc

    found = {name for table in tables for name in pc.unique(pc.list_flatten(table.column("objectives"))).to_pylist()}
    return sorted(found, key=lambda name: (USUAL.index(name) if name in USUAL else len(USUAL), name))


def label_matrix(table: Any, objectives: tuple[str, ...]) -> FloatArray:
    """(R, K) labels, NaN where there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    labels = np.full((len(table), len(objectives)), np.nan)
    lengths = pc.list_value_length(table.column("objectives")).to_numpy()
    row = np.repeat(np.arange(len(table)), lengths)
    names = pc.list_flatten(table.column("objectives"))
    column = pc.fill_null(pc.index_in(names, value_set=pa.array(objectives, pa.string())), -1).to_numpy()
    values = pc.list_flatten(table.column("labels")).to_numpy()
    wanted = column >= 0
    labels[row[wanted], column[wanted]] = values[wanted]
    return labels


def row_digests(table: Any) -> KeyArray:
    """(R, KEY_WORDS) digests of the rows."""
    chunks = [chunk.flatten().to_numpy() for chunk in table.column("keys").chunks]
    keys: KeyArray = np.concatenate(chunks).reshape(-1, KEY_WORDS)
    return keys


def split_groups(table: Any, prompts: Distinct) -> IntArray:
    """(P,) split groups: prompts that share a ``group`` value, directly or through others, share one number."""
    import pyarrow.compute as pc

    column = table.column("group")
    alone = np.arange(len(prompts.first))
    if column.null_count == len(column):
        return alone
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    codes = pc.index_in(column, value_set=pc.unique(pc.drop_null(column)))
    given = ~codes.is_null().to_numpy()
    value = pc.fill_null(codes, 0).to_numpy()[given].astype(np.int64)
    prompt = prompts.number[given]
    size = len(alone) + int(value.max()) + 1  # prompts, then group values, are the nodes of one graph
    edges = coo_array((np.ones(len(prompt)), (prompt, len(alone) + value)), shape=(size, size))
    _, component = connected_components(edges, directed=False)
    _, group = np.unique(component[: len(alone)], return_inverse=True)
    return group.astype(np.int64)
