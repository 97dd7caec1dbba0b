"""Multipliers and worst reweightings together: a primal-dual interior-point method for robust floors.

With u_k(x) = lambda_k t_k(x) >= 0 the dual of the robust problem (design section 2) is convex:

    min_u  tau mean_x log E_ref exp((w_p + sum_k u_k w_k) / tau) - sum_k lambda_k b_k,     lambda_k = mean u_k,
    subject to  c_k(u) = epsilon_k lambda_k - mean u_k log(u_k / lambda_k) >= 0            (the KL ball)

with means over the prompts labelled on k. At the optimum, with a multiplier chi_k for the ball,

    v_k(x) + chi_k (log(u_k(x) / lambda_k) - epsilon_k) = b_k,    chi_k c_k = 0,

so u_k is proportional to exp(-v_k / chi_k). Newton steps on these conditions with chi_k s_k = mu sqrt(epsilon_k),
mu -> 0, and a slack s for c (scaled so that all conditions are of one order for small balls) cost one small block per
prompt (the covariance of the win rates) and a dense system of order 2m: time is linear in the responses and the
accuracy that of Newton's method. u is moved by its logarithm, so it may be as small as the optimum wants. With given
multipliers the same equations hold with lambda fixed and b unknown; the smallest largest shortfall is the same
problem without a primary, with tau -> 0, sum lambda = 1 and b unknown up to a shift.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from mopo_train.errors import FloorError
from mopo_train.robust import lower_value
from mopo_train.tilting import Problem, covariances, prompt_values, scores, tilt_scores
from mopo_train.winrates import BoolArray, FloatArray, max_by_prompt

ITERATIONS = 100
LAST_BARRIER = 1e-12
PRECISION = 1e-10
"""Root mean square of the residuals of the optimality conditions at which the iteration stops."""
LARGEST_FALL = 100.0
"""Of a logarithm of u in one step: from there on u is 0 for the policy."""
ROUNDED_BARRIER, ROUNDED = 1e-9, 1e-8
"""What still counts as converged where rounding stops the iteration earlier."""
ACCEPTED = 1e-7
"""Largest error of a floor, computed independently of the iteration, in an accepted solution."""
NEGLIGIBLE = 1e-9
"""Shortfall of a floor that counts as met without a multiplier."""
SMALL = 1e-3
"""A multiplier below this may belong to a floor that does not bind: the iteration is slow to find out."""
CLOSE = 1e-6
"""Distance of the bounds on the smallest shortfall at which the search for it stops."""
SUBSTITUTIONS = 30
"""Most passes of repeated substitution."""
SETTLED = 1e-11
"""Relative change of u at which repeated substitution stops."""
FIRST_SMOOTHING, LAST_SMOOTHING = 0.1, 1e-5
"""Weights of the divergence in the search for the smallest shortfall: it falls from the one to the other."""


class _State(NamedTuple):
    logs: FloatArray
    """(m, P) log u; 0 where unlabelled."""
    chi: FloatArray
    """(m,)"""
    slack: FloatArray
    """(m,)"""
    bounds: FloatArray
    """(m,) floors; unknown where the multipliers are fixed."""


class _Ties(NamedTuple):
    """Floors b + shifts @ y with unknown y, and what the multipliers must satisfy instead."""

    shifts: FloatArray
    """(m, q)"""
    sums: FloatArray
    """(q,) required sums of shifts x labelled share of the prompts x lambda."""


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
    weights = np.zeros(problem.labelled.shape)
    if (lower_values(problem, weights, radius) >= bounds - NEGLIGIBLE).all():
        return weights
    plain = np.where(problem.labelled, start[:, None], 0.0)
    binding = (start > 0) | (lower_values(problem, plain, radius) < bounds)
    found = _without(problem, bounds, radius, start, ~binding)
    if found is not None:
        return found
    last = _iterate(problem, bounds, radius, np.maximum(start, 0.05), None)
    found = _without(problem, bounds, radius, start, last.weights.sum(axis=1) / problem.counts < SMALL)
    if found is not None:
        return found
    if not last.converged:
        return None
    error = np.abs(bounds - lower_values(problem, last.weights, radius))
    return last.weights if error.max() <= ACCEPTED else None


def _without(
    problem: Problem, bounds: FloatArray, radius: FloatArray, start: FloatArray, idle: BoolArray
) -> FloatArray | None:
    """The optimum without the floors ``idle`` (m,), if these hold there all the same: then it is the optimum."""
    if not idle.any() or idle.all():
        return None
    fewer = solve_robust(problem.keep(~idle), bounds[~idle], radius[~idle], start[~idle])
    if fewer is None:
        return None
    weights = np.zeros(problem.labelled.shape)
    weights[~idle] = fewer
    holds = (lower_values(problem, weights, radius) >= bounds - NEGLIGIBLE)[idle]
    return weights if holds.all() else None


def tilt_robust(problem: Problem, multipliers: FloatArray, radius: FloatArray) -> FloatArray:
    """(m, P) u = lambda t for given multipliers (m,): t is the worst reweighting of the policy that u defines."""
    weights = np.zeros(problem.labelled.shape)
    used = multipliers > 0
    if not used.any():
        return weights
    part, reach = problem.keep(used), radius[used]
    settled = _settled(part, multipliers[used], reach)
    if settled is not None:
        weights[used] = settled
        return weights
    start: FloatArray = multipliers[used]
    found = _at(part, reach, multipliers[used], start)
    for power in range(12, -1, -1) if not found.converged else ():  # approach large multipliers from smaller ones
        found = _at(part, reach, multipliers[used] / 2.0**power, start / 2.0**power if power == 12 else start)
        if not found.converged:
            break
        start = found.weights * 2.0
    if not found.converged:
        raise FloorError(
            f"no worst reweighting found for multipliers {multipliers.tolist()} and epsilon {radius.tolist()}; "
            "use smaller multipliers, a smaller epsilon, or epsilon = 0 for plain floors."
        )
    weights[used] = found.weights
    return weights


def _settled(problem: Problem, multipliers: FloatArray, radius: FloatArray) -> FloatArray | None:
    """(m, P) u = lambda t by repeated substitution of t, the quick way for a small radius; None where it is slow.

    A small ball moves t little and t moves the policy less, so the map contracts quickly: five passes for 10,000
    prompts. Newton's method takes over where a pass does not at least halve the change.
    """
    weights = np.where(problem.labelled, multipliers[:, None], 0.0)
    last = np.inf
    for _ in range(SUBSTITUTIONS):
        values = prompt_values(problem, tilt_scores(problem, scores(problem, weights)).share)
        fresh = np.zeros_like(weights)
        for k, seen in enumerate(problem.labelled):
            fresh[k, seen] = multipliers[k] * lower_value(values[k, seen], float(radius[k])).weights
        change = float(np.abs(fresh - weights).max())
        weights = fresh
        if change <= SETTLED * float(multipliers.max()):
            return weights
        if change > 0.5 * last:
            return None
        last = change
    return None


def _at(problem: Problem, radius: FloatArray, multipliers: FloatArray, start: FloatArray) -> "_Found":
    ties = _Ties(np.eye(len(multipliers)), problem.counts / problem.prompts * multipliers)
    return _iterate(problem, np.zeros(len(multipliers)), radius, start, ties)


class _Found(NamedTuple):
    weights: FloatArray
    """(m, P) u."""
    converged: bool
    inside: bool
    """Every reweighting lies in its ball."""


class Shortfall(NamedTuple):
    """Bounds on the smallest largest shortfall to floors, and the values of a policy that attains the upper one."""

    low: float
    high: float
    values: FloatArray
    """(m,) robust values."""
    pressure: FloatArray
    """(m, P) u / tau of that policy, which is proportional to reference exp(sum_k pressure_k w_k)."""


def smallest_shortfall(problem: Problem, bounds: FloatArray, radius: FloatArray) -> Shortfall:
    """How far every policy misses some robust floor in ``bounds`` (m,): certified from both sides.

    Minimises the largest shortfall plus tau KL for falling tau. The policy gives the upper bound; its
    multipliers and reweightings give the lower one, since no policy exceeds the best response of every prompt.
    """
    part = problem.counts / problem.prompts
    weights = np.where(problem.labelled, 1 / part.sum(), 0.0)
    best = Shortfall(-np.inf, np.inf, np.zeros(len(bounds)), weights)
    tau, last, factor = FIRST_SMOOTHING, np.inf, 0.3
    while tau >= LAST_SMOOTHING and factor < 0.9 and best.high - best.low > CLOSE:
        smooth = replace(problem, base=np.zeros_like(problem.base), tau=tau)
        found = _iterate(smooth, bounds, radius, weights, _Ties(np.ones((len(bounds), 1)), np.ones(1)))
        if found.converged:
            weights, last, factor = found.weights, tau, max(0.1, factor**1.5)
            values = lower_values(smooth, weights, radius)
            high = float((bounds - values).max())
            low = _certified(smooth, weights, bounds) if found.inside else -np.inf
            best = best._replace(low=max(best.low, low))
            if high < best.high:
                best = best._replace(high=high, values=values, pressure=weights / tau)
        else:  # too far from the last solution: a shorter way
            factor **= 0.5
        tau = FIRST_SMOOTHING if np.isinf(last) else last * factor
    return best


def _certified(problem: Problem, weights: FloatArray, bounds: FloatArray) -> float:
    """A shortfall that no policy undercuts: the value of the multipliers against the best of all policies."""
    top = max_by_prompt(scores(problem, weights) - problem.base, problem.starts).mean()
    lagrangian = weights.sum(axis=1) / problem.prompts  # (m,) labelled share x lambda
    return float((lagrangian @ bounds - top) / lagrangian.sum())


def lower_values(problem: Problem, weights: FloatArray, radius: FloatArray) -> FloatArray:
    """(m,) robust values of the policy for multipliers ``weights`` (m, P)."""
    values = prompt_values(problem, tilt_scores(problem, scores(problem, weights)).share)
    return np.array([lower_value(values[k, problem.labelled[k]], radius[k]).value for k in range(len(radius))])


def _iterate(problem: Problem, bounds: FloatArray, radius: FloatArray, start: FloatArray, ties: _Ties | None) -> _Found:
    """Newton's iteration for u, from ``start`` (m,) or (m, P)."""
    state = _first(problem, bounds, radius, start)
    barrier = float((state.chi * state.slack / np.sqrt(radius)).mean())
    now = _residuals(problem, radius, state, barrier)
    for iteration in range(ITERATIONS):
        if barrier <= LAST_BARRIER and now.size <= PRECISION:
            break
        if now.size <= 10 * barrier and barrier > LAST_BARRIER:
            barrier = max(LAST_BARRIER, 0.1 * barrier)
            now = _residuals(problem, radius, state, barrier)
        step = _newton(problem, state, now, barrier * np.sqrt(radius), ties)
        moved = _move(problem, radius, state, step, barrier)
        if moved is None:
            break
        state, now = moved
        if (
            ties is None
            and iteration % 5 == 4
            and (now.ball >= 0).all()
            and _certified(problem, now.weights, bounds) > 0
        ):
            break  # no policy meets these floors
    converged = barrier <= ROUNDED_BARRIER and now.size <= ROUNDED
    return _Found(now.weights, converged, bool((now.ball >= 0).all()))


