"""What each step along the front costs: changes of the predicted values from one point to the next."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mopo_train.dual import Solution

VISIBLE = 0.0005
"""A smaller change of a data win rate is not told."""


class Step(NamedTuple):
    """From one point of a plan to the next; the fields are those of ``steps`` in ``plan --json``."""

    start: int
    end: int
    changes: dict[str, float]
    """Per objective, in data win rate."""
    rates: dict[str, float]
    """Per objective that falls, what it loses per unit gained by the one that gains most; empty where none gains."""
    text: str


def steps(points: Sequence[Solution]) -> list[Step]:
    """The steps between neighbours of ``points`` in the values that policies attain."""
    values = [point.attained or point.predicted for point in points]
    return [_step(index, before, after) for index, (before, after) in enumerate(zip(values, values[1:], strict=False))]


def _step(index: int, before: Mapping[str, float], after: Mapping[str, float]) -> Step:
    changes = {name: after[name] - before[name] for name in before}
    gains = {name: change for name, change in changes.items() if change >= VISIBLE}
    losses = {name: -change for name, change in changes.items() if change <= -VISIBLE}
    rates = {name: loss / max(gains.values()) for name, loss in losses.items()} if gains else {}
    return Step(index, index + 1, changes, rates, f"{index} to {index + 1}: {_told(gains, losses)}")


def _told(gains: Mapping[str, float], losses: Mapping[str, float]) -> str:
    gained = ", ".join(f"{name} +{change:.3f}" for name, change in gains.items())
    lost = ", ".join(f"{name} {change:.3f}" for name, change in losses.items())
    if gained and lost:
        return f"{gained} cost{'s' if len(gains) == 1 else ''} {lost}"
    if gained:
        return f"{gained} at no cost"
    return f"nothing gained for {lost}" if lost else "no visible change"
