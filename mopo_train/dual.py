"""Floors to multipliers: the exact dual of "maximise one objective, hold the others above floors".

`solve` finds the multipliers for given floors, `tilt` evaluates given multipliers. Both return a `Solution`: the
density ratio that a policy should follow and the values predicted for it (design section 2, per-prompt form).
Predictions are as good as the win rates: exact on them, optimistic where these are noisy.
"""

from collections.abc import Mapping

import numpy as np

from mopo_train.errors import FloorError
from mopo_train.family import check_floors
from mopo_train.feasibility import Nearest, attainable_values, conflicting, nearest_feasible
from mopo_train.interior import lower_values, solve_robust, tilt_robust
from mopo_train.newton import Totals, minimise
from mopo_train.robust import Radius, lower_value, radii
from mopo_train.solution import Solution, Task, check_problem, describe, infeasible_message
from mopo_train.tilting import Problem, make_problem, moments, slices
from mopo_train.winrates import FloatArray, WinRates, max_by_prompt

__all__ = [
    "EDGE",
    "Solution",
    "attainable",
    "attained_by",
    "infeasible_message",
    "solve",
    "solve_plain",
    "solve_task",
    "tilt",
    "unmet",
]

EDGE = 1e-6
"""A floor beyond the attainable value by no more than this counts as met."""
MARGINS = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
"""Floors at the very edge of what can be attained are met to within the first of these with finite multipliers."""


def solve(
    rates: WinRates, *, primary: str, floors: Mapping[str, float], tau: float, epsilon: Radius = None
) -> Solution:
    """Maximise ``primary`` - tau KL subject to the floors; exact to about 1e-9 on the given win rates.

    ``epsilon`` is the KL radius of the robust floors; 0 is the plain mean, None the default of `robust.radii`.
    Infeasible floors give ``feasible`` False and the solution for the nearest feasible ones (smallest largest
    shortfall). A floor within 1e-6 of what is attainable counts as met.

    With objective p labelled on only n_p of the N prompts, the maximum is of the mean over all N prompts of
    m_p(x) w_p(x) - tau KL(x), with m_p(x) = 1 where p is labelled and 0 elsewhere: the primary counts with n_p / N, so
    that the price of KL on a prompt does not depend on how many other prompts are unlabelled.

    Raises FloorError for unknown objectives and floors outside [0, 1], DataError for an objective without labels.
    """
    check_floors(floors, list(rates.objectives))
    radius = check_problem(rates, primary, list(floors), tau, epsilon)
    problem = make_problem(rates, primary, list(floors), tau)
    return solve_task(Task(rates, problem, radius, primary), floors)


def solve_task(task: Task, floors: Mapping[str, float]) -> Solution:
    """`solve` for arguments that are checked; ``task`` constrains the objectives of ``floors``, in their order."""
    bounds = np.array(list(floors.values()), dtype=np.float64)
    reach = task.reach(list(floors))
    weights = _optimum(task.problem, bounds, reach)
    if weights is not None:
        return describe(task, weights, floors)
    nearest = nearest_feasible(task.problem, bounds, reach)
    weights = _near_optimum(task.problem, np.minimum(bounds, nearest.values), reach, nearest)
    solution = describe(task, weights, floors)
    if nearest.shortfall <= EDGE:
        return solution
    return unmet(solution, task.problem, nearest, reach)


def unmet(solution: Solution, problem: Problem, nearest: Nearest, reach: FloatArray) -> Solution:
    """``solution`` marked as infeasible, with the ``nearest`` floors and those that are at odds."""
    floors = solution.floors
    bounds = np.array(list(floors.values()))
    close = {name: float(min(floors[name], value)) for name, value in zip(floors, nearest.values, strict=True)}
    names = list(floors)
    at_odds = tuple(names[row] for row in conflicting(problem, bounds, reach, EDGE))
    return solution._replace(feasible=False, nearest_floors=close, conflict=at_odds)


