"""Confidence sequences for a mean in [0, 1] by betting (Waudby-Smith and Ramdas, arXiv 2010.09686).

A gambler bets against "the mean is m" with stakes that depend on the past alone. While the mean is m the capital is a
non-negative martingale that begins at 1, so it ever reaches 2/alpha with probability at most alpha/2 (Ville): the means
that are not refuted hold the true one at all times at once, with probability 1 - alpha, whenever and however often
somebody looks. Nothing is assumed but that each value, given those before it, has the same mean; if the mean drifts,
``low`` says that it was greater at some time and ``high`` that it was less.

The bounds are those of the moment, not intersected over time: evidence that later values take back is taken back.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
RISK = 0.5
"""Largest share of the capital that one value may cost: c in the paper."""
HALVINGS = 30
"""Steps of bisection: bounds are exact to 1e-9, and rounded outwards."""


class LiveInterval(NamedTuple):
    """A mean that may be looked at after every value."""

    mean: float
    low: float
    high: float


def bounds(values: FloatArray, confidence: float = 0.95) -> LiveInterval:
    """The two-sided confidence sequence after ``values`` (n,), which are in the order in which they came.

    Each end alone holds with error (1 - confidence) / 2. Raises ValueError for no values, or values outside [0, 1].
    """
    if len(values) == 0 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError("a confidence sequence needs one value or more, all in [0, 1]")
    alpha = 1 - confidence
    bets = stakes(values, alpha)
    low = _refuted_below(values, bets, math.log(2 / alpha))
    high = 1 - _refuted_below(1 - values, bets, math.log(2 / alpha))
    return LiveInterval(float(values.mean()), low, high)


def path(values: FloatArray, confidence: float = 0.95, points: int = 50) -> list[tuple[int, LiveInterval]]:
    """``bounds`` after the first n values, for at most ``points`` values of n up to all: what a chart shows."""
    counts = np.unique(np.linspace(1, len(values), min(points, len(values)), dtype=int))
    return [(int(n), bounds(values[:n], confidence)) for n in counts]


def stakes(values: FloatArray, alpha: float) -> FloatArray:
    """What is bet on each value (n,), from the values before it: the paper's plug-in, not yet cut to ``RISK``.

    lambda_t = sqrt(2 log(2/alpha) / (s2_(t-1) t log(t + 1))), with the mean and variance regularised by 1/2 and 1/4.
    """
    t = np.arange(1, len(values) + 1)
    mean = (0.5 + np.cumsum(values)) / (t + 1)
    variance = (0.25 + np.cumsum((values - mean) ** 2)) / (t + 1)
    before = np.concatenate([[0.25], variance[:-1]])
    result: FloatArray = np.sqrt(2 * math.log(2 / alpha) / (before * t * np.log(t + 1)))
    return result


def log_capital(values: FloatArray, bets: FloatArray, m: float) -> FloatArray:
    """Logarithm of the capital after each value (n,) of bets that the mean is greater than ``m``, in (0, 1).

    It falls with ``m``: where a bet is not cut, 1 + bet (x - m) does, and where it is, 1 + RISK (x / m - 1) does.
    """
    result: FloatArray = np.cumsum(np.log1p(np.minimum(bets, RISK / m) * (values - m)))
    return result


def _refuted_below(values: FloatArray, bets: FloatArray, goal: float) -> float:
    """The largest m, to 1e-9, that the capital at the end refutes: with it all smaller ones."""
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        m = (low + high) / 2
        if log_capital(values, bets, m)[-1] >= goal:
            low = m
        else:
            high = m
    return low
