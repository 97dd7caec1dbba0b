"""One-sided lower confidence bounds for the mean of independent values in [0, 1], valid for every sample size.

Exact (Clopper and Pearson 1934) for values that can only be 0 or 1; by betting (Waudby-Smith and Ramdas,
arXiv 2010.09686) for all others. Neither assumes a distribution beyond that the values are independent draws with one
mean, as the scores of prompts drawn at random are, and neither depends on their order.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import special

FloatArray = NDArray[np.float64]
STAKES = np.geomspace(1.5, 16, 10)
"""Stakes in units of the best one against values that are all 0 or 1; the smaller the spread, the larger the best."""
WEIGHTS = 1 / STAKES / (1 / STAKES).sum()
"""Share of the capital that each stake begins with."""
HALVINGS = 30
"""Steps of bisection: the bound is exact to 1e-9, and rounded towards 0."""


def lower_bound(values: FloatArray, alpha: float, *, binary: bool) -> float:
    """Bound that lies above the true mean with probability at most ``alpha``; ``values``: one per prompt.

    ``binary`` says that the judge gives 0 or 1 only. Callers read it off the scores of all policies; should a rarer
    score not have shown, the exact bound still holds by itself: it bounds P(X = 1), which is at most E X.
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

    If the mean is at most m, the capital prod_i (1 + l (x_i - m)) of a stake 0 <= l < 1/m that was fixed beforehand has
    expectation at most 1, and so has a mixture of such capitals: it reaches 1/alpha with probability at most alpha
    (Markov). A product has no order. The stakes are the multiples ``STAKES`` of sqrt(2 log(1/alpha) / (n m (1 - m))),
    nearly the best against values of 0 and 1, damped to stay below 1/m. What such a bet loses on a 0 grows with m and
    what it wins on a 1 shrinks, so capital falls with m, and bisection finds the bound.

    Raises ValueError for no values, or values outside [0, 1].
    """
    _check(values)
    ordered = np.sort(values)  # sums are rounded alike, whatever the order
    goal = math.log(1 / alpha)
    low, high = 0.0, float(ordered.mean())
    if high == 0:
        return 0.0
    for _ in range(HALVINGS):
        m = (low + high) / 2
        if _log_capital(ordered, m, goal) >= goal:
            low = m
        else:
            high = m
    return low


def p_value(values: FloatArray, floor: float, alpha: float, *, binary: bool) -> float:
    """Of the hypothesis that the true mean of ``values`` (prompts,) is below ``floor``; small refutes it.

    At most ``alpha`` exactly where ``lower_bound`` at ``alpha`` clears the floor. The binomial test's where values can
    only be 0 or 1, otherwise 1 over the capital of bets whose stakes suit ``alpha`` (Ville's inequality): valid at
    every level, strongest at that one. Raises ValueError as the bounds do.
    """
    if floor <= 0:
        return 0.0
    if binary:
        passed = int(np.count_nonzero(values == 1))
        return 1.0 if passed == 0 else float(special.betainc(passed, len(values) - passed + 1, floor))
    _check(values)
    if floor >= 1:
        return 1.0
    return min(1.0, math.exp(-_log_capital(np.sort(values), floor, math.log(1 / alpha))))


def _check(values: FloatArray) -> None:
    if len(values) == 0 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError("betting needs one value or more, all in [0, 1]")


def _log_capital(ordered: FloatArray, m: float, goal: float) -> float:
    """Logarithm of what the mixture of ``STAKES`` against the mean ``m``, in (0, 1), has won; ``goal``: the target."""
    ratios = STAKES * math.sqrt(2 * goal / len(ordered) * m / (1 - m))
    at_risk = ratios / (1 + ratios)  # (stakes,), l m: the share of the capital that a 0 costs
    capital = np.log1p(at_risk[:, None] * (ordered / m - 1)).sum(axis=1)  # (stakes,), in logarithms
    return float(special.logsumexp(capital, b=WEIGHTS))
