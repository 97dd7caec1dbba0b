"""Agreement: between annotators of one comparison, and between objectives on one comparison or one prompt."""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats

from mopo_train.winrates import FloatArray, IntArray, WinRates

TIE = 0.5
CONFIDENCE = 0.99


def krippendorff_alpha(unit: IntArray, value: FloatArray) -> float:
    """Krippendorff's alpha at interval level for values (N,) that belong to units (N,); NaN where it is undefined.

    alpha = 1 - observed / expected disagreement over the pairable values, those whose unit has two or more
    (Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011). 1 is agreement, 0 what chance gives. Undefined
    without pairable values, and where all of them are equal.
    """
    _, code, count = np.unique(unit, return_inverse=True, return_counts=True)
    pairable = count[code] >= 2
    if not pairable.any():
        return float("nan")
    # Both disagreements are sums of squared differences over pairs, so means and squares are enough.
    code, value = code[pairable], value[pairable] - value[pairable].mean()
    size = np.bincount(code)[code]  # (N,) values in the unit of each
    mean = (np.bincount(code, value) / np.maximum(np.bincount(code), 1))[code]
    observed = float((2 * (value - mean) ** 2 * size / (size - 1)).sum()) / (2 * len(value))
    expected = float((value**2).sum()) / (len(value) - 1)
    return 1 - observed / expected if expected > 0 else float("nan")


class Correlation(NamedTuple):
    """A rank correlation with its interval at ``CONFIDENCE``, over prompts; NaN where undefined."""

    value: float
    low: float
    high: float


class Conflict(NamedTuple):
    """How two objectives relate."""

    rows: int
    """Comparisons with a strict label on both."""
    share: float
    """Share of these whose labels disagree; NaN without any."""
    correlation: Correlation
    """Spearman's rank correlation of the win rates within prompts, pooled over prompts."""


def conflict(labels: FloatArray, rates: WinRates, k: int, other: int) -> Conflict:
    """Of objectives ``k`` and ``other``; ``labels`` are (R, K) with NaN where unlabelled."""
    first, second = labels[:, k] - TIE, labels[:, other] - TIE
    strict = np.nan_to_num(first * second) != 0
    share = float((first[strict] * second[strict] < 0).mean()) if strict.any() else float("nan")
    return Conflict(int(strict.sum()), share, rank_correlation(rates, k, other))


def rank_correlation(rates: WinRates, k: int, other: int) -> Correlation:
    """Correlation of within-prompt ranks of two win rates over the prompts that are labelled on both.

    The interval is by linearisation with the prompts as units and Student's quantile, on Fisher's scale; without
    variation over three prompts or more it is [-1, 1].
    """
    prompt = rates.prompt_of()
    kept = (rates.labelled[:, k] & rates.labelled[:, other])[prompt]
    x, y = (centred_ranks(prompt[kept], rates.rates[kept, column]) for column in (k, other))
    _, code = np.unique(prompt[kept], return_inverse=True)
    products, squares, others = (np.bincount(code, each) for each in (x * y, x * x, y * y))  # (prompts on both,)
    scale = float(np.sqrt(squares.sum() * others.sum()))
    if scale == 0:
        return Correlation(*[float("nan")] * 3)
    value = min(1.0, max(-1.0, float(products.sum()) / scale))
    used = int(np.count_nonzero(squares + others))
    influence = products / scale - value / 2 * (squares / squares.sum() + others / others.sum())
    error = float(np.sqrt((influence**2).sum()))
    if used < 3 or abs(value) == 1 or error == 0:
        return Correlation(value, -1.0, 1.0) if used < 3 else Correlation(value, *_certain(value, used))
    reach = float(stats.t.isf((1 - CONFIDENCE) / 2, used - 1)) * error / (1 - value**2)
    centre = math.atanh(value)
    return Correlation(value, math.tanh(centre - reach), math.tanh(centre + reach))


def _certain(value: float, prompts: int) -> tuple[float, float]:
    """Ends where every one of ``prompts`` agreed or every one disagreed: as for a rate of ``prompts`` in as many."""
    least = 2 * (1 - CONFIDENCE) ** (1 / prompts) - 1
    return (least, 1.0) if value > 0 else (-1.0, -least)


def centred_ranks(group: IntArray, value: FloatArray) -> FloatArray:
    """(N,) rank of each value in its group, ties at their mean rank, less the group's mean rank and over its size."""
    if not len(value):
        return np.zeros(0)
    order = np.lexsort((value, group))
    held, ordered = group[order], value[order]
    fresh = np.r_[True, held[1:] != held[:-1]]
    run = np.cumsum(fresh | np.r_[True, ordered[1:] != ordered[:-1]]) - 1  # equal values of one group
    place = np.arange(len(value), dtype=np.float64)
    tied = (np.bincount(run, place) / np.bincount(run))[run]
    block = np.cumsum(fresh) - 1
    size = np.bincount(block)
    ranks = np.empty(len(value))
    ranks[order] = (tied - (np.bincount(block, place) / size)[block]) / size[block]
    return ranks
