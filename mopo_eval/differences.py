"""How much two policies differ, on the same prompts or on different ones, and how many prompts would tell.

A difference is ours minus theirs, of values in [0, 1], one per prompt. Interval and p-value come from one statistic,
so that the interval excludes 0 exactly where the p-value is at most 1 - confidence.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from scipy import stats

from mopo_eval.bootstrap import TINY, critical, resampled_shifts, standard_error, studentised, two_sided_p
from mopo_eval.bounds import HALVINGS, FloatArray, p_value
from mopo_eval.intervals import betting_interval, enough_for_bootstrap


class Difference(NamedTuple):
    """Ours minus theirs, in [-1, 1]."""

    mean: float
    low: float
    high: float
    p_value: float
    """Two-sided, of no difference; not corrected for other comparisons, see ``holm``."""
    n: int
    """Prompts; for different prompts, those of the smaller side."""


def paired_difference(ours: FloatArray, theirs: FloatArray, confidence: float = 0.95) -> Difference:
    """Of two policies on the same prompts, (prompts,) each: by the symmetric studentised bootstrap of the differences.

    By betting where fewer than 10 prompts or fewer than 5 that differ are there. Raises ValueError for fewer than two
    prompts, unequal numbers or values outside [0, 1].
    """
    _check(ours, theirs)
    if len(ours) != len(theirs):
        raise ValueError(f"paired values belong to the same prompts; got {len(ours)} and {len(theirs)}")
    return paired_differences(ours[None], theirs[None], confidence)[0]


def paired_differences(ours: FloatArray, theirs: FloatArray, confidence: float = 0.95) -> list[Difference]:
    """As ``paired_difference`` for each row of ``ours`` and ``theirs``, (C, prompts), which share the resamples."""
    _check(*ours, *theirs)
    differences = ours - theirs
    many = [row for row, each in enumerate(differences) if enough_for_bootstrap(each)]
    places = {row: place for place, row in enumerate(many)}
    if many:
        errors = standard_error(differences[many])
        deviations = studentised(*resampled_shifts(differences[many]))
    found = []
    for row, each in enumerate(differences):
        if row in places:
            place, mean = places[row], float(each.mean())
            error = float(errors[place])
            found.append(_studentised(mean, error, deviations[:, place], confidence, len(each)))
        else:
            found.append(_by_betting(each, confidence))
    return found


def _by_betting(difference: FloatArray, confidence: float) -> Difference:
    """Of differences (prompts,) that are too few or too much alike to resample."""
    mean, n = float(difference.mean()), len(difference)
    alpha, halved = (1 - confidence) / 2, (difference + 1) / 2
    low, high = betting_interval(halved, confidence)
    refuted = min(p_value(side, 0.5, alpha, binary=False) for side in (halved, 1 - halved))
    return Difference(mean, min(2 * low - 1, mean), max(2 * high - 1, mean), min(1.0, 2 * refuted), n)


def unpaired_difference(ours: FloatArray, theirs: FloatArray, confidence: float = 0.95) -> Difference:
    """Of two policies on different prompts: by the symmetric studentised bootstrap of both (Welch's statistic).

    With few prompts, or few that differ, each side gets a betting interval at half the error. Raises ValueError for
    fewer than two prompts on a side or values outside [0, 1].
    """
    _check(ours, theirs)
    mean, n = float(ours.mean() - theirs.mean()), min(len(ours), len(theirs))
    if not (enough_for_bootstrap(ours) and enough_for_bootstrap(theirs)):
        each = (1 + confidence) / 2
        a, b = betting_interval(ours, each), betting_interval(theirs, each)
        low, high = min(a.low - b.high, mean), max(a.high - b.low, mean)
        above, below = (ours, theirs) if mean >= 0 else (theirs, ours)
        return Difference(mean, low, high, _betting_p(above, below, (1 - confidence) / 4), n)
    sides = [resampled_shifts(side[None], seed=seed) for seed, side in enumerate((ours, theirs))]
    shift, variance = sides[0][0] - sides[1][0], sides[0][1] + sides[1][1]
    error = math.hypot(*(float(standard_error(side[None])[0]) for side in (ours, theirs)))
    return _studentised(mean, error, studentised(shift, variance)[:, 0], confidence, n)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values, adjusted for there being several (S. Holm, Scandinavian Journal of Statistics 6, 1979).

    Those at most alpha are all true differences with probability at least 1 - alpha, however they depend on each other.
    """
    adjusted = [0.0] * len(p_values)
    least = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = least
    return adjusted


def prompts_to_separate(
    ours: FloatArray, theirs: FloatArray, *, power: float = 0.8, confidence: float = 0.95
) -> int | None:
    """Shared prompts at which a difference as large and as variable as the one seen would show with chance ``power``.

    From the normal approximation, ((z_{(1 + confidence)/2} + z_power) s / mean)^2; None where no difference was seen.
    A guess as good as the difference that it starts from. Raises ValueError as ``paired_difference`` does.
    """
    _check(ours, theirs)
    difference = ours - theirs
    return _prompts_to_see(float(difference.mean()), float(difference.var(ddof=1)), power, confidence)


def prompts_to_separate_unpaired(
    ours: FloatArray, theirs: FloatArray, *, power: float = 0.8, confidence: float = 0.95
) -> int | None:
    """As ``prompts_to_separate``, for so many prompts on each of two sides that share none."""
    _check(ours, theirs)
    variance = float(ours.var(ddof=1) + theirs.var(ddof=1))
    return _prompts_to_see(float(ours.mean() - theirs.mean()), variance, power, confidence)


def _prompts_to_see(mean: float, variance: float, power: float, confidence: float) -> int | None:
    """``variance``: of one prompt's contribution."""
    if abs(mean) < TINY:
        return None
    z = float(stats.norm.ppf((1 + confidence) / 2) + stats.norm.ppf(power))
    return max(2, math.ceil(z * z * variance / mean**2))


def _betting_p(above: FloatArray, below: FloatArray, alpha: float) -> float:
    """Two-sided, of ``above`` and ``below`` having one mean; bets are strongest at the level ``alpha`` of each.

    If the true mean of ``above`` is no greater, every m is either no less than it or no greater than that of ``below``.
    So it is refuted where one m is too great for the first and too small for the second: four times the larger of the
    two p-values, for two sides and two directions, at the m that is best.
    """
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        m = (low + high) / 2
        too_great = p_value(above, m, alpha, binary=False)  # grows with m
        too_small = p_value(1 - below, 1 - m, alpha, binary=False)  # falls with m
        low, high = (low, m) if too_great > too_small else (m, high)
    return min(1.0, 4 * max(too_great, too_small))


def _studentised(mean: float, error: float, deviation: FloatArray, confidence: float, n: int) -> Difference:
    """From |t| of the resamples, (resamples,)."""
    reach = float(critical(deviation, confidence, n - 1)) * error
    p = two_sided_p(abs(mean) / error, deviation, n - 1)
    return Difference(mean, max(-1.0, mean - reach), min(1.0, mean + reach), p, n)


def _check(*sides: FloatArray) -> None:
    for values in sides:
        if len(values) < 2 or not ((values >= 0) & (values <= 1)).all():
            raise ValueError(f"a difference needs two prompts or more, all values in [0, 1]; got {len(values)}")
