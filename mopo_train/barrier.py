"""The log-barrier form (MOPO-LB): primary - tau KL + sigma sum_k phi(G_k - b_k) is maximised, with sigma falling.

phi is log z down to z0 = extended x sigma and, below, the parabola that continues it with two derivatives, so floors
may be violated anywhere, also at the start and also for good (a relaxed barrier: J. Hauser, A. Saccon, 2006). With nu_k
for the slope sigma phi'(z_k), conjugation gives a smooth convex problem in the multipliers alone:

    min over nu > 0 of  g(nu) + sigma sum_k phi*(nu_k / sigma),    phi*(q) = sup_z phi(z) - q z,

where g is the dual of the Lagrangian form with shadow prices nu_k = lambda_k n_k / N. Its optimality condition is that
the slack G_k - b_k equals z(nu_k / sigma), with z(q) = 1 / q, or 2 z0 - q z0^2 beyond q = 1 / z0; Newton's method
solves it. A floor that can be met is exceeded by sigma / nu_k, and the optimum misses the Lagrangian one by at most
sigma per floor. Floors that cannot be met are missed in the least-squares sense as sigma falls.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mopo_train.dual import EDGE, attained_by, solve_task, unmet
from mopo_train.errors import FloorError
from mopo_train.family import check_floors
from mopo_train.feasibility import nearest_feasible
from mopo_train.interior import lower_values, tilt_robust
from mopo_train.newton import LARGEST_MULTIPLIER
from mopo_train.robust import Radius
from mopo_train.solution import Solution, Task, check_problem
from mopo_train.tilting import Problem, make_problem, moments, scores, slices, tilt_scores
from mopo_train.winrates import FloatArray, WinRates, sum_by_prompt

SIGMA = 1e-4
"""Last weight of the barrier: what a floor may cost in the maximised objective beyond the Lagrangian form."""
FIRST, FALL = 0.1, 0.1
"""Weight that the barrier begins with, and the factor between one stage and the next."""
EXTENDED = 0.2
"""Slack, relative to sigma, below which the barrier is a parabola: prices to 1 / `EXTENDED` are a logarithm's."""
STEEP = 1e4
"""Price of a floor at which sigma stops falling: no policy meets the floors, or not with a price worth paying."""
PRECISION = 1e-10
"""Root mean square of the residuals, in data win rate, at which a stage is solved."""
DIFFERENCE = 1e-4
"""Relative step of a measured slope."""
ROUNDED = 1e-7
"""What still counts as solved where rounding, or the robust values' accuracy, stops the iteration earlier."""


def solve_barrier(
    rates: WinRates,
    *,
    primary: str,
    floors: Mapping[str, float],
    tau: float,
    epsilon: Radius = None,
    sigma: float = SIGMA,
) -> Solution:
    """As `dual.solve`, with the barrier instead of constraints; ``sigma`` > 0 is its last weight.

    Infeasible floors give the policy that the barrier settles on, ``feasible`` False, and ``nearest_floors`` in the
    sense of `dual.solve` (smallest largest shortfall). Raises FloorError and DataError as `dual.solve`.
    """
    if not (np.isfinite(sigma) and sigma > 0):
        raise FloorError(f"sigma = {sigma} cannot be used; it is the weight of the barrier and must be > 0")
    check_floors(floors, list(rates.objectives))
    radius = check_problem(rates, primary, list(floors), tau, epsilon)
    task = Task(rates, make_problem(rates, primary, list(floors), tau), radius, primary)
    if not floors:
        return solve_task(task, floors)
    names, bounds = list(floors), np.array(list(floors.values()), dtype=np.float64)
    reach = task.reach(names)
    found = barrier_multipliers(task.problem, bounds, reach, sigma)
    solution = attained_by(task, found.weights, dict(zip(names, found.multipliers.tolist(), strict=True)))
    asked = {name: float(floor) for name, floor in floors.items()}
    missed = [name for name in names if solution.predicted_low[name] < asked[name] - EDGE]
    solution = solution._replace(floors=asked, nearest_floors=dict(asked))
    if not missed:
        return solution
    nearest = nearest_feasible(task.problem, bounds, reach)
    return solution if nearest.shortfall <= EDGE else unmet(solution, task.problem, nearest, reach)


class Barred(NamedTuple):
    """The optimum of a barrier problem."""

    multipliers: FloatArray
    """(m,) lambda > 0."""
    weights: FloatArray
    """(m,), or (m, P) with robust floors: what the policy's score weighs the win rates with."""


