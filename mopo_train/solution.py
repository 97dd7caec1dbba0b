"""What a dual problem gives back: the policy, its values, and what to say where no policy meets the floors."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mopo_train.columns import mapped
from mopo_train.errors import DataError, FloorError
from mopo_train.robust import Lower, Radius, lower_value, radii
from mopo_train.tilting import Problem, quality, scores, tilt_scores, values_by_prompt
from mopo_train.winrates import UNLABELLED_RATE, FloatArray, WinRates

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
    """(Y,) policy / reference; averages to 1 over each prompt's responses (over all responses in the global form)."""
    score: FloatArray
    """(Y,) s_lambda(x, y) with the robust t_k(x) folded in; the policy is reference x exp(score / tau), normalised."""
    predicted: dict[str, float]
    """Plain mean over the labelled prompts, for every objective."""
    predicted_low: dict[str, float]
    """Worst reweighting of the prompts within the KL ball, on the win rates that chose the policy: what floors are
    checked on. Equals ``predicted`` at epsilon 0. No bound on anything: see `optimism` for one."""
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
    bound: dict[str, float] = {}
    """Lower bounds net of the labels' noise (`optimism.with_bounds` fills them in); empty without labels."""
    attained: dict[str, float] = {}
    """Only of the global form (`global_form`): what policies attain, which are normalised for each prompt."""


class Task(NamedTuple):
    """A dual problem and where it came from."""

    rates: WinRates
    problem: Problem
    radius: FloatArray
    """(K,) KL radius of the robust floors per objective."""
    primary: str

    def reach(self, names: Sequence[str]) -> FloatArray:
        """Radius of the objectives ``names``."""
        return self.radius[[self.rates.column(name) for name in names]]


def describe(
    task: Task, weights: FloatArray, floors: Mapping[str, float], *, score: FloatArray | None = None
) -> Solution:
    """Everything that follows from multipliers ``weights``: (m,), or (m, P) where they depend on the prompt."""
    rates, problem, radius = task.rates, task.problem, task.radius
    tilted = tilt_scores(problem, scores(problem, weights) if score is None else score)
    share = tilted.share * (rates.prompts / problem.prompts)  # the global form has one prompt for all
    ratio = share / rates.mass
    by_prompt = values_by_prompt(rates, share)  # (K, P)
    predicted, low, chi, multipliers = {}, {}, {}, {}
    for k, name in enumerate(rates.objectives):
        values = by_prompt[k, rates.labelled[:, k]]
        predicted[name] = float(values.mean()) if len(values) else UNLABELLED_RATE
        lower = lower_value(values, radius[k]) if len(values) else NOTHING_OBSERVED
        low[name], chi[name] = lower.value, lower.temperature
    for row, name in enumerate(floors):
        weight = weights[row]
        multipliers[name] = float(weight if weight.ndim == 0 else weight[problem.labelled[row]].mean())
    moved = quality(rates, ratio)
    asked = {name: float(floor) for name, floor in floors.items()}
    return Solution(
        floors=asked,
        multipliers=multipliers,
        ratio=mapped(ratio),
        score=mapped(tilted.score),
        predicted=predicted,
        predicted_low=low,
        chi=chi,
        kl=moved.kl,
        ess=moved.ess,
        feasible=True,
        nearest_floors=dict(asked),
        primary=task.primary,
    )


def infeasible_message(solution: Solution, largest: Mapping[str, float]) -> str:
    """Why no policy meets the floors, and which floors to ask for instead."""

    def listed(values: Mapping[str, float]) -> str:
        # rounded down, but for an error of the solver's size, which is far below what a floor may be missed by
        return ", ".join(f"{name}={np.floor(value * 1e4 + 1e-3) / 1e4:.4f}" for name, value in values.items())

    reason, at_odds = "", len(solution.conflict)
    if at_odds > 1:
        some, every = ("either", "both") if at_odds == 2 else (f"any {at_odds - 1} of these", "all")
        reason = f"{' and '.join(solution.conflict)} are at odds: {some} can be met, not {every}. "
    elif at_odds == 1 < len(solution.floors):
        reason = f"{solution.conflict[0]} alone is out of reach. "
    return (
        f"no policy meets the floors {listed(solution.floors)} (data win rate). {reason}"
        f"Attainable one at a time: {listed({name: largest[name] for name in solution.floors})}. "
        f"Nearest feasible floors: {listed(solution.nearest_floors)}."
    )


def check_problem(rates: WinRates, primary: str, constrained: Sequence[str], tau: float, epsilon: Radius) -> FloatArray:
    """(K,) radius per objective. Raises for arguments that cannot be used."""
    if not (np.isfinite(tau) and tau > 0):
        raise FloorError(f"tau = {tau} cannot be used; it is the weight of the KL divergence and must be > 0")
    counts = rates.labelled.sum(axis=0)
    for name in (primary, *constrained):
        if counts[rates.column(name)] == 0:
            raise DataError(f"no row carries a label on '{name}', so it can be neither the primary nor have a floor")
    return radii(counts, epsilon)