def _first(problem: Problem, bounds: FloatArray, radius: FloatArray, start: FloatArray) -> _State:
    each = np.broadcast_to(start if start.ndim == 2 else start[:, None], problem.labelled.shape)
    logs = np.where(problem.labelled, np.log(np.where(each > 0, each, 1e-300)), 0.0)
    weights = np.where(problem.labelled, each, 0.0)
    values = prompt_values(problem, tilt_scores(problem, scores(problem, weights)).share)
    means = values.sum(axis=1) / problem.counts
    spread = np.sqrt((np.where(problem.labelled, values - means[:, None], 0.0) ** 2).sum(axis=1) / problem.counts)
    chi = np.maximum(spread, 0.01) / np.sqrt(2 * radius)
    return _State(logs, chi, radius * weights.sum(axis=1) / problem.counts, bounds)


def _residuals(problem: Problem, radius: FloatArray, state: _State, barrier: float) -> _Residuals:
    weights = np.where(problem.labelled, np.exp(state.logs), 0.0)
    means = np.maximum(weights.sum(axis=1) / problem.counts, 1e-300)
    share = tilt_scores(problem, scores(problem, weights)).share
    values = prompt_values(problem, share)
    relative = np.where(problem.labelled, state.logs - np.log(means)[:, None], 0.0)  # log t
    slopes = np.where(problem.labelled, relative - radius[:, None], 0.0)
    stationarity = values + state.chi[:, None] * slopes - np.where(problem.labelled, state.bounds[:, None], 0.0)
    excess = np.where(problem.labelled, weights * relative - weights + means[:, None], 0.0)  # >= 0: no cancellation
    ball = radius * means - excess.sum(axis=1) / problem.counts
    visible = np.exp(np.minimum(relative, 0.0))  # where t -> 0 only t x residual matters
    squares = (visible * stationarity**2).sum(axis=1) / problem.counts
    squares += ((ball - state.slack) / radius) ** 2 + (state.chi * state.slack / np.sqrt(radius) - barrier) ** 2
    return _Residuals(weights, means, share, values, slopes, stationarity, ball, float(np.sqrt(squares.mean())))