def barrier_multipliers(
    problem: Problem, bounds: FloatArray, radius: FloatArray, sigma: float, start: FloatArray | None = None
) -> Barred:
    """The multipliers for floors ``bounds`` (m,) after all stages; ``start`` (m,) > 0 are those to begin with.

    Where it begins does not matter to where it ends: any policy will do, whether or not it holds the floors.
    """
    part = problem.counts / problem.prompts
    lam = np.ones(len(bounds)) if start is None else np.asarray(start, dtype=np.float64)
    at = _Evaluator(problem, radius)
    shape = _Shape(max(FIRST, sigma), EXTENDED)
    while True:
        lam = _newton(at, lam, bounds, part, shape)
        price = float((lam * part).max())
        if price > STEEP or (shape.sigma <= sigma and price <= 1 / shape.extended):
            return Barred(lam, at(lam).weights)
        if shape.sigma > sigma:
            shape = shape._replace(sigma=max(shape.sigma * FALL, sigma))
        else:  # a floor is dear but can be met: let the logarithm reach to its price
            shape = shape._replace(extended=shape.extended * FALL)


class _Shape(NamedTuple):
    """phi and its weight."""

    sigma: float
    extended: float
    """z0 / sigma."""

    def slack(self, price: FloatArray) -> FloatArray:
        """(m,) z at which the slope of sigma phi is ``price``."""
        edge = 1 / self.extended
        z0, log = self.extended * self.sigma, self.sigma / np.maximum(price, 1e-300)
        return np.where(price <= edge, log, 2 * z0 - price * z0 * self.extended)

    def slope(self, price: FloatArray) -> FloatArray:
        """(m,) derivative of `slack`, < 0."""
        log = -self.sigma / np.maximum(price, 1e-150) ** 2
        return np.where(price <= 1 / self.extended, log, -self.sigma * self.extended**2)


class _Values(NamedTuple):
    weights: FloatArray
    values: FloatArray
    """(m,) (robust) values."""
    slope: FloatArray
    """(m, m) derivative of the values in the multipliers; with robust floors at fixed reweightings, so a guess."""


class _Evaluator:
    """Values and their slope at given multipliers, with the reweightings of prompts solved for."""

    def __init__(self, problem: Problem, radius: FloatArray) -> None:
        self._problem, self._radius = problem, radius
        self.exact = not (radius > 0).any()
        self._parts = slices(problem)

    def __call__(self, multipliers: FloatArray) -> _Values:
        problem = self._problem
        if self.exact:
            sums = moments(self._parts, multipliers, curved=True)
            return _Values(multipliers, sums.values / problem.counts, sums.curvature / problem.counts[:, None])
        weights = tilt_robust(problem, multipliers, self._radius)
        share = tilt_scores(problem, scores(problem, weights)).share
        spread = weights / multipliers[:, None]  # (m, P) t
        pulled = problem.rates * spread[:, problem.prompt_of]
        centred = pulled - sum_by_prompt(pulled * share, problem.starts)[:, problem.prompt_of]
        slope = (centred * share) @ centred.T / problem.tau / problem.counts[:, None]
        return _Values(weights, lower_values(problem, weights, self._radius), slope)


def _newton(at: _Evaluator, lam: FloatArray, bounds: FloatArray, part: FloatArray, shape: _Shape) -> FloatArray:
    """(m,) the multipliers of one stage, from ``lam``: slack equal to what the barrier wants of it.

    Where the slope is a guess, steps improve it (Broyden's rank-one update); where that fails it is measured.
    """

    def residual(values: FloatArray, lam: FloatArray) -> FloatArray:
        return values - bounds - shape.slack(lam * part)

    now = at(lam)
    missed, slope, measured = residual(now.values, lam), now.slope, at.exact
    for _ in range(200):
        size = _size(missed)
        if size <= PRECISION:
            return lam
        step = -np.linalg.solve(slope - np.diag(shape.slope(lam * part) * part), missed)
        for halving in range(40 if measured else 6):
            moved = np.clip(lam + step * 0.5**halving, 0.1 * lam, LARGEST_MULTIPLIER)
            there = at(moved)
            fresh = residual(there.values, moved)
            if _size(fresh) < (1 - 1e-4 * 0.5**halving) * size:
                break
        else:
            if measured:
                break
            slope, measured = _measured(at, lam, now.values), True
            continue
        moves = moved - lam
        learnt = np.outer(there.values - now.values - slope @ moves, moves) / float(moves @ moves)
        slope = there.slope if at.exact else slope + learnt
        lam, now, missed, measured = moved, there, fresh, at.exact
    if float(np.abs(missed).max()) > ROUNDED:
        raise FloorError(
            f"the barrier found no optimum for floors {bounds.tolist()} (residual {np.abs(missed).max():.1e}); "
            "use the Lagrangian variant, a larger tau or a smaller epsilon."
        )
    return lam


def _measured(at: _Evaluator, lam: FloatArray, values: FloatArray) -> FloatArray:
    """(m, m) slope of the values by forward differences."""
    moves = DIFFERENCE * lam
    columns = [(at(lam + move).values - values) / move.sum() for move in np.diag(moves)]
    return np.stack(columns, axis=1)


def _size(missed: FloatArray) -> float:
    return float(np.sqrt(np.mean(missed**2)))
