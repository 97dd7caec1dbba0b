"""Robust values: the worst reweighting of the prompts within a KL ball (design section 2).

`lower_value` is the bound for one vector of values; `radii` the default radius of the ball. The joint solution for
multipliers and reweightings is in `interior`. The bound is asymptotic and for a fixed policy: fitting the policy to
the same data makes it optimistic, and it never falls below the smallest observed value.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.stats

from mopo_train.errors import FloorError
from mopo_train.winrates import FloatArray, IntArray

DELTA = 0.05
"""Error probability of the default one-sided bound."""
SMALLEST = 1e-9
"""A smaller radius counts as 0: it would move no value by more than 3e-5."""


class Confident(NamedTuple):
    """A radius by the data: that of a one-sided confidence bound at ``level``, in (0.5, 1)."""

    level: float


Radius = float | Confident | None
"""KL radius of the robust floors: the same for all objectives, by confidence, or None for the default confidence."""


def radius_of(epsilon: float | None, confidence: float) -> Radius:
    """``epsilon`` where it is given, else what ``confidence`` makes it."""
    return Confident(confidence) if epsilon is None else epsilon


def radii(counts: IntArray, epsilon: Radius) -> FloatArray:
    """KL radius per objective for ``counts`` labelled prompts; a number ``epsilon`` is that of all.

    By confidence 1 - delta it is chi2_1(1 - 2 delta) / (2 n), which makes the lower end of the ball an asymptotic
    one-sided confidence bound for the mean of a fixed policy (Owen's empirical likelihood; Duchi, Glynn, Namkoong
    2021). Raises FloorError for what is neither a radius nor a confidence.
    """
    if isinstance(epsilon, int | float):
        if not (np.isfinite(epsilon) and epsilon >= 0):
            raise FloorError(f"epsilon = {epsilon} is not a radius; give a number >= 0 (0 switches the bound off)")
        return np.full(len(counts), float(epsilon) if epsilon >= SMALLEST else 0.0)
    level = 1 - DELTA if epsilon is None else epsilon.level
    if not 0.5 < level < 1:
        raise FloorError(f"confidence = {level} is outside (0.5, 1); give for example 0.95")
    quantile = float(scipy.stats.chi2.ppf(2 * level - 1, df=1))
    return quantile / (2.0 * np.maximum(counts, 1))


class Lower(NamedTuple):
    """The worst mean within a ball and where it is attained."""

    value: float
    weights: FloatArray
    """(n,) worst reweighting t; mean 1."""
    temperature: float
    """chi >= 0 with t proportional to exp(-v / chi); 0 where t sits on the smallest values only."""


def lower_value(values: FloatArray, epsilon: float) -> Lower:
    """Min over t >= 0 with mean 1 and mean(t log t) <= epsilon of mean(t v), for ``values`` (n,).

    The minimiser is t proportional to exp(-eta v) with mean(t log t) = epsilon, found by a root search in eta; from
    radius log(n / ties at the minimum) on, it is uniform on the smallest values.
    """
    n, low = len(values), float(values.min())
    spread = values - low  # >= 0, so exp(-eta * spread) never overflows
    span = float(spread.max())
    if epsilon == 0 or span <= 1e-13:
        return Lower(float(values.mean()), np.ones(n), np.inf)
    at_minimum = spread <= 1e-13 * max(1.0, span)
    if epsilon >= np.log(n / np.count_nonzero(at_minimum)) - 1e-12:
        return Lower(low, at_minimum * (n / np.count_nonzero(at_minimum)), 0.0)

    def reweighting(eta: float) -> FloatArray:
        weight = np.exp(-eta * spread)
        return np.asarray(weight / weight.mean())

    def divergence(eta: float) -> tuple[float, float]:
        """Mean of t log t and its slope in log eta, which is eta^2 times the variance of v under t."""
        weight = np.exp(-eta * spread)
        mean = float(weight.mean())
        t = weight / mean
        logs = -eta * spread - np.log(mean)  # log t, finite where t underflows
        tilted = float((t * spread).mean())
        value = float((t * logs - t + 1).mean())  # mean t = 1; each term >= 0, so nothing cancels
        return value, eta**2 * float((t * (spread - tilted) ** 2).mean())

    start = float(np.log(np.sqrt(2 * epsilon / max(float(values.var()), 1e-300))))
    log_eta = _newton_root(lambda place: divergence(float(np.exp(place))), epsilon, start)
    eta = float(np.exp(log_eta))
    t = reweighting(eta)
    return Lower(low + float((t * spread).mean()), t, 1 / eta)


def _newton_root(divergence: Callable[[float], tuple[float, float]], epsilon: float, start: float) -> float:
    """Where the increasing ``divergence`` reaches ``epsilon``: Newton's method on logarithms, else bracketing.

    A divergence is nearly quadratic in eta, so its logarithm is nearly linear in log eta and three steps are usual.
    """
    place = start
    for _ in range(8):
        value, slope = divergence(place)
        if not (value > 0 and slope > 0):
            break
        step = float(np.log(epsilon / value)) * value / slope
        place += step
        if abs(step) <= 1e-13:
            return place
        if abs(place - start) > 3:
            break

    def excess(place: float) -> float:
        return divergence(place)[0] - epsilon

    left, right = start - 1, start + 1
    while excess(left) > 0:
        left -= 2
    while excess(right) < 0 and right < start + 800:
        right += 2
    return float(scipy.optimize.brentq(excess, left, right, xtol=1e-13, rtol=1e-14))
