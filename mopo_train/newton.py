"""The plain dual as a problem in the multipliers alone, whatever evaluates it: arrays, or chunks that come and go."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.optimize

from mopo_train.tilting import Moments
from mopo_train.winrates import FloatArray

LARGEST_MULTIPLIER = 1e6
"""A dual that wants more has no finite optimum for practical purposes."""
PRECISION = 1e-10
"""Largest violation of the optimality conditions of an accepted solution."""

Evaluate = Callable[[FloatArray, bool], Moments]
"""Sums at given multipliers (m,), with the curvature or without."""


class Totals(NamedTuple):
    """What turns sums into means."""

    prompts: int
    counts: FloatArray
    """(m,) prompts labelled on each constrained objective."""


def minimise(
    evaluate: Evaluate, bounds: FloatArray, totals: Totals, start: FloatArray | None = None
) -> FloatArray | None:
    """(m,) minimiser over multipliers >= 0 of tau mean log E exp(s / tau) - sum_k lambda_k n_k / N b_k.

    L-BFGS-B finds the neighbourhood and the active set, Newton's method with the exact Hessian (the mean covariance
    of the win rates under the policy, divided by tau) the optimum to `PRECISION`. None without a finite one.
    """
    part = totals.counts / totals.prompts  # (m,) share of the prompts that are labelled

    def value_and_slope(multipliers: FloatArray) -> tuple[float, FloatArray]:
        at = evaluate(multipliers, False)
        value = at.log_partition / totals.prompts - float(multipliers @ (part * bounds))
        return value, at.values / totals.prompts - part * bounds

    found = scipy.optimize.minimize(
        value_and_slope,
        np.zeros(len(bounds)) if start is None else start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, LARGEST_MULTIPLIER)] * len(bounds),
        options={"maxiter": 500, "ftol": 1e-12, "gtol": 1e-7},
    )
    multipliers = np.asarray(found.x)
    at = evaluate(multipliers, True)
    for _ in range(100):
        slope = at.values / totals.prompts - part * bounds
        violation = _violation(multipliers, slope)
        if violation <= PRECISION * part.min():
            return multipliers
        step = _step(multipliers, slope, at.curvature / totals.prompts)
        for halving in range(30):
            moved = np.clip(multipliers + step * 0.5**halving, 0.0, LARGEST_MULTIPLIER)
            at = evaluate(moved, True)
            if _violation(moved, at.values / totals.prompts - part * bounds) < violation:
                break
        else:
            return None
        multipliers = moved
    return None


def _violation(multipliers: FloatArray, slope: FloatArray) -> float:
    """Largest violation of: slope >= 0, and slope = 0 where the multiplier is positive."""
    return float(np.where(multipliers > 0, np.abs(slope), np.maximum(-slope, 0.0)).max())


def _step(multipliers: FloatArray, slope: FloatArray, hessian: FloatArray) -> FloatArray:
    """(m,) Newton direction in the multipliers that may move."""
    free = (multipliers > 0) | (slope < 0)
    step = np.zeros(len(multipliers))
    ridge = 1e-13 * max(float(np.trace(hessian)), 1e-280)
    block = hessian[np.ix_(free, free)] + ridge * np.eye(int(free.sum()))
    step[free] = -np.linalg.lstsq(block, slope[free], rcond=None)[0]
    return step
