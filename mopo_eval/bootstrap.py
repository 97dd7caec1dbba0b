"""Resampling prompts with replacement: one fixed set of resamples serves every policy and objective.

That the same prompts are drawn for all of them keeps what they share, so that differences, fronts and hypervolumes of
resampled means vary as those of new prompts would.
"""

import math
from collections.abc import Iterator

import numpy as np
from scipy import stats

from mopo_eval.bounds import FloatArray

RESAMPLES = 3999
"""One less than a round number: the p-value (1 + count) / (1 + resamples) and the interval then agree exactly."""
CELLS_AT_ONCE = 500_000
"""Counts held in memory at a time, in four arrays of eight bytes each."""
LEAST_P = 1e-6
"""Smallest p-value that is claimed: farther out nobody knows how far the tail is Student's."""
TINY = 1e-12
"""Spreads below this are rounding."""


def draws(prompts: int, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[FloatArray]:
    """How often each prompt is drawn, (some, prompts) at a time; a row sums to ``prompts``. The same for a seed."""
    rng = np.random.default_rng(seed)
    most = max(1, CELLS_AT_ONCE // prompts)
    for begin in range(0, resamples, most):
        rows = min(most, resamples - begin)
        drawn = rng.integers(0, prompts, (rows, prompts)) + np.arange(rows)[:, None] * prompts
        yield np.bincount(drawn.ravel(), minlength=rows * prompts).reshape(rows, prompts).astype(np.float64)


def resampled_means(values: FloatArray, resamples: int = RESAMPLES, seed: int = 0) -> FloatArray:
    """(resamples, C) means of ``values`` (C, prompts) over each resample of the prompts."""
    prompts = values.shape[1]
    found: FloatArray = np.concatenate([counts @ values.T for counts in draws(prompts, resamples, seed)]) / prompts
    return found


def percentiles(drawn: FloatArray, confidence: float, prompts: int) -> tuple[float, float]:
    """Ends of the percentile interval of ``drawn`` (resamples,), expanded for few ``prompts``.

    Its level is that of Student's interval of a mean, which the plain one falls short of (Hesterberg, What Teachers
    Should Know about the Bootstrap, The American Statistician 69, 2015, section 5.3).
    """
    reach = math.sqrt(prompts / (prompts - 1)) * float(stats.t.isf((1 - confidence) / 2, prompts - 1))
    tail = float(stats.norm.sf(reach))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def reflected(drawn: FloatArray, measured: float, confidence: float, prompts: int) -> tuple[float, float]:
    """Ends of the basic bootstrap interval: `percentiles` of ``drawn`` reflected at ``measured``, stretched to hold it.

    For statistics that noise pushes to one side, such as a hypervolume of means: resamples are pushed by as much again,
    away from the truth, and percentiles go with them (Davison and Hinkley, Bootstrap Methods and their Application,
    1997, section 5.2). It corrects less where policies are the same: see `benchmarks/coverage.py`.
    """
    low, high = percentiles(drawn, confidence, prompts)
    return min(2 * measured - high, measured), max(2 * measured - low, measured)


def standard_error(values: FloatArray) -> FloatArray:
    """(C,) of the means of ``values`` (C, prompts >= 2)."""
    found: FloatArray = values.std(axis=1, ddof=1) / np.sqrt(values.shape[1])
    return found


def resampled_shifts(values: FloatArray, resamples: int = RESAMPLES, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """(resamples, C) resampled mean - mean, and its variance by the resample's own spread; ``values`` (C, prompts)."""
    prompts = values.shape[1]
    centred = (values - values.mean(axis=1, keepdims=True)).T  # (prompts, C)
    sums = [(counts @ centred, counts @ centred**2) for counts in draws(prompts, resamples, seed)]
    shift, square = (np.concatenate(parts) / prompts for parts in zip(*sums, strict=True))
    return shift, np.maximum(square - shift**2, 0) / (prompts - 1)


def studentised(shift: FloatArray, variance: FloatArray) -> FloatArray:
    """|shift| over its standard error, of any shape: the statistic of the symmetric bootstrap-t.

    Its two-sided error is O(1/n^2) (Hall, The Bootstrap and Edgeworth Expansion, 1992, section 3.6). Infinite where a
    resample shows no spread but another mean, 0 where it shows neither.
    """
    size, spread = np.abs(shift), np.sqrt(variance)
    found: FloatArray = np.divide(size, spread, out=np.where(size > TINY, np.inf, 0.0), where=spread > TINY)
    return found


def critical(deviation: FloatArray, confidence: float, degrees: int) -> FloatArray:
    """Quantile of ``deviation`` (resamples, ...) along the resamples, the one that agrees with ``two_sided_p``.

    ``degrees``: of freedom. Beyond what resamples resolve it follows Student's tail, as ``two_sided_p`` does, and is
    infinite where that claims nothing.
    """
    resolution = 1 / (len(deviation) + 1)
    if 1 - confidence < LEAST_P * (1 - 1e-9):
        return np.full(deviation.shape[1:], np.inf)
    if 1 - confidence < resolution * (1 - 1e-9):
        return float(stats.t.isf((1 - confidence) / 2, degrees)) * _stretch(deviation.max(axis=0), resolution, degrees)
    rank = math.ceil((len(deviation) + 1) * confidence - 1e-9)
    found: FloatArray = np.sort(deviation, axis=0)[rank - 1]
    return found


def two_sided_p(statistic: float, deviation: FloatArray, degrees: int) -> float:
    """Of no difference, when |t| is ``statistic``: the share of ``deviation``, (resamples,), that is at least as far.

    Where no resample is, the share says no more than that p is small, and no p would pass a correction for hundreds of
    comparisons: there it goes on as Student's tail, stretched so that it begins no lower than the farthest resample,
    down to ``LEAST_P``.
    """
    resolution = 1 / (len(deviation) + 1)
    if beyond := int(np.count_nonzero(deviation >= statistic - TINY)):
        return (1 + beyond) * resolution
    stretched = statistic / float(_stretch(deviation.max(), resolution, degrees))
    return min(resolution, max(LEAST_P, 2 * float(stats.t.sf(stretched, degrees))))


def _stretch(farthest: "FloatArray | np.float64", resolution: float, degrees: int) -> FloatArray:
    """By how much the resamples' tail is longer than Student's where the resamples end; at least 1."""
    found: FloatArray = np.maximum(1, farthest / stats.t.isf(resolution / 2, degrees))
    return found
