"""What floors can be met at all: attainable values, and the nearest feasible floors.

Exact by column generation. The achievable values are the convex hull of those of deterministic policies (one
response per prompt); a linear program over the policies found so far gives the smallest largest shortfall, its dual
a direction, and the best policy in a direction is an argmax per prompt. Robust values are concave: worst
reweightings found on the way join as cuts.
"""

from typing import NamedTuple

import numpy as np
import scipy.optimize

from mopo_train.robust import Lower, lower_value
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


class _Cut(NamedTuple):
    objective: int
    weights: FloatArray
    """(labelled prompts,) reweighting with mean 1."""


class _Master(NamedTuple):
    shares: FloatArray
    duals: FloatArray
    shortfall: float


class _Mixture(NamedTuple):
    values: FloatArray
    worst: list[Lower]


def nearest_feasible(problem: Problem, bounds: FloatArray, radius: FloatArray) -> Nearest:
    """The smallest largest shortfall to ``bounds`` (m,) over all policies, with robust ``radius`` (m,)."""
    m = len(bounds)
    policies = [_best(problem, direction[:, None]) for direction in np.vstack([np.ones(m), np.eye(m)])]  # each (m, P)
    cuts = [_Cut(k, np.ones(int(problem.labelled[k].sum()))) for k in range(m)]
    upper, best = np.inf, policies[0]
    for _ in range(ROUNDS):
        floors = bounds[[cut.objective for cut in cuts]]
        shares, duals, level = _master(_cut_values(problem, policies, cuts), floors)
        mixture, worst = _mix(problem, policies, shares, radius)
        shortfall = max(bounds[k] - worst[k].value for k in range(m))
        if shortfall < upper:
            upper, best = shortfall, mixture
        candidate = _best(problem, _direction(problem, cuts, duals))
        lower = float(duals @ (floors - _cut_values(problem, [candidate], cuts)[:, 0]))
        if upper - lower <= TOLERANCE:
            break
        policies.append(candidate)
        cuts += [
            _Cut(k, worst[k].weights) for k in range(m) if radius[k] > 0 and bounds[k] - worst[k].value > level + 1e-12
        ]
    spared = _spare(problem, policies, cuts, bounds, upper)
    mixture, worst = _mix(problem, policies, spared, radius)
    values = np.array([each.value for each in worst])
    if (bounds - values).max() > upper + TOLERANCE:  # cuts are not exact for robust values
        values = np.array([lower_value(best[k, problem.labelled[k]], radius[k]).value for k in range(m)])
    return Nearest(float(upper), values)


def _best(problem: Problem, weights: FloatArray) -> FloatArray:
    """(m, P) values of the policy that maximises sum_k weights_k(x) w_k; ``weights`` (m, P) or (m, 1).

    Ties share the prompt alike: any choice is optimal.
    """
    spread = np.broadcast_to(weights, problem.labelled.shape)[:, problem.prompt_of]
    score = (spread * problem.rates).sum(axis=0)
    top = score >= max_by_prompt(score, problem.starts)[problem.prompt_of] - 1e-14
    share = top / sum_by_prompt(top.astype(np.float64), problem.starts)[problem.prompt_of]
    return prompt_values(problem, share)


def _cut_values(problem: Problem, policies: list[FloatArray], cuts: list[_Cut]) -> FloatArray:
    """(cuts, policies) reweighted mean of each policy's values."""
    stacked = np.array(policies)  # (policies, m, P)
    return np.array(
        [stacked[:, cut.objective][:, problem.labelled[cut.objective]] @ cut.weights / len(cut.weights) for cut in cuts]
    )


def _direction(problem: Problem, cuts: list[_Cut], duals: FloatArray) -> FloatArray:
    """(m, P) weight of each prompt's values in the dual combination of the cuts, per prompt."""
    weights = np.zeros(problem.labelled.shape)
    for cut, dual in zip(cuts, duals, strict=True):
        weights[cut.objective, problem.labelled[cut.objective]] += dual * cut.weights / len(cut.weights)
    return weights * problem.prompts  # of order 1, as the win rates are


def _mix(problem: Problem, policies: list[FloatArray], shares: FloatArray, radius: FloatArray) -> _Mixture:
    mixture = np.einsum("j,jkp->kp", shares, np.array(policies))
    worst = [lower_value(mixture[k, problem.labelled[k]], radius[k]) for k in range(len(mixture))]
    return _Mixture(mixture, worst)


def _master(matrix: FloatArray, floors: FloatArray) -> _Master:
    """Min z subject to matrix @ shares + z >= floors over distributions ``shares``."""
    rows, columns = matrix.shape
    cost = np.append(np.zeros(columns), 1.0)
    solved = scipy.optimize.linprog(
        cost,
        A_ub=-np.column_stack([matrix, np.ones(rows)]),
        b_ub=-floors,
        A_eq=np.append(np.ones(columns), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0, None)] * columns + [(None, None)],
        method="highs",
    )
    return _Master(solved.x[:-1], -solved.ineqlin.marginals, float(solved.x[-1]))


def _spare(
    problem: Problem, policies: list[FloatArray], cuts: list[_Cut], bounds: FloatArray, shortfall: float
) -> FloatArray:
    """Shares of the policies that keep the shortfall and lower the other floors as little as possible in sum."""
    matrix = _cut_values(problem, policies, cuts)
    m, columns = len(bounds), len(policies)
    owner = np.zeros((len(cuts), m))
    owner[np.arange(len(cuts)), [cut.objective for cut in cuts]] = 1.0
    solved = scipy.optimize.linprog(
        np.append(np.zeros(columns), -np.ones(m)),
        A_ub=np.column_stack([-matrix, owner]),  # kept value of an objective <= each of its cuts
        b_ub=np.zeros(len(cuts)),
        A_eq=np.append(np.ones(columns), np.zeros(m))[None],
        b_eq=[1.0],
        bounds=[(0, None)] * columns + [(bound - max(shortfall, 0.0) - TOLERANCE, bound) for bound in bounds],
        method="highs",
    )
    if solved.x is None:
        return _master(matrix, bounds[[cut.objective for cut in cuts]]).shares
    shares: FloatArray = solved.x[:columns]
    return shares
