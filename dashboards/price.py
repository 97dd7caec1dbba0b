"""What a floor costs: the primary objective that each further 0.01 of floor takes along the measured front. Pure.

The decision rule is that of serving: of the policies whose certified bound clears the floor (and every other floor that
binds), the one with the greatest mean on the primary. So cost comes in steps, where one policy gives way to the next.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dashboards.matrix import ScoreMatrix
from mopo_eval.differences import Difference, paired_differences
from mopo_eval.profiles import Floors
from mopo_eval.scorecards import Scorecard
from mopo_eval.selection import certified_bound, holds

UNIT = 0.01
"""Prices are per this much of floor."""


class Step(NamedTuple):
    """A stretch of floors over which one policy serves."""

    policy: str
    begin: float
    """Floors above this one, up to and with ``end``; 0 belongs to the first step."""
    end: float
    """The policy's certified bound on the objective."""
    primary: float
    """Its mean on the primary."""
    lost: Difference | None
    """What the step before had more of the primary, on the same prompts; None for the first, or without judgements."""
    drop: float
    """The same from the means alone; 0 for the first step."""

    @property
    def price(self) -> float:
        """Primary per 0.01 of floor: the drop, spread over the floors that it buys."""
        return self.drop / (self.end - self.begin) * UNIT

    @property
    def price_interval(self) -> tuple[float, float] | None:
        """At the confidence of ``lost``."""
        if self.lost is None:
            return None
        share = UNIT / (self.end - self.begin)
        return self.lost.low * share, self.lost.high * share


def price_steps(cards: Sequence[Scorecard], primary: str, objective: str, others: Floors) -> list[Step]:
    """Which policy serves at which floor on ``objective``, from 0 to where no policy holds it.

    ``others``: floors that bind besides; one on ``objective`` itself does not matter. Empty where no policy holds them.
    """
    besides = {name: floor for name, floor in others.items() if name != objective}
    able = [card for card in cards if primary in card.objectives and objective in card.objectives]
    able = [card for card in able if holds(card, besides)]
    steps: list[Step] = []
    reached = 0.0
    while able:
        best = min(able, key=lambda card: (-card.objectives[primary].mean, card.policy))
        end = certified_bound(best, objective) or 0.0
        mean = best.objectives[primary].mean
        if end > reached:
            steps.append(Step(best.policy, reached, end, mean, None, steps[-1].primary - mean if steps else 0.0))
            reached = end
        able = [card for card in able if (certified_bound(card, objective) or 0.0) > reached]
    return steps


def with_intervals(steps: Sequence[Step], matrix: ScoreMatrix | None, primary: str, confidence: float) -> list[Step]:
    """The steps with paired differences of each policy to the one before, bootstrapped over the judged prompts."""
    if matrix is None or len(steps) < 2:
        return list(steps)
    values = matrix.complete([step.policy for step in steps], [primary])[:, 0]  # (steps, n)
    if values.shape[1] < 2:
        return list(steps)
    found = paired_differences(values[:-1], values[1:], confidence)
    return [steps[0], *(step._replace(lost=lost) for step, lost in zip(steps[1:], found, strict=True))]


def dearest(steps: Sequence[Step]) -> Step | None:
    """The step with the greatest price; None where no floor costs anything."""
    return max((step for step in steps if step.drop > 0), key=lambda step: step.price, default=None)


def staircase(steps: Sequence[Step], scores: Mapping[str, tuple[float, float]]) -> dict[str, list[float]]:
    """Corners of the best attainable primary over the floor: x, y, low and high; ``scores``: interval per policy."""
    corners: dict[str, list[float]] = {"x": [], "y": [], "low": [], "high": []}
    for step in steps:
        low, high = scores.get(step.policy, (np.nan, np.nan))
        for x in (step.begin, step.end):
            for name, value in zip(corners, (x, step.primary, low, high), strict=True):
                corners[name].append(value)
    return corners
