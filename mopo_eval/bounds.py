"""One-sided lower confidence bounds for the mean of independent values in [0, 1], valid for every sample size.

Exact (Clopper and Pearson 1934) for values that can only be 0 or 1; by betting (Waudby-Smith and Ramdas,
arXiv 2010.09686) for all others. Neither assumes a distribution beyond that the values are independent draws with one
mean, as the scores of prompts drawn at random are.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import special

FloatArray = NDArray[np.float64]
LARGEST_STAKE = 0.75
"""Largest share of the capital that may be lost in one bet; 1/2 and 3/4 are the paper's choices."""
HALVINGS = 40
"""Steps of bisection: the bound is exact to 1e-12, and rounded towards 0."""


def lower_bound(values: FloatArray, alpha: float, *, binary: bool) -> float:
    """Bound that lies above the true mean with probability at most ``alpha``; ``values``: one per prompt.

    ``binary`` says that the values can only be 0 or 1. It should be known of the judge, not read off few values.
    """
    if binary:
        return clopper_pearson_low(int(np.count_nonzero(values == 1)), len(values), alpha)
    return betting_low(values, alpha)


def clopper_pearson_low(passed: int, n: int, alpha: float) -> float:
    """The rate at which ``passed`` or more of ``n`` have probability ``alpha``; 0 if none passed.

    Raises ValueError unless 0 <= passed <= n, n >= 1.
    """
    if not (0 <= passed <= n and n >= 1):
        raise ValueError(f"cannot bound the rate of {passed} passed of {n}")
    return 0.0 if passed == 0 else float(special.betaincinv(passed, n - passed + 1, alpha))


def betting_low(values: FloatArray, alpha: float) -> float:
    """Largest mean that a gambler, betting that the true one is greater, has refuted at level ``alpha``.

    If the mean is at most m, the capital prod_i (1 + l_i (x_i - m)) with stakes 0 <= l_i < 1/m chosen before x_i is
    seen is a supermartingale, so it ever reaches 1/alpha with probability at most alpha (Ville). Stakes are the paper's
    predictable plug-in (Eq. 26 with the sample size fixed, one-sided), capped at 3/4 of 1/m. Capital falls with m, so
    that bisection finds the bound. The order of the values matters; a fixed shuffle makes it that of nobody's choosing.

    Raises ValueError for no values, or values outside [0, 1].
    """
    if len(values) == 0 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError("betting needs one value or more, all in [0, 1]")
    drawn = values[np.random.default_rng(len(values)).permutation(len(values))]
    stakes = _plug_in_stakes(drawn, alpha)
    goal = math.log(1 / alpha)
    low, high = 0.0, float(drawn.mean())
    if high == 0:
        return 0.0
    for _ in range(HALVINGS):
        m = (low + high) / 2
        capital = np.cumsum(np.log1p(np.minimum(stakes, LARGEST_STAKE / m) * (drawn - m)))  # (n,), in logarithms
        if capital.max() >= goal:
            low = m
        else:
            high = m
    return low


def _plug_in_stakes(values: FloatArray, alpha: float) -> FloatArray:
    """sqrt(2 log(1/alpha) / (n variance of the values before)), (n,); a prior value 1/2 with variance 1/4."""
    n = len(values)
    seen = np.arange(2, n + 2)
    means = (0.5 + np.cumsum(values)) / seen  # (n,), after each value
    variances = (0.25 + np.cumsum((values - means) ** 2)) / seen
    before = np.concatenate([[0.25], variances[:-1]])
    stakes: FloatArray = np.sqrt(2 * math.log(1 / alpha) / (n * before))
    return stakes
