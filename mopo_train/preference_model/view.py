"""Win rates from a cross-fitted preference model, and what the labels say of policies that follow them.

The model of a prompt has seen none of its labels, so the policy that it chooses does not follow their noise, and the
labels value that policy without bias whatever the model has learnt: the model chooses, the labels judge
(`optimism.bounds_of_shares`). Uncertainty of the model is carried into floors that way: where the labels' lower bound
is below a floor that the model promises, the floor is raised for the model until the bound holds what was asked. A
wider KL ball would not do: a reweighting of prompts cannot express an error that the model makes on all of them.

A response is compared with a draw from its prompt's responses, itself included (a tie): 1/2 is parity with the
reference, and values are those of a policy that meets fresh answers of the reference. Labels compare a response with
the others only, which overstates differences by r / (r - 1) for r responses; labels are converted here, too.
Objectives keep the prompts that carry labels on them: what the model would say of other prompts cannot be checked.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mopo_train.formulation import Formulation, solve_floors
from mopo_train.optimism import bounds_of_shares
from mopo_train.preference_model.calibration import Fit, measure_fit
from mopo_train.preference_model.crossfit import CrossFit, labelled_pairs
from mopo_train.preference_model.strengths import logits, set_win_rates
from mopo_train.preferences import PreferenceData
from mopo_train.robust import Radius
from mopo_train.solution import Solution
from mopo_train.tilting import values_by_prompt
from mopo_train.winrates import UNLABELLED_RATE, Labelled, WinRates, win_rates

ATTEMPTS = 8
"""Times that floors are raised at most."""
HELD = 1e-3
"""A floor counts as held where the labels' bound is no further below it."""


class ModelView(NamedTuple):
    """What a preference model says of labelled data, and what the labels say of it."""

    data: Labelled
    rates: WinRates
    """Out-of-fold, with ``itself``."""
    labels: WinRates
    """Mean labels of the same responses, converted to meet themselves as a tie."""
    fits: dict[str, Fit | None] = {}
    """Per objective, how out-of-fold predictions fit the labels; None without labels."""

    def learnt(self, objective: str) -> bool:
        """True where the model surely predicts held-out labels better than a coin."""
        fit = self.fits.get(objective)
        return fit is not None and fit.gain.low > 0

    def bounded(self, points: Sequence[Solution], epsilon: Radius) -> list[Solution]:
        """``points`` of the model's win rates with ``bound`` by the labels.

        ``epsilon`` 0 takes the model at its word: the bound is then ``predicted`` itself.
        """
        if epsilon == 0:
            return [point._replace(bound=dict(point.predicted)) for point in points]
        share = self.labels.mass
        return [
            point._replace(bound=bounds_of_shares(self.data, self.labels, share * point.ratio, epsilon))
            for point in points
        ]

    def solve(self, floors: Mapping[str, float], form: Formulation) -> Solution:
        """`solve_floors` on the model's rates such that ``bound`` holds the floors, where that can be attained.

        Where no floors, however raised, make the labels' bound hold, the solution is marked infeasible and its nearest
        floors are the bounds that the best attempt reached. At radius 0 floors hold on the model's own values.
        """
        asked, raised = {name: float(value) for name, value in floors.items()}, dict(floors)
        tried: list[tuple[float, Solution]] = []
        for _ in range(ATTEMPTS):
            found = solve_floors(self.rates, raised, form)
            if form.epsilon == 0:
                return self.bounded([found], 0)[0]
            (point,) = self.bounded([found], form.epsilon)
            missing = {name: value - point.bound[name] for name, value in asked.items()}
            tried.append((max(missing.values()), point))
            if not found.feasible or max(missing.values()) <= HELD:
                break
            raised = {name: min(1.0, raised[name] + max(0.0, missing[name])) for name in raised}
        short, best = min(tried, key=lambda attempt: attempt[0])
        nearest = {name: min(asked[name], best.bound[name]) for name in asked}
        held = short <= HELD
        return best._replace(floors=asked, feasible=held, nearest_floors=asked if held else nearest)

    def values(self, point: Solution) -> dict[str, float]:
        """Per objective, the model's value of a policy that labels chose; parity without labels."""
        by_prompt = values_by_prompt(self.rates, self.rates.mass * point.ratio)  # (K, P)
        return {
            name: float(by_prompt[k, seen].mean()) if (seen := self.rates.labelled[:, k]).any() else UNLABELLED_RATE
            for k, name in enumerate(self.rates.objectives)
        }

    def document(self) -> dict[str, Any]:
        """How well the model fits held-out labels, as ``plan --json`` tells it."""
        return {
            name: None
            if fit is None
            else fit._asdict() | {"accuracy": fit.accuracy._asdict(), "gain": fit.gain._asdict()}
            for name, fit in self.fits.items()
        }


def model_view(data: PreferenceData, fitted: CrossFit) -> ModelView:
    """The view of a model that was cross-fitted to ``data``."""
    labels, pairs = win_rates(data), labelled_pairs(data)
    rates = labels._replace(rates=set_win_rates(fitted.strengths, labels.starts, leave_out=False), itself=True)
    z = logits(fitted.strengths, pairs.first, pairs.second)
    cluster = data.group[data.prompt]
    fits = {
        name: measure_fit(z[:, k], pairs.labels[:, k], pairs.weight, cluster) for k, name in enumerate(data.objectives)
    }
    return ModelView(data, rates, with_itself(labels), fits)


def with_itself(rates: WinRates) -> WinRates:
    """Rates against the other responses of a prompt as rates against all of them, a response a tie with itself."""
    if rates.itself:
        return rates
    own = rates.mass[:, None]  # (Y, 1)
    return rates._replace(rates=np.asarray(rates.rates * (1 - own) + own / 2), itself=True)
