"""What floors can be met at all: attainable values, and the nearest feasible floors.

Plain values: exact by column generation. The achievable values are the convex hull of those of deterministic
policies (one response per prompt); a linear program over the policies found so far gives the smallest largest
shortfall, its dual a direction, and the best policy in a direction is an argmax per prompt. Robust values are
concave, not linear: one floor has a closed form, several are left to `interior.smallest_shortfall`.
"""

from typing import NamedTuple

import numpy as np
import scipy.optimize

from mopo_train.interior import smallest_shortfall
from mopo_train.robust import lower_value
from mopo_train.tilting import Problem, prompt_values
from mopo_train.winrates import FloatArray, WinRates, max_by_prompt, sum_by_prompt

TOLERANCE = 1e-9
"""Gap between the upper and the lower bound of the shortfall at which the search stops."""
ROUNDS = 300


def attainable_values(rates: WinRates, radius: FloatArray) -> dict[str, float]:
    """Largest (robust) value per objective: the policy that takes the best response of every labelled prompt.

    The robust value is monotone in each prompt's, so the same policy is best for it.
    """
    best = max_by_prompt(np.ascontiguousarray(rates.rates.T), rates.starts)  # (K, P)
    return {
        name: lower_value(best[k, rates.labelled[:, k]], radius[k]).value if rates.labelled[:, k].any() else 0.5
        for k, name in enumerate(rates.objectives)
    }


class Nearest(NamedTuple):
    """The closest that any policy comes to floors."""

    shortfall: float
    """Smallest largest shortfall; <= 0 where the floors can be met."""
    values: FloatArray
    """(m,) values of a policy that attains it, no lower than necessary."""
    pressure: FloatArray | None = None
    """(m, P) u / tau of that policy, where it is known (several robust floors)."""


class _Master(NamedTuple):
    shares: FloatArray
    duals: FloatArray
    shortfall: float


def nearest_feasible(problem: Problem, bounds: FloatArray, radius: FloatArray) -> Nearest:
    """The smallest largest shortfall to ``bounds`` (m,) over all policies, with robust ``radius`` (m,)."""
    if len(bounds) == 1:
        best = max_by_prompt(problem.rates[0], problem.starts)[problem.labelled[0]]
        value = lower_value(best, float(radius[0])).value
        return Nearest(float(bounds[0] - value), np.array([value]))
    if (radius > 0).any():
        found = smallest_shortfall(problem, bounds, radius)
        return Nearest(found.high, found.values, found.pressure)
    return _nearest_plain(problem, bounds)


def conflicting(problem: Problem, bounds: FloatArray, radius: FloatArray, tolerance: float) -> list[int]:
    """Rows of floors ``bounds`` (m,) that no policy meets together, though it meets all but any one of them.

    For infeasible floors: each is left out in turn and stays out where the rest is still missed by more than
    ``tolerance`` (a deletion filter). There may be several such sets; later floors are left out last.
    """
    kept = list(range(len(bounds)))
    for row in range(len(bounds)):
        rest = [other for other in kept if other != row]
        if not rest:
            break
        places = np.array(rest)
        if nearest_feasible(problem.keep(places), bounds[places], radius[places]).shortfall > tolerance:
            kept = rest
    return kept


def _nearest_plain(problem: Problem, bounds: FloatArray) -> Nearest:
    m = len(bounds)
    policies = [_best(problem, direction) for direction in np.vstack([np.ones(m), np.eye(m)])]  # each (m,)
    best = _Master(np.ones(1), np.ones(m), np.inf)
    for _ in range(ROUNDS):
        best = _master(np.array(policies).T, bounds)
        candidate = _best(problem, best.duals * problem.prompts / problem.counts)
        if best.shortfall - best.duals @ (bounds - candidate) <= TOLERANCE:
            break
        policies.append(candidate)
    return Nearest(best.shortfall, _spare(np.array(policies).T, bounds, best))


def _best(problem: Problem, weights: FloatArray) -> FloatArray:
    """(m,) values of the policy that maximises sum_k weights_k w_k; ``weights`` (m,).

    Ties share the prompt alike: any choice is optimal.
    """
    score = weights @ problem.rates
    top = score >= max_by_prompt(score, problem.starts)[problem.prompt_of] - 1e-14
    share = top / sum_by_prompt(top.astype(np.float64), problem.starts)[problem.prompt_of]
    values: FloatArray = prompt_values(problem, share).sum(axis=1) / problem.counts
    return values


def _master(matrix: FloatArray, bounds: FloatArray) -> _Master:
    """Smallest z with matrix @ shares + z >= bounds over distributions; ``matrix`` (m, policies)."""
    m, columns = matrix.shape
    solved = scipy.optimize.linprog(
        np.append(np.zeros(columns), 1.0),
        A_ub=-np.column_stack([matrix, np.ones(m)]),
        b_ub=-bounds,
        A_eq=np.append(np.ones(columns), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0, None)] * columns + [(None, None)],
        method="highs",
    )
    shares: FloatArray = solved.x[:-1]
    return _Master(shares, np.maximum(-solved.ineqlin.marginals, 0.0), float((bounds - matrix @ shares).max()))


def _spare(matrix: FloatArray, bounds: FloatArray, best: _Master) -> FloatArray:
    """(m,) values with the same largest shortfall that lower the other floors as little as possible in sum."""
    m, columns = matrix.shape
    least = np.minimum(bounds, bounds - best.shortfall) - TOLERANCE
    solved = scipy.optimize.linprog(
        np.append(np.zeros(columns), -np.ones(m)),
        A_ub=np.column_stack([-matrix, np.eye(m)]),  # value kept <= value of the mixture
        b_ub=np.zeros(m),
        A_eq=np.append(np.ones(columns), np.zeros(m))[None],
        b_eq=[1.0],
        bounds=[(0, None)] * columns + list(zip(least, np.maximum(bounds, least), strict=True)),
        method="highs",
    )
    values: FloatArray = matrix @ (best.shares if solved.x is None else solved.x[:columns])
    return values
