"""What a judge measured on every prompt, corrected by people's labels on some: prediction-powered inference.

PPI++ for the mean, with its power-tuned weight (Angelopoulos, Duchi, Zrnic, arXiv 2311.01453): one value per prompt, so
that samples of a prompt count once. The labelled prompts must be a random part of all.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from mopo_eval.bounds import FloatArray
from mopo_eval.intervals import interval
from mopo_train.errors import DataError

LEAST_LABELLED = 10
"""Prompts with labels below which the correction's own spread cannot be told."""


@dataclass(frozen=True)
class Corrected:
    """A mean in people's units, with a two-sided interval."""

    mean: float
    low: float
    high: float
    labelled: int
    """Prompts with labels."""
    unlabelled: int
    weight: float
    """How much the judge counts, in [0, 1]: 0 where it tells nothing about people's labels."""


def corrected_mean(people: FloatArray, judge: FloatArray, elsewhere: FloatArray, confidence: float) -> Corrected:
    """The mean label over all prompts, of which some are labelled and all are judged.

    From labels ``people`` (n,), the judge's scores ``judge`` (n,) on the same prompts and ``elsewhere`` (N,) on the
    others, all in [0, 1]. The interval is that of `intervals` for what is left of the labels once the judge is taken
    off, scaled to [0, 1], widened by the judge's own sampling error elsewhere (normal, added in squares). Raises
    DataError for fewer than `LEAST_LABELLED` labels.
    """
    n, others = len(people), len(elsewhere)
    if n < LEAST_LABELLED:
        raise DataError(f"{n} prompts with labels; at least {LEAST_LABELLED} are needed to correct a judge.")
    pooled = np.concatenate([judge, elsewhere])
    spread = float(pooled.var(ddof=1))
    weight = 0.0
    if others > 1 and spread > 0:
        shared = float(np.cov(people, judge, ddof=1)[0, 1])
        weight = min(1.0, max(0.0, shared / ((1 + n / others) * spread)))
    rectifier = people - weight * judge  # what is left of a label once the judge is taken off, in [-weight, 1]
    judged = float(elsewhere.mean()) if weight else 0.0
    scaled = (rectifier + weight) / (1 + weight)
    low, high = interval(scaled, confidence)
    drift = 0.0
    if weight:
        drift = float(stats.norm.isf((1 - confidence) / 2) * weight * elsewhere.std(ddof=1)) / math.sqrt(others)
    centre = float(scaled.mean())
    below, above = (centre - low) * (1 + weight), (high - centre) * (1 + weight)
    mean = float(rectifier.mean()) + weight * judged
    clipped = min(1.0, max(0.0, mean))
    lowest, highest = mean - math.hypot(below, drift), mean + math.hypot(above, drift)
    return Corrected(clipped, max(0.0, min(clipped, lowest)), min(1.0, max(clipped, highest)), n, others, weight)
