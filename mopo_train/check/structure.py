"""How comparisons fit together: repetitions, contradictions, preference cycles."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mopo_train.check.agreement import TIE
from mopo_train.winrates import BoolArray, FloatArray, IntArray

if TYPE_CHECKING:
    from mopo_train.preferences import PreferenceData


class Pairing(NamedTuple):
    """Comparisons by the unordered pair of responses they compare; D distinct pairs."""

    number: IntArray
    """(R,) pair of each row."""
    ends: IntArray
    """(D, 2) responses of each pair, smaller index first."""
    labels: FloatArray
    """(R, K) probability that the pair's first response is preferred; NaN where unlabelled."""


def pairing(data: "PreferenceData") -> Pairing:
    """The rows, turned so that equal pairs point the same way."""
    turned = data.first > data.second
    ends = np.sort(np.stack([data.first, data.second], axis=1), axis=1)
    key = ends[:, 0] * len(data.response_prompt) + ends[:, 1]
    _, index, number = np.unique(key, return_index=True, return_inverse=True)
    return Pairing(number, ends[index], np.where(turned[:, None], 1 - data.labels, data.labels))


def annotators(data: "PreferenceData") -> IntArray:
    """(R,) number of each row's annotator, -1 for all rows without."""
    import pyarrow.compute as pc

    column = data.rows.data.column("annotator")
    codes = pc.index_in(column, value_set=pc.unique(pc.drop_null(column)))
    numbers: IntArray = pc.fill_null(codes, -1).to_numpy().astype(np.int64)
    return numbers


def repeated(pairs: Pairing, annotator: IntArray) -> BoolArray:
    """(R,) rows that say what an earlier row says: same pair, annotator and labels, in either order of responses."""
    columns = np.column_stack([pairs.number, annotator, np.nan_to_num(pairs.labels, nan=-1.0)])
    _, index = np.unique(columns, axis=0, return_index=True)
    result = np.ones(len(columns), dtype=bool)
    result[index] = False
    return result


def contradicted(pairs: Pairing, k: int) -> BoolArray:
    """(D,) pairs with strict labels both ways on objective ``k``."""
    label = np.nan_to_num(pairs.labels[:, k], nan=TIE)
    count = len(pairs.ends)
    return (np.bincount(pairs.number, label > TIE, count) > 0) & (np.bincount(pairs.number, label < TIE, count) > 0)


def cyclic(pairs: Pairing, k: int, weight: FloatArray, responses: int) -> BoolArray:
    """(responses,) whether a response is in a cycle of majority preferences on objective ``k``.

    Such responses form strongly connected components of the graph from preferred to other response.
    """
    margin = np.bincount(pairs.number, weight * np.nan_to_num(pairs.labels[:, k] - TIE), len(pairs.ends))
    strict = np.abs(margin) > 1e-12
    source = np.where(margin > 0, pairs.ends[:, 0], pairs.ends[:, 1])[strict]
    target = np.where(margin > 0, pairs.ends[:, 1], pairs.ends[:, 0])[strict]
    graph = coo_array((np.ones(len(source), dtype=np.int8), (source, target)), shape=(responses, responses))
    _, component = connected_components(graph, directed=True, connection="strong")
    result: BoolArray = np.bincount(component)[component] > 1
    return result
