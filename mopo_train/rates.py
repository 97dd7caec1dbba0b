"""Intervals for rates: Wilson's, and Wilson's for rows that depend on each other within clusters such as prompts."""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats

from mopo_train.winrates import FloatArray, IntArray


class RateInterval(NamedTuple):
    """A two-sided interval for a rate, inside [0, 1]."""

    low: float
    high: float


def wilson_interval(rate: float, n: float, confidence: float) -> RateInterval:
    """Wilson's score interval (E. B. Wilson, 1927) for ``rate`` among ``n`` > 0, which need not be whole."""
    z = float(stats.norm.isf((1 - confidence) / 2))
    shrink = 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / shrink
    reach = z * math.sqrt(rate * (1 - rate) / n + (z / (2 * n)) ** 2) / shrink
    return RateInterval(min(rate, max(0.0, centre - reach)), max(rate, min(1.0, centre + reach)))


def clustered_rate(right: FloatArray, cluster: IntArray, confidence: float) -> RateInterval:
    """Interval for the mean of ``right`` (N,) in [0, 1] whose rows depend on each other within ``cluster`` (N,).

    Wilson's with the effective number of rows: N over the design effect of the clusters, never more than N, and, where
    it exceeds the number of clusters, reduced by (z / t)^2 with as many degrees of freedom as clusters less one (Dean
    and Pagano, Journal of Survey Statistics and Methodology 3, 2015), since so few clusters show their variance badly.
    Without variation the clusters count; one cluster says nothing. Raises ValueError without rows.
    """
    if len(right) == 0:
        raise ValueError("cannot rate 0 rows; label some first")
    _, code = np.unique(cluster, return_inverse=True)
    rate, n, clusters = float(right.mean()), len(right), int(code.max()) + 1
    if clusters == 1 < n:
        return RateInterval(0.0, 1.0)
    residual = np.bincount(code, right - rate)  # (clusters,)
    variance = float((residual**2).sum()) / n**2
    effective = min(rate * (1 - rate) / variance if variance > 0 else clusters, n)
    if effective > clusters:
        effective = max(clusters, effective * _reduction(clusters, confidence))
    return wilson_interval(rate, effective, confidence)


def _reduction(clusters: int, confidence: float) -> float:
    """Of an effective number of rows that was estimated from few clusters."""
    alpha = (1 - confidence) / 2
    ratio = float(stats.norm.isf(alpha) / stats.t.isf(alpha, clusters - 1))
    return ratio**2 * (clusters - 1) / clusters
