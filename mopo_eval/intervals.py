"""Two-sided intervals for means of one value per prompt.

Wilson's for values that are all 0 or 1, otherwise the symmetric studentised bootstrap, and a betting interval where the
bootstrap cannot know anything: few prompts, or values that are nearly all the same. The conservative ones (Clopper and
Pearson, betting) never cover less often than they say, and are wider. Bounds that must hold for every policy and
objective at once are in ``bounds``.
"""

import math
from typing import NamedTuple

import numpy as np

from mopo_eval.bootstrap import critical, resampled_shifts, standard_error, studentised
from mopo_eval.bounds import FloatArray, betting_low, clopper_pearson_low
from mopo_train.rates import wilson_interval

LEAST_FOR_BOOTSTRAP = 10
"""With fewer prompts the bootstrap's intervals are far too short."""
LEAST_DIFFERENT = 5
"""Values that must differ from the commonest one: resampling cannot show what was hardly ever seen."""


class Interval(NamedTuple):
    """A two-sided interval; ``low`` <= mean <= ``high``, never a point."""

    low: float
    high: float


def interval(values: FloatArray, confidence: float, *, conservative: bool = False) -> Interval:
    """Interval for the mean of ``values``, shape (prompts,), in [0, 1], one per prompt. Raises as ``intervals``."""
    return intervals(values[None], confidence, conservative=conservative)[0]


def intervals(values: FloatArray, confidence: float, *, conservative: bool = False) -> list[Interval]:
    """Interval for the mean of each row of ``values``, shape (C, prompts), in [0, 1], one value per prompt.

    Raises ValueError for fewer than two prompts or values outside [0, 1].
    """
    if values.shape[1] < 2 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"an interval needs two values or more, all in [0, 1]; got {values.shape[1]}")
    resampled = [row for row, each in enumerate(values) if not is_binary(each) and enough_for_bootstrap(each)]
    reach = np.zeros(len(values))
    if resampled and not conservative:
        reach[resampled] = bootstrap_reach(values[resampled], confidence)
    return [_interval(each, confidence, far, conservative) for each, far in zip(values, reach.tolist(), strict=True)]


def _interval(values: FloatArray, confidence: float, reach: float, conservative: bool) -> Interval:
    """That of one row; ``reach`` is 0 where the bootstrap has nothing to say."""
    if is_binary(values):
        return (clopper_pearson if conservative else wilson)(int(values.sum()), len(values), confidence)
    mean = float(values.mean())
    if reach == 0 or not math.isfinite(reach):
        low, high = betting_interval(values, confidence)
    else:
        low, high = mean - reach, mean + reach
    return Interval(max(0.0, min(low, mean)), min(1.0, max(high, mean)))


def enough_for_bootstrap(values: FloatArray) -> bool:
    """True if ``values`` (prompts,) are many and different enough for resamples to show their spread."""
    different = len(values) - np.unique(values, return_counts=True)[1].max()
    return bool(len(values) >= LEAST_FOR_BOOTSTRAP and different >= LEAST_DIFFERENT)


def bootstrap_reach(values: FloatArray, confidence: float) -> FloatArray:
    """(C,) how far the symmetric studentised bootstrap's interval reaches to both sides of the means of the rows."""
    deviation = studentised(*resampled_shifts(values))
    reach: FloatArray = critical(deviation, confidence, values.shape[1] - 1) * standard_error(values)
    return reach


def is_binary(values: FloatArray) -> bool:
    """True if every value is 0 or 1."""
    return bool(((values == 0) | (values == 1)).all())


def clopper_pearson(passed: int, n: int, confidence: float) -> Interval:
    """The exact interval (Clopper and Pearson 1934): covers every rate at least as often as it says.

    Raises ValueError unless 0 <= passed <= n and n >= 1.
    """
    alpha = (1 - confidence) / 2
    return Interval(clopper_pearson_low(passed, n, alpha), 1 - clopper_pearson_low(n - passed, n, alpha))


def wilson(passed: int, n: int, confidence: float) -> Interval:
    """Wilson's score interval: 5 of 5 gives a lower end of 5 / (5 + z^2).

    Raises ValueError unless 0 <= passed <= n and n >= 1.
    """
    if not (0 <= passed <= n and n >= 1):
        raise ValueError(f"cannot rate {passed} passed of {n} prompts; score some first")
    return Interval(*wilson_interval(passed / n, n, confidence))


def betting_interval(values: FloatArray, confidence: float) -> Interval:
    """Two betting bounds at half the error each: valid for every sample size, wide for few values."""
    alpha = (1 - confidence) / 2
    return Interval(betting_low(values, alpha), 1 - betting_low(1 - values, alpha))
