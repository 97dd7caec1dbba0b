"""Two-sided intervals for one mean, from one value per prompt.

Wilson's for values that are all 0 or 1, otherwise the bias-corrected accelerated bootstrap, and a betting interval
where the bootstrap cannot know anything: few prompts, or values that are nearly all the same. Bounds that must hold for
every policy and objective at once are in ``bounds``.
"""

import math
import warnings
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from mopo_eval.bounds import FloatArray, betting_low

IntArray = npt.NDArray[np.int64]
RESAMPLES = 4000
LEAST_FOR_BOOTSTRAP = 10
"""With fewer prompts the bootstrap's intervals are far too short."""
LEAST_DIFFERENT = 5
"""Values that must differ from the commonest one: resampling cannot show what was hardly ever seen."""
CELLS_AT_ONCE = 4_000_000
"""Resampled values held in memory at a time."""


class Interval(NamedTuple):
    """A two-sided interval; ``low`` <= mean <= ``high``, never a point."""

    low: float
    high: float


def interval(values: FloatArray, confidence: float) -> Interval:
    """Interval for the mean of ``values``, shape (prompts,), in [0, 1], one per prompt.

    Raises ValueError for fewer than two values or values outside [0, 1].
    """
    if len(values) < 2 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"an interval needs two values or more, all in [0, 1]; got {len(values)}")
    if is_binary(values):
        return wilson(int(values.sum()), len(values), confidence)
    mean = float(values.mean())
    found = None
    different = len(values) - np.unique(values, return_counts=True)[1].max()
    if len(values) >= LEAST_FOR_BOOTSTRAP and different >= LEAST_DIFFERENT:
        found = _bootstrap(values, confidence)
    low, high = found or betting_interval(values, confidence)
    return Interval(max(0.0, min(low, mean)), min(1.0, max(high, mean)))


def is_binary(values: FloatArray) -> bool:
    """True if every value is 0 or 1."""
    return bool(((values == 0) | (values == 1)).all())


def wilson(passed: int, n: int, confidence: float) -> Interval:
    """Wilson's score interval (E. B. Wilson, 1927): 5 of 5 gives a lower end of 5 / (5 + z^2).

    Raises ValueError unless 0 <= passed <= n and n >= 1.
    """
    if not (0 <= passed <= n and n >= 1):
        raise ValueError(f"cannot rate {passed} passed of {n} prompts; score some first")
    return _wilson(passed / n, n, confidence)


def clustered_rate(right: FloatArray, cluster: IntArray, confidence: float) -> Interval:
    """Interval for the mean of ``right`` (N,) in [0, 1] whose rows depend on each other within ``cluster`` (N,).

    Wilson's with the effective number of rows, N over the design effect of the clusters (Dean and Pagano, Journal of
    Survey Statistics and Methodology 3, 2015), never more than N; without variation the clusters count. Raises
    ValueError without rows.
    """
    if len(right) == 0:
        raise ValueError("cannot rate 0 rows; label some first")
    _, code = np.unique(cluster, return_inverse=True)
    rate, n, clusters = float(right.mean()), len(right), int(code.max()) + 1
    residual = np.bincount(code, right - rate)  # (clusters,)
    variance = float((residual**2).sum()) / n**2
    effective = rate * (1 - rate) / variance if variance > 0 else clusters
    return _wilson(rate, min(effective, n), confidence)


def _wilson(rate: float, n: float, confidence: float) -> Interval:
    z = float(stats.norm.isf((1 - confidence) / 2))
    shrink = 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / shrink
    reach = z * math.sqrt(rate * (1 - rate) / n + (z / (2 * n)) ** 2) / shrink
    return Interval(min(rate, max(0.0, centre - reach)), max(rate, min(1.0, centre + reach)))


def betting_interval(values: FloatArray, confidence: float) -> Interval:
    """Two betting bounds at half the error each: valid for every sample size, wide for few values."""
    alpha = (1 - confidence) / 2
    return Interval(betting_low(values, alpha), 1 - betting_low(1 - values, alpha))


def _bootstrap(values: FloatArray, confidence: float) -> Interval | None:
    """The BCa interval (Efron 1987) with a fixed seed; None where it is not defined or only a point."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # answered by None
        warnings.simplefilter("ignore", RuntimeWarning)
        found = stats.bootstrap(
            (values,),
            np.mean,
            confidence_level=confidence,
            n_resamples=RESAMPLES,
            method="BCa",
            batch=max(1, CELLS_AT_ONCE // len(values)),
            rng=np.random.default_rng(0),
        ).confidence_interval
    if not (math.isfinite(found.low) and math.isfinite(found.high) and found.low < found.high):
        return None
    return Interval(float(found.low), float(found.high))