class _Step(NamedTuple):
    logs: FloatArray
    chi: FloatArray
    slack: FloatArray
    bounds: FloatArray


def _newton(problem: Problem, state: _State, now: _Residuals, complementarity: FloatArray, ties: _Ties | None) -> _Step:
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
            complementarity - state.chi * now.ball - state.chi * (slopes * moved).sum(axis=0) / problem.counts,
        ]
    )
    if ties is not None:
        part = ties.shifts.T * (problem.counts / problem.prompts)  # (q, m)
        unknown = len(part)
        system = np.block(
            [
                [system, np.vstack([-flat @ ties.shifts, -chi * left @ ties.shifts])],
                [part, np.zeros((unknown, m + unknown))],
            ]
        )
        target = np.append(target, ties.sums - part @ now.means)
    solution = np.linalg.lstsq(system, target, rcond=1e-15)[0]
    d_means, d_chi = solution[:m], solution[m : 2 * m]
    d_bounds = np.zeros(m) if ties is None else ties.shifts @ solution[2 * m :]
    drive = -now.stationarity.T + pull * d_means - slopes * d_chi + d_bounds  # (P, m)
    drive *= problem.labelled.T
    d_weights = np.einsum("pkj,pj->pk", response, drive)
    d_logs = (drive - np.einsum("pkj,pj->pk", covariance, d_weights)) / state.chi  # du / u without dividing by u
    d_slack = now.ball - state.slack - (slopes * d_weights).sum(axis=0) / problem.counts
    return _Step(d_logs.T * problem.labelled, d_chi, d_slack, d_bounds)


def _move(
    problem: Problem, radius: FloatArray, state: _State, step: _Step, barrier: float
) -> tuple[_State, _Residuals] | None:
    """The state after the longest acceptable step, or None where no step makes the residuals smaller."""
    longest = 1.0
    for value, change in ((state.chi, step.chi), (state.slack, step.slack)):
        falling = change < 0
        if falling.any():
            longest = min(longest, 0.995 * float((value[falling] / -change[falling]).min()))
    size = _residuals(problem, radius, state, barrier).size
    for halving in range(40):
        length = longest * 0.5**halving
        change = np.maximum(length * step.logs, -LARGEST_FALL)
        rising = np.log1p(np.maximum(change, 0.0))  # u grows linearly, shrinks exponentially: both first-order exact
        moved = _State(
            state.logs + np.where(change > 0, rising, change),
            state.chi + length * step.chi,
            state.slack + length * step.slack,
            state.bounds + length * step.bounds,
        )
        with np.errstate(over="ignore", invalid="ignore"):  # a step that is far too long
            fresh = _residuals(problem, radius, moved, barrier)
        if fresh.size < (1 - 1e-4 * length) * size:
            return moved, fresh
    return None
