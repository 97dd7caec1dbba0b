"""Floors to multipliers: the exact dual of "maximise one objective, hold the others above floors".

`solve` finds the multipliers for given floors, `tilt` evaluates given multipliers. Both return a `Solution`: the
density ratio that a policy should follow and the values predicted for it (design section 2, per-prompt form).
Predictions are as good as the win rates: exact on them, optimistic where these are noisy.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.optimize

from mopo_train.errors import DataError, FloorError
from mopo_train.family import check_floors
from mopo_train.feasibility import Nearest, attainable_values, conflicting, nearest_feasible
from mopo_train.interior import lower_values, solve_robust, tilt_robust
from mopo_train.robust import Lower, lower_value, radii
from mopo_train.tilting import (
    Problem,
    covariances,
    make_problem,
    prompt_values,
    quality,
    scores,
    tilt_scores,
    values_by_prompt,
)
from mopo_train.winrates import UNLABELLED_RATE, FloatArray, WinRates, max_by_prompt

LARGEST_MULTIPLIER = 1e6
"""A dual that wants more has no finite optimum for practical purposes."""
PRECISION = 1e-10
"""Largest violation of the optimality conditions of an accepted solution."""
EDGE = 1e-6
"""A floor beyond the attainable value by no more than this counts as met."""
MARGINS = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
"""Floors at the very edge of what can be attained are met to within the first of these with finite multipliers."""
NOTHING_OBSERVED = Lower(UNLABELLED_RATE, np.ones(0), np.inf)


class Solution(NamedTuple):
    """The optimum for given floors, or the tilt for given multipliers. Values are data win rates."""

    floors: dict[str, float]
    """As asked; for `tilt` the (robust) values attained."""
    multipliers: dict[str, float]
    """One per floor, >= 0; 0 where the floor does not bind.

    It belongs to the constraint averaged over all N prompts. A floor is on the mean over the n_k prompts that are
    labelled, so the multiplier is N / n_k times the floor's shadow price, the loss of the optimum per unit of floor.
    """
    ratio: FloatArray
    """(Y,) policy / reference; averages to 1 over each prompt's responses."""
    score: FloatArray
    """(Y,) s_lambda(x, y) with the robust t_k(x) folded in; the policy is reference x exp(score / tau), normalised."""
    predicted: dict[str, float]
    """Plain mean over the labelled prompts, for every objective."""
    robust: dict[str, float]
    """Worst reweighting of the prompts within the KL ball, on the win rates that chose the policy: what floors are
    checked on. Equals ``predicted`` at epsilon 0. No bound on anything: see `crossfit` for one."""
    chi: dict[str, float]
    """Temperature >= 0 of that reweighting, t proportional to exp(-v / chi); infinite at epsilon 0 (`robust.Lower`)."""
    kl: float
    """Nats, mean over prompts."""
    ess: float
    """In (0, 1], mean over prompts."""
    feasible: bool
    """False: no policy meets ``floors``; everything else belongs to ``nearest_floors``."""
    nearest_floors: dict[str, float]
    """Equal to ``floors`` when feasible."""
    primary: str = ""
    """The objective that was maximised."""
    conflict: tuple[str, ...] = ()
    """Where infeasible: floors that cannot be met together, though all but any one of them can."""
    predicted_low: dict[str, float] = {}
    """Cross-fitted lower bounds (`crossfit.with_bounds` fills them in); empty where the win rates are all there is."""


