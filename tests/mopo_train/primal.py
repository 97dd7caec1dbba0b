"""The primal problem in cvxpy: an independent check of every floor solver, for small problems only."""

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import cvxpy
import numpy as np

from mopo_train.winrates import BoolArray, FloatArray, WinRates, from_rates

cp: Any = cvxpy  # its own annotations are incomplete


class Primal(NamedTuple):
    share: FloatArray
    """(Y,) optimal probabilities."""
    objective: float
    prices: dict[str, float]
    """Dual variable of each floor; empty for robust floors."""


def solve_primal(
    rates: WinRates,
    *,
    primary: str,
    floors: Mapping[str, float],
    tau: float,
    radius: Mapping[str, float] | None = None,
    sigma: float | None = None,
) -> Primal:
    """Maximise (1/P) sum over labelled prompts of v_p - tau KL, subject to (robust) floors; all prompts in the KL.

    With ``sigma``, plus ``sigma`` times the logarithms of what the floors are exceeded by.
    """
    share = cp.Variable(rates.responses, nonneg=True)
    each = [slice(a, b) for a, b in zip(rates.starts[:-1], rates.starts[1:], strict=True)]
    constraints: list[Any] = [cp.sum(share[rows]) == 1 for rows in each]
    floor_constraints = {}
    slack = {name: cp.Variable(nonneg=True) if sigma else 0.0 for name in floors}
    for name, floor in floors.items():
        values = _values(rates, share, each, name)
        if radius is None:
            floor_constraints[name] = cp.sum(values) / values.size >= floor + slack[name]
        else:  # some chi > 0 with chi e^epsilon mean exp((floor - v) / chi) <= chi
            chi, excess = cp.Variable(nonneg=True), cp.Variable(values.size)
            constraints.append(cp.constraints.ExpCone(floor + slack[name] - values, chi * np.ones(values.size), excess))
            floor_constraints[name] = np.exp(radius[name]) * cp.sum(excess) / values.size <= chi
    divergence = cp.sum(cp.rel_entr(share, rates.mass)) / rates.prompts
    gain = cp.sum(_values(rates, share, each, primary)) / rates.prompts - tau * divergence
    gain += sum(sigma * cp.log(each) for each in slack.values()) if sigma else 0.0
    problem = cp.Problem(cp.Maximize(gain), constraints + list(floor_constraints.values()))
    exact = 1e-10 if radius is None else 1e-9
    with warnings.catch_warnings():  # it may not reach this precision; the tests say what they need
        warnings.filterwarnings("ignore", message="Solution may be inaccurate")
        problem.solve(solver="CLARABEL", tol_gap_abs=exact, tol_gap_rel=exact, tol_feas=exact)
    assert problem.status in ("optimal", "optimal_inaccurate"), problem.status
    prices = {} if radius else {name: float(found.dual_value) for name, found in floor_constraints.items()}
    return Primal(np.asarray(share.value), float(problem.value), prices)


def _values(rates: WinRates, share: Any, each: list[slice], name: str) -> Any:
    k = rates.objectives.index(name)
    return cp.hstack([rates.rates[rows, k] @ share[rows] for x, rows in enumerate(each) if rates.labelled[x, k]])


def random_rates(
    seed: int, *, prompts: int = 6, objectives: str = "abc", labelled: float = 1.0, mass: bool = False
) -> WinRates:
    """Win rates of 1 to 5 responses per prompt, uniform in [0, 1]; the first prompt is labelled on everything."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 6, prompts)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    carries: BoolArray = random.random((prompts, len(objectives))) < labelled
    carries[0] = True
    shares = np.concatenate([random.dirichlet(np.full(size, 2.0)) for size in sizes]) if mass else None
    values = random.random((starts[-1], len(objectives)))
    return from_rates(tuple(objectives), values, starts, labelled=carries, mass=shares)
