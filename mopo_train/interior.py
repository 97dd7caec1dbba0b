"""Multipliers and worst reweightings together: a primal-dual interior-point method for robust floors.

With u_k(x) = lambda_k t_k(x) >= 0 the dual of the robust problem (design section 2) is convex:

    min_u  tau mean_x log E_ref exp((w_p + sum_k u_k w_k) / tau) - sum_k lambda_k b_k,     lambda_k = mean u_k,
    subject to  c_k(u) = epsilon_k lambda_k - mean u_k log(u_k / lambda_k) >= 0            (the KL ball)

with means over the prompts labelled on k. At the optimum, with a multiplier chi_k for the ball,

    v_k(x) + chi_k (log(u_k(x) / lambda_k) - epsilon_k) = b_k,    chi_k c_k = 0,

so u_k is proportional to exp(-v_k / chi_k). Newton steps on these conditions, with chi_k s_k = mu -> 0 and a slack s for
c, cost one small block per prompt (the covariance of the win rates) and a dense system of order 2m: time is linear
in the responses and the accuracy that of Newton's method. u is moved by its logarithm, so it may be as small as the
optimum wants. For given multipliers the same equations hold with b unknown and lambda fixed.
"""

from typing import NamedTuple

import numpy as np

from mopo_train.robust import lower_value
from mopo_train.tilting import Problem, covariances, prompt_values, scores, tilt_scores
from mopo_train.winrates import FloatArray

ITERATIONS = 200
LAST_BARRIER = 1e-12
PRECISION = 1e-10
"""Root mean square of the residuals of the optimality conditions at which the iteration stops."""
ACCEPTED = 1e-7
"""Largest error of a floor, computed independently of the iteration, in an accepted solution."""
LARGEST_MULTIPLIER = 1e6
NEGLIGIBLE = 1e-7
"""A multiplier below this whose floor holds with room belongs to a floor that does not bind."""


class _State(NamedTuple):
    logs: FloatArray
    """(m, P) log u; 0 where unlabelled."""
    chi: FloatArray
    """(m,)"""
    slack: FloatArray
    """(m,)"""
    bounds: FloatArray
    """(m,) floors; unknown where the multipliers are fixed."""


class _Residuals(NamedTuple):
    weights: FloatArray
    """(m, P) u; 0 where unlabelled."""
    means: FloatArray
    """(m,) lambda, mean of u."""
    share: FloatArray
    """(Y,)"""
    values: FloatArray
    """(m, P) v."""
    slopes: FloatArray
    """(m, P) log(u / lambda) - epsilon; 0 where unlabelled."""
    stationarity: FloatArray
    """(m, P)"""
    ball: FloatArray
    """(m,) c."""
    size: float
    """Root of the mean squares of all conditions."""


def solve_robust(problem: Problem, bounds: FloatArray, radius: FloatArray, start: FloatArray) -> FloatArray | None:
    """(m, P) u for robust floors ``bounds`` (m,) with ``radius`` > 0 (m,); None where no finite optimum is found.

    ``start`` (m,) are the plain multipliers.
    """
    weights = _iterate(problem, bounds, radius, np.maximum(start, 0.05), fixed=False)
    if weights is None:
        return None
    low = _lower_values(problem, weights, radius)
    means = weights.sum(axis=1) / problem.counts
    idle = (means < NEGLIGIBLE) & (low > bounds + ACCEPTED)
    weights[idle] = 0.0
    low = _lower_values(problem, weights, radius) if idle.any() else low
    error = np.where(idle | (means < NEGLIGIBLE), np.maximum(bounds - low, 0.0), np.abs(bounds - low))
    return weights if error.max() <= ACCEPTED else None


def tilt_robust(problem: Problem, multipliers: FloatArray, radius: FloatArray) -> FloatArray:
    """(m, P) u = lambda t for given multipliers (m,): t is the worst reweighting of the policy that u defines."""
    weights = np.zeros(problem.labelled.shape)
    used = multipliers > 0
    if used.any():
        found = _iterate(problem.keep(used), np.zeros(int(used.sum())), radius[used], multipliers[used], fixed=True)
        if found is None:
            raise ArithmeticError(f"no worst reweighting found for the multipliers {multipliers.tolist()}")
        weights[used] = found
    return weights


def _lower_values(problem: Problem, weights: FloatArray, radius: FloatArray) -> FloatArray:
    values = prompt_values(problem, tilt_scores(problem, scores(problem, weights)).share)
    return np.array([lower_value(values[k, problem.labelled[k]], radius[k]).value for k in range(len(radius))])


def _iterate(
    problem: Problem, bounds: FloatArray, radius: FloatArray, start: FloatArray, *, fixed: bool
) -> FloatArray | None:
    """u at the optimum, from u = ``start`` (m,); with ``fixed``, lambda stays ``start`` and the floors are unknown."""
    state = _first(problem, bounds, radius, start, fixed)
    barrier = float((state.chi * state.slack).mean())
    now = _residuals(problem, radius, state, barrier)
    for _ in range(ITERATIONS):
        if barrier <= LAST_BARRIER and now.size <= PRECISION:
            return now.weights
        if now.size <= 10 * barrier and barrier > LAST_BARRIER:
            barrier = max(LAST_BARRIER, 0.1 * barrier)
            now = _residuals(problem, radius, state, barrier)
        step = _newton(problem, state, now, barrier, fixed)
        moved = _move(problem, radius, state, step, now, barrier)
        if moved is None:
            return now.weights if barrier <= 1e-9 and now.size <= 1e-8 else None
        state, now = moved
        if now.means.max() > LARGEST_MULTIPLIER:
            return None
    return None


