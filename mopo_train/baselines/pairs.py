"""Which labelled pairs a DPO step sees: drawn in advance from preference data, from a seed."""

from typing import NamedTuple

import numpy as np

from mopo_train.errors import DataError
from mopo_train.preferences import PreferenceData
from mopo_train.winrates import FloatArray, IntArray


class DrawnPairs(NamedTuple):
    """N pairs, in the order in which steps see them."""

    chosen: IntArray
    """(N,) index of the preferred response among the distinct responses."""
    rejected: IntArray
    """(N,)."""


def draw_pairs(data: PreferenceData, weights: FloatArray, number: int, generator: np.random.Generator) -> DrawnPairs:
    """``number`` pairs whose mean DPO loss estimates sum_k w_k E_{D_k} loss_k, the linearly scalarised loss.

    ``weights`` (K,) sum to 1. Each pair belongs to an objective, drawn by the weights, and to a row that carries its
    label, epoch after epoch by the rows' weights; the first response is the preferred one with the label's
    probability. So a tie is either, and its expected loss asks for no difference. Raises DataError for a weighted
    objective without labels.
    """
    objective = generator.choice(len(weights), size=number, p=weights)
    chosen, rejected = np.empty(number, dtype=np.int64), np.empty(number, dtype=np.int64)
    for k in np.unique(objective):
        places = np.flatnonzero(objective == k)
        labelled = np.flatnonzero(~np.isnan(data.labels[:, k]))
        if not len(labelled):
            raise DataError(f"no pair carries a label on '{data.objectives[k]}', so it cannot be trained on.")
        rows = labelled[_epochs(data.weight[labelled], len(places), generator)]
        first = generator.random(len(rows)) < data.labels[rows, k]
        chosen[places] = np.where(first, data.first[rows], data.second[rows])
        rejected[places] = np.where(first, data.second[rows], data.first[rows])
    return DrawnPairs(chosen, rejected)


def _epochs(weight: FloatArray, number: int, generator: np.random.Generator) -> IntArray:
    """(number,) indices: shuffled passes, each of which keeps a row with probability weight / largest weight."""
    drawn: list[IntArray] = []
    while sum(map(len, drawn)) < number:
        order = generator.permutation(len(weight))
        drawn.append(order[generator.random(len(order)) < weight[order] / weight.max()])
    return np.concatenate(drawn)[:number]
