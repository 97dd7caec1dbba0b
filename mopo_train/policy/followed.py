"""What a policy follows at a step: target, reference and what the dual said, renewed where the reference lags."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mopo_train.columns import mapped
from mopo_train.dual import Solution
from mopo_train.policy.lagged import Lag, lagged_step, next_floors, reweighted
from mopo_train.winrates import FloatArray, WinRates

Solve = Callable[[WinRates, Mapping[str, float]], Solution]
"""The dual for win rates and floors."""


class Target(NamedTuple):
    """What a policy should follow, per response (Y,)."""

    ratio: FloatArray
    """rho: policy / reference, averaging to 1 over each prompt's responses."""
    tilt: FloatArray
    """score / tau with the correction for in-set labels; only differences within a prompt matter."""
    level: FloatArray
    """Log of the ratio that ``tilt`` stands for, normalised over each prompt's responses."""


class Followed(NamedTuple):
    """What a policy follows between two refreshes."""

    target: Target
    reference: FloatArray
    """(Y,) log-probability of each response under the reference, in nats."""
    mass: FloatArray
    """(Y,) the reference's share of each response among those of its prompt."""
    point: Solution

    def columns(self) -> dict[str, float]:
        """What the log says of it."""
        point = self.point
        floors = point.floors if point.feasible else point.nearest_floors
        found = {f"floor.{name}": value for name, value in floors.items()}
        found |= {f"lambda.{name}": value for name, value in point.multipliers.items()}
        found |= {f"chi.{name}": value for name, value in point.chi.items()}
        return found | {f"predicted.{name}": value for name, value in point.predicted.items()}


class Refresh(NamedTuple):
    """How to renew what a policy follows."""

    lag: Lag
    solve: Solve
    work: Path
    """Where the policy's log-probabilities at earlier steps are kept, so that a killed run continues alike."""

    def keep(self, step: int, log_probability: FloatArray) -> None:
        """Keep those of the policy after ``step``, and of the refresh before."""
        path = self._path(step)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npy")
        np.save(partial, log_probability)
        partial.replace(path)
        self._path(step - 2 * self.lag.every).unlink(missing_ok=True)

    def at(self, step: int, first: Followed, rates: WinRates, tau: float) -> Followed:
        """What is followed from ``step`` on; ``first`` is what was followed from step 0 on."""
        earlier = lagged_step(step, self.lag)
        if not earlier:
            return first
        lagged: FloatArray = np.load(self._path(earlier))
        moved = reweighted(rates, lagged - first.reference)
        point = self.solve(moved, next_floors(moved, first.point.floors, self.lag))
        return Followed(make_target(point.ratio, point.score, tau, moved), lagged, moved.mass, point)

    def _path(self, step: int) -> Path:
        return self.work / f"lagged-{step}.npy"


def make_target(ratio: FloatArray, score: FloatArray, tau: float, rates: WinRates) -> Target:
    """The target of a solution: ``ratio`` and ``score`` (Y,) at ``tau``."""
    sizes = np.diff(rates.starts)  # (P,)
    number = np.repeat(sizes, sizes)  # (Y,) r of each response's prompt
    tilt = score / tau * (1.0 if rates.itself else (number - 1) / np.maximum(number, 1))
    top = np.repeat(np.maximum.reduceat(tilt, rates.starts[:-1]), sizes)
    normaliser = np.repeat(np.add.reduceat(np.exp(tilt - top) * rates.mass, rates.starts[:-1]), sizes)
    return Target(ratio, mapped(tilt), mapped(tilt - top - np.log(normaliser)))