def _first(problem: Problem, bounds: FloatArray, radius: FloatArray, start: FloatArray, fixed: bool) -> _State:
    logs = np.where(problem.labelled, np.log(start)[:, None], 0.0)
    values = prompt_values(problem, tilt_scores(problem, scores(problem, start)).share)
    means = values.sum(axis=1) / problem.counts
    spread = np.sqrt((np.where(problem.labelled, values - means[:, None], 0.0) ** 2).sum(axis=1) / problem.counts)
    chi = np.maximum(spread, 0.01) / np.sqrt(2 * radius)
    return _State(logs, chi, radius * start, means if fixed else bounds)


def _residuals(problem: Problem, radius: FloatArray, state: _State, barrier: float) -> _Residuals:
    weights = np.where(problem.labelled, np.exp(state.logs), 0.0)
    means = weights.sum(axis=1) / problem.counts
    share = tilt_scores(problem, scores(problem, weights)).share
    values = prompt_values(problem, share)
    relative = np.where(problem.labelled, state.logs - np.log(means)[:, None], 0.0)  # log t
    slopes = np.where(problem.labelled, relative - radius[:, None], 0.0)
    stationarity = values + state.chi[:, None] * slopes - np.where(problem.labelled, state.bounds[:, None], 0.0)
    excess = np.where(problem.labelled, weights * relative - weights + means[:, None], 0.0)  # >= 0: no cancellation
    ball = radius * means - excess.sum(axis=1) / problem.counts
    squares = (stationarity**2).sum(axis=1) / problem.counts
    squares += (ball - state.slack) ** 2 + (state.chi * state.slack - barrier) ** 2
    return _Residuals(weights, means, share, values, slopes, stationarity, ball, float(np.sqrt(squares.mean())))


class _Step(NamedTuple):
    logs: FloatArray
    chi: FloatArray
    slack: FloatArray
    bounds: FloatArray


def _newton(problem: Problem, state: _State, now: _Residuals, barrier: float, fixed: bool) -> _Step:
    """Newton direction: per-prompt blocks are eliminated, a dense system in lambda, chi (and b) is left."""
    m = len(state.chi)
    covariance = covariances(problem, now.share, now.values) / problem.tau  # (P, m, m)
    root = np.sqrt(now.weights).T  # (P, m)
    scaled = root[:, :, None] * covariance * root[:, None, :]
    scaled[:, np.arange(m), np.arange(m)] += state.chi
    inverse = np.linalg.inv(scaled) if m > 1 else 1.0 / scaled
    response = root[:, :, None] * inverse * root[:, None, :]  # du for a unit change of the conditions
    slopes = now.slopes.T  # (P, m)
    moved = np.einsum("pkj,jp->pk", response, now.stationarity)
    count = problem.counts[:, None]
    flat = response.sum(axis=0) / count  # (k, j)
    right = np.einsum("pkj,pj->kj", response, slopes) / count
    left = np.einsum("pk,pkj->kj", slopes, response) / count
    both = np.einsum("pk,pkj,pj->kj", slopes, response, slopes) / count
    pull = state.chi / now.means
    chi = state.chi[:, None]
    system = np.block([[np.eye(m) - flat * pull, right], [-chi * left * pull, np.diag(state.slack) + chi * both]])
    target = np.concatenate(
        [
            -moved.sum(axis=0) / problem.counts,
            barrier - state.chi * now.ball - state.chi * (slopes * moved).sum(axis=0) / problem.counts,
        ]
    )
    if fixed:  # lambda does not move; b does
        system = np.block([[-flat, system[:m, m:]], [-chi * left, system[m:, m:]]])
    solution = np.linalg.lstsq(system, target, rcond=1e-15)[0]
    d_chi = solution[m:]
    d_means, d_bounds = (np.zeros(m), solution[:m]) if fixed else (solution[:m], np.zeros(m))
    drive = -now.stationarity.T + pull * d_means - slopes * d_chi + d_bounds  # (P, m)
    drive *= problem.labelled.T
    d_weights = np.einsum("pkj,pj->pk", response, drive)
    d_logs = (drive - np.einsum("pkj,pj->pk", covariance, d_weights)) / state.chi  # du / u without dividing by u
    d_slack = now.ball - state.slack - (slopes * d_weights).sum(axis=0) / problem.counts
    return _Step(d_logs.T * problem.labelled, d_chi, d_slack, d_bounds)


def _move(
    problem: Problem, radius: FloatArray, state: _State, step: _Step, now: _Residuals, barrier: float
) -> tuple[_State, _Residuals] | None:
    """The state after the longest acceptable step, or None where no step makes the residuals smaller."""
    longest = 1.0
    for value, change in ((state.chi, step.chi), (state.slack, step.slack)):
        falling = change < 0
        if falling.any():
            longest = min(longest, 0.995 * float((value[falling] / -change[falling]).min()))
    for halving in range(40):
        length = longest * 0.5**halving
        change = length * step.logs
        rising = np.log1p(np.maximum(change, 0.0))  # u grows linearly, shrinks exponentially: both first-order exact
        moved = _State(
            state.logs + np.where(change > 0, rising, change),
            state.chi + length * step.chi,
            state.slack + length * step.slack,
            state.bounds + length * step.bounds,
        )
        fresh = _residuals(problem, radius, moved, barrier)
        if fresh.size < (1 - 1e-4 * length) * now.size:
            return moved, fresh
    return None