def tilt(
    rates: WinRates, *, primary: str, multipliers: Mapping[str, float], tau: float, epsilon: Radius = None
) -> Solution:
    """The optimum for given multipliers >= 0; its floors are the (robust) values that it attains.

    Solving for those floors gives the same policy back: every such tilt is a point of the front.
    """
    for name, multiplier in multipliers.items():
        if not (np.isfinite(multiplier) and multiplier >= 0):
            raise FloorError(f"multiplier {name}={multiplier} must be a finite number >= 0")
    radius = check_problem(rates, primary, list(multipliers), tau, epsilon)
    problem = make_problem(rates, primary, list(multipliers), tau)
    given = np.array(list(multipliers.values()), dtype=np.float64)
    reach = radius[[rates.column(name) for name in multipliers]]
    weights = tilt_robust(problem, given, reach) if (reach > 0).any() else given
    return attained_by(Task(rates, problem, radius, primary), weights, multipliers)


def attained_by(task: Task, weights: FloatArray, multipliers: Mapping[str, float]) -> Solution:
    """The solution for ``weights`` with the (robust) values that it attains as its floors."""
    solution = describe(task, weights, {})
    attained = {name: solution.predicted_low[name] for name in multipliers}
    exact = {name: float(value) for name, value in multipliers.items()}
    return solution._replace(floors=attained, nearest_floors=attained, multipliers=exact)


def attainable(rates: WinRates, epsilon: Radius = None) -> dict[str, float]:
    """Largest value that any policy attains, per objective; robust with the same ``epsilon`` as in `solve`."""
    return attainable_values(rates, radii(rates.labelled.sum(axis=0), epsilon))


def _optimum(problem: Problem, bounds: FloatArray, radius: FloatArray) -> FloatArray | None:
    """Multipliers (m,), or (m, P) where robust, for floors ``bounds``; None without a finite optimum."""
    if len(bounds) == 0:
        return np.zeros(0)
    start = solve_plain(problem, bounds)
    if start is None or not (radius > 0).any():
        return start
    return solve_robust(problem, bounds, radius, start)


def _near_optimum(problem: Problem, bounds: FloatArray, radius: FloatArray, nearest: Nearest) -> FloatArray:
    """As `_optimum`, for floors that can just be met: lowered as little as finite multipliers need.

    Where even that does not converge (robust floors with a radius near log n), the multipliers along the direction
    that comes closest: those of the policy of smallest shortfall, or of the best response of every prompt.
    """
    single = len(bounds) == 1 and radius[0] > 0 and nearest.shortfall > -EDGE
    if not single:
        for margin in MARGINS:
            weights = _optimum(problem, bounds - margin, radius)
            if weights is not None:
                return weights
    directions = [problem.labelled.astype(np.float64)]
    if single:  # there t is the worst reweighting of the best response of every prompt
        best = max_by_prompt(problem.rates[0], problem.starts)[problem.labelled[0]]
        worst = np.zeros((1, problem.prompts))
        worst[0, problem.labelled[0]] = lower_value(best, float(radius[0])).weights
        directions.insert(0, worst)
    if nearest.pressure is not None:
        directions.insert(0, nearest.pressure * problem.tau)
    closest, found = np.inf, directions[0]
    for direction in directions:
        for power in range(35):
            weights = direction * 1.5**power
            shortfall = float((bounds - lower_values(problem, weights, radius)).max())
            if shortfall < closest:
                closest, found = shortfall, weights
            if shortfall <= MARGINS[0]:
                return weights
    return found


def solve_plain(problem: Problem, bounds: FloatArray, start: FloatArray | None = None) -> FloatArray | None:
    """(m,) minimiser over multipliers >= 0 of tau mean log E exp(s / tau) - sum_k lambda_k n_k / N b_k.

    None without a finite one. ``start`` (m,) shortens the way.
    """
    parts = slices(problem)
    totals = Totals(problem.prompts, problem.counts)
    return minimise(lambda multipliers, curved: moments(parts, multipliers, curved=curved), bounds, totals, start)
