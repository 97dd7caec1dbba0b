"""Whether profiles are held: the decision of ``selection``, floor by floor, for people and for continuous integration.

A profile is held when some policy's certified bounds clear every effective floor. What a profile serves where none
does (``on_infeasible``) is told, but does not make a missed floor held. No files here.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from mopo_eval.profiles import Floors, ThresholdProfile
from mopo_eval.scorecards import Scorecard
from mopo_eval.selection import Selection, select

Outcome = Literal["held", "missed", "not measured"]
ROUNDING = 1e-6
UNITS = {"": "judge score", "win_rate": "win rate against the reference"}


class FloorCheck(NamedTuple):
    """One effective floor, held against one policy."""

    floor_name: str
    """An objective, or ``objective.win_rate``."""
    floor: float
    certified_low: float | None
    """None where it was not measured."""
    margin: float | None
    """``certified_low`` - ``floor``."""

    @property
    def objective(self) -> str:
        """The objective that the floor is on."""
        return self.floor_name.partition(".")[0]

    @property
    def unit(self) -> str:
        """The unit of floor, bound and margin."""
        return UNITS[self.floor_name.partition(".")[2]]

    @property
    def outcome(self) -> Outcome:
        """A bound equal to the floor holds it."""
        if self.margin is None:
            return "not measured"
        return "held" if self.margin >= 0 else "missed"

    def sentence(self) -> str:
        """Everything about it in one line."""
        if self.certified_low is None or self.margin is None:
            return f"{self.objective}: {self.unit} was not measured; floor {self.floor:g}"
        return (
            f"{self.objective}: {self.unit}, certified_low {self.certified_low:.4f}, floor {self.floor:g}, "
            f"margin {self.margin:+.4f}: {self.outcome}"
        )


class Verdict(NamedTuple):
    """Whether one profile is held."""

    name: str
    """The profile's, or ``floors`` for floors of the command line."""
    primary: str
    selection: Selection
    policy: str | None
    """Whose bounds are shown: the policy that is served, else the closest; None where none was measured, and for a
    mixture, whose bounds are averages."""
    checks: list[FloorCheck]
    """One per effective floor."""

    @property
    def objectives(self) -> list[str]:
        """Those of which a number is shown."""
        return list(dict.fromkeys([self.primary, *(check.objective for check in self.checks)]))

    @property
    def outcome(self) -> Outcome:
        """``not measured`` if no policy was measured on the primary and every floor."""
        if self.selection.feasible:
            return "held"
        return "missed" if self.selection.closest is not None else "not measured"


def decide(
    name: str, profile: ThresholdProfile, cards: Mapping[str, Scorecard | None], organisation: Floors
) -> Verdict:
    """Whether the family whose ``cards`` are given by policy id (None: not measured) holds ``profile``."""
    found = select(profile, cards, binding=organisation)
    if (expected := found.expected) is not None:
        averages = [
            FloorCheck(key, floor, expected[key], _margin(expected[key], floor)) for key, floor in found.floors.items()
        ]
        return Verdict(name, profile.primary, found, None, averages)
    policy = found.policy or found.closest
    row = next((row for row in found.policies if row.id == policy), None)
    checks = [
        FloorCheck(floor_name, floor, row and row.certified[floor_name], row and row.margins[floor_name])
        for floor_name, floor in found.floors.items()
    ]
    return Verdict(name, profile.primary, found, policy, checks)


def _margin(average: float, floor: float) -> float:
    """By how much a mixture's average clears a floor; the rounding of the program that made it is no violation."""
    margin = average - floor
    return 0.0 if abs(margin) < ROUNDING else margin


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """The verdict as a program reads it."""
    return {
        "profile": verdict.name,
        "outcome": verdict.outcome,
        "primary": verdict.primary,
        "policy": verdict.selection.policy,
        "weights": verdict.selection.weights,
        "checked_policy": verdict.policy,
        "reason": verdict.selection.reason,
        "floors": [
            {"name": check.floor_name, "objective": check.objective, "unit": check.unit}
            | {"floor": check.floor, "certified_low": check.certified_low, "margin": check.margin}
            | {"outcome": check.outcome}
            for check in verdict.checks
        ],
    }