def solve(
    rates: WinRates, *, primary: str, floors: Mapping[str, float], tau: float, epsilon: float | None = None
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
    bounds = np.array(list(floors.values()), dtype=np.float64)
    reach = radius[[rates.column(name) for name in floors]]
    weights = _optimum(problem, bounds, reach)
    if weights is not None:
        return _solution(rates, problem, weights, radius, floors)._replace(primary=primary)
    nearest = nearest_feasible(problem, bounds, reach)
    weights = _near_optimum(problem, np.minimum(bounds, nearest.values), reach, nearest)
    solution = _solution(rates, problem, weights, radius, floors)._replace(primary=primary)
    if nearest.shortfall <= EDGE:
        return solution
    close = {name: float(min(floors[name], value)) for name, value in zip(floors, nearest.values, strict=True)}
    names = list(floors)
    at_odds = tuple(names[row] for row in conflicting(problem, bounds, reach, EDGE))
    return solution._replace(feasible=False, nearest_floors=close, conflict=at_odds)


def tilt(
    rates: WinRates, *, primary: str, multipliers: Mapping[str, float], tau: float, epsilon: float | None = None
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
    solution = _solution(rates, problem, weights, radius, {})
    attained = {name: solution.robust[name] for name in multipliers}
    exact = {name: float(value) for name, value in multipliers.items()}
    return solution._replace(floors=attained, nearest_floors=attained, multipliers=exact, primary=primary)


def attainable(rates: WinRates, epsilon: float | None = None) -> dict[str, float]:
    """Largest value that any policy attains, per objective; robust with the same ``epsilon`` as in `solve`."""
    return attainable_values(rates, radii(rates.labelled.sum(axis=0), epsilon))


def infeasible_message(solution: Solution, largest: Mapping[str, float]) -> str:
    """Why no policy meets the floors, and which floors to ask for instead."""

    def listed(values: Mapping[str, float]) -> str:
        return ", ".join(f"{name}={np.floor(value * 1e4) / 1e4:.4f}" for name, value in values.items())

    reason = ""
    if 1 < len(solution.conflict) < len(solution.floors):
        reason = f"{' and '.join(solution.conflict)} are at odds: no policy meets these without the others either. "
    elif len(solution.conflict) == 1 < len(solution.floors):
        reason = f"{solution.conflict[0]} alone is out of reach. "
    return (
        f"no policy meets the floors {listed(solution.floors)} (data win rate). {reason}"
        f"Attainable one at a time: {listed({name: largest[name] for name in solution.floors})}. "
        f"Nearest feasible floors: {listed(solution.nearest_floors)}."
    )


def check_problem(
    rates: WinRates, primary: str, constrained: Sequence[str], tau: float, epsilon: float | None
) -> FloatArray:
    """(K,) radius per objective. Raises for arguments that cannot be used."""
    if not (np.isfinite(tau) and tau > 0):
        raise FloorError(f"tau = {tau} cannot be used; it is the weight of the KL divergence and must be > 0")
    counts = rates.labelled.sum(axis=0)
    for name in (primary, *constrained):
        if counts[rates.column(name)] == 0:
            raise DataError(f"no row carries a label on '{name}', so it can be neither the primary nor have a floor")
    return radii(counts, epsilon)


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


def solve_plain(problem: Problem, bounds: FloatArray) -> FloatArray | None:
    """(m,) minimiser over multipliers >= 0 of tau mean log E exp(s / tau) - sum_k lambda_k n_k / N b_k.

    L-BFGS-B finds the neighbourhood and the active set, Newton's method with the exact Hessian (the mean covariance
    of the win rates under the policy, divided by tau) the optimum to `PRECISION`. None without a finite one.
    """
    part = problem.counts / problem.prompts  # (m,) share of the prompts that are labelled

    def value_and_slope(multipliers: FloatArray) -> tuple[float, FloatArray]:
        tilted = tilt_scores(problem, scores(problem, multipliers))
        slope = prompt_values(problem, tilted.share).sum(axis=1) / problem.prompts - part * bounds
        return float(tilted.log_partition.mean() - multipliers @ (part * bounds)), slope

    found = scipy.optimize.minimize(
        value_and_slope,
        np.zeros(len(bounds)),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, LARGEST_MULTIPLIER)] * len(bounds),
        options={"maxiter": 500, "ftol": 1e-12, "gtol": 1e-7},
    )
    multipliers, slope = found.x, value_and_slope(found.x)[1]
    for _ in range(100):
        violation = _violation(multipliers, slope)
        if violation <= PRECISION * part.min():
            return np.asarray(multipliers)
        step = _newton_step(problem, multipliers, slope)
        for halving in range(30):
            moved = np.clip(multipliers + step * 0.5**halving, 0.0, LARGEST_MULTIPLIER)
            moved_slope = value_and_slope(moved)[1]
            if _violation(moved, moved_slope) < violation:
                break
        else:
            return None
        multipliers, slope = moved, moved_slope
    return None


def _violation(multipliers: FloatArray, slope: FloatArray) -> float:
    """Largest violation of: slope >= 0, and slope = 0 where the multiplier is positive."""
    return float(np.where(multipliers > 0, np.abs(slope), np.maximum(-slope, 0.0)).max())


def _newton_step(problem: Problem, multipliers: FloatArray, slope: FloatArray) -> FloatArray:
    """(m,) Newton direction in the multipliers that may move."""
    tilted = tilt_scores(problem, scores(problem, multipliers))
    values = prompt_values(problem, tilted.share)
    hessian = covariances(problem, tilted.share, values).mean(axis=0) / problem.tau
    free = (multipliers > 0) | (slope < 0)
    step = np.zeros(len(multipliers))
    ridge = 1e-13 * max(float(np.trace(hessian)), 1e-280)
    block = hessian[np.ix_(free, free)] + ridge * np.eye(int(free.sum()))
    step[free] = -np.linalg.lstsq(block, slope[free], rcond=None)[0]
    return step


def _solution(
    rates: WinRates, problem: Problem, weights: FloatArray, radius: FloatArray, floors: Mapping[str, float]
) -> Solution:
    """Everything that follows from multipliers ``weights``: (m,), or (m, P) where they depend on the prompt."""
    tilted = tilt_scores(problem, scores(problem, weights))
    ratio = tilted.share / rates.mass
    by_prompt = values_by_prompt(rates, tilted.share)  # (K, P)
    predicted, robust, chi, multipliers = {}, {}, {}, {}
    for k, name in enumerate(rates.objectives):
        values = by_prompt[k, rates.labelled[:, k]]
        predicted[name] = float(values.mean()) if len(values) else UNLABELLED_RATE
        lower = lower_value(values, radius[k]) if len(values) else NOTHING_OBSERVED
        robust[name], chi[name] = lower.value, lower.temperature
    for row, name in enumerate(floors):
        weight = weights[row]
        multipliers[name] = float(weight if weight.ndim == 0 else weight[problem.labelled[row]].mean())
    moved = quality(rates, ratio)
    asked = {name: float(floor) for name, floor in floors.items()}
    return Solution(
        asked, multipliers, ratio, tilted.score, predicted, robust, chi, moved.kl, moved.ess, True, dict(asked)
    )
