"""Which pairs of answers people should compare next, and what their labels say: active statistical inference.

Pairs are drawn independently, with a probability that grows with how unsure the judge is of the winner and how much
hangs on it; each label is weighed by that probability, so that every mean is unbiased however bad the judge's idea of
its own doubt is (Zrnic and Candès, arXiv 2403.03208). Pure functions of arrays.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mopo_eval.bounds import FloatArray
from mopo_eval.intervals import bootstrap_reach, enough_for_bootstrap
from mopo_train.errors import DataError

BoolArray = npt.NDArray[np.bool_]
ANYWHERE = 0.2
"""Share of the labels that is spread evenly, so that no label weighs too much where the judge is wrongly sure."""
LEAST_LABELLED = 10
"""Labels below which the estimate's own spread cannot be told."""


@dataclass(frozen=True)
class WinRate:
    """A policy's win rate in people's eyes, with a two-sided interval."""

    mean: float
    low: float
    high: float
    labelled: int
    """Pairs with labels."""


def win_probability(ours: FloatArray, theirs: FloatArray) -> FloatArray:
    """(...,) the judge's guess that ``ours`` beats ``theirs``, from scores of any same shape.

    A logistic function of the difference in units of its root mean square: equal scores give 1/2.
    """
    difference = ours - theirs
    scale = float(np.sqrt((difference**2).mean()))
    guess: FloatArray = np.full(difference.shape, 0.5) if scale == 0 else 1 / (1 + np.exp(-2 * difference / scale))
    return guess


def floor_doubt(mean: FloatArray, error: FloatArray, floor: FloatArray) -> FloatArray:
    """How open it is whether a mean with standard ``error`` holds its ``floor``: 1 at the floor, 0 far from it."""
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.where(error > 0, (mean - floor) / error, np.where(mean == floor, 0.0, np.inf))
    doubt: FloatArray = np.exp(-(distance**2) / 2)
    return doubt


def inclusion(importance: FloatArray, labels: int) -> FloatArray:
    """(M,) probability of each pair to be drawn, in (0, 1], summing to ``labels``.

    Proportional to ``importance`` >= 0 (M,), with `ANYWHERE` of the labels spread evenly and no probability above 1.
    Raises DataError where there are fewer pairs than labels.
    """
    pairs = len(importance)
    if labels > pairs:
        raise DataError(f"{labels} pairs asked for, but there are only {pairs} pairs of different answers.")
    even = np.full(pairs, 1 / pairs)
    total = float(importance.sum())
    share = ANYWHERE * even + (1 - ANYWHERE) * (importance / total if total > 0 else even)
    probability = np.zeros(pairs)
    free = np.ones(pairs, dtype=bool)
    while True:  # what would exceed 1 is certain, and its surplus goes to the others; each round settles one or ends
        left = labels - (pairs - int(free.sum()))
        probability = np.where(free, left * share / max(float(share[free].sum()), 1e-300), 1.0)
        above = free & (probability > 1)
        if not above.any():
            return np.minimum(probability, 1.0)
        free &= ~above


def draw(probability: FloatArray, rng: np.random.Generator) -> BoolArray:
    """Which pairs are drawn, each by itself, in the shape of ``probability``: about as many as it sums to."""
    drawn: BoolArray = rng.random(probability.shape) < probability
    return drawn


def unbiased_terms(guess: FloatArray, probability: FloatArray, label: FloatArray) -> FloatArray:
    """(M,) one unbiased value per pair, whose mean is the win rate: guess + (label - guess) / probability where drawn.

    ``guess`` and ``probability`` as they were when drawing; ``label`` in [0, 1], NaN where nobody was asked.
    """
    told = ~np.isnan(label)
    terms: FloatArray = guess + np.where(told, (np.nan_to_num(label) - guess) / probability, 0.0)
    return terms


def win_rate(terms: FloatArray, labelled: int, confidence: float) -> WinRate:
    """The mean of ``terms`` (N,) with the symmetric studentised bootstrap's interval, all clipped to [0, 1].

    Pairs of equal answers have the term 1/2. Raises DataError for fewer than `LEAST_LABELLED` labels.
    """
    if labelled < LEAST_LABELLED:
        raise DataError(f"{labelled} labelled pairs; at least {LEAST_LABELLED} are needed for a win rate.")
    mean, reach = float(terms.mean()), 1.0
    if enough_for_bootstrap(terms):
        reach = min(1.0, float(bootstrap_reach(terms[None], confidence)[0]))
    clipped = min(1.0, max(0.0, mean))
    return WinRate(clipped, max(0.0, min(clipped, mean - reach)), min(1.0, max(clipped, mean + reach)), labelled)
