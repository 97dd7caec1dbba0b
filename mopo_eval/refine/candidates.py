"""The policies that a search may visit: fixed by the family and two numbers before anything is measured. Pure."""

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from mopo_eval.certificate import sequence
from mopo_eval.profiles import Floors
from mopo_train.family import INTERPOLATED, REFERENCE, Policy, PolicyFamily, between_id

LEAST_MULTIPLIER = 0.25
"""What a multiplier of 0 counts as before it is doubled."""


class Trained(NamedTuple):
    """A policy that is trained for more of the floored objectives than ``origin``."""

    origin: str
    factor: int
    """Of the origin's multipliers on these objectives."""

    @property
    def id(self) -> str:
        """Its name in the family."""
        return f"{self.origin}-x{self.factor}"


class Gap(NamedTuple):
    """The way between two policies."""

    first: str
    second: str

    def at(self, share: Fraction) -> str:
        """Name of the policy at ``share`` in (0, 1) of the way; it tells the way to a further training from others."""
        name, further = between_id(self.first, float(share)), self.second.removeprefix(self.first)
        return f"{name}{further}" if further.startswith("-x") else name


class Space(NamedTuple):
    """Everything that the search may visit."""

    gaps: list[Gap]
    """Between neighbours of the family, in its order."""
    trained: list[Trained]
    """Beyond the planned-safest policy, each further than the one before."""
    rounds: int
    """Each gap is halved so often: 2^rounds - 1 places."""

    @property
    def places(self) -> int:
        """Policies inside one gap."""
        return (1 << self.rounds) - 1

    @property
    def size(self) -> int:
        """Policies that the search could try, visited or not."""
        return len(self.gaps) * self.places + len(self.trained) * (1 + self.places)


def search_space(family: PolicyFamily, floors: Floors, *, rounds: int, trainings: int) -> Space:
    """What a search for ``floors`` may visit; depends on the plan, never on scores.

    New policies are trained from the one that the plan holds safest for the floors, with its multipliers on the floored
    objectives doubled, then doubled again: it has none to train for where the only floor is on the primary.
    """
    members = [policy for policy in family.policies if policy.kind not in (REFERENCE, INTERPOLATED) and policy.adapter]
    members = [policy for policy in members if "-x" not in policy.id]
    gaps = [Gap(one.id, other.id) for one, other in zip(members, members[1:], strict=False)]
    raised = raised_objectives(family, floors)
    planned = {policy.id: policy.predicted for policy in members if policy.predicted}
    if not raised or not planned:
        trainings = 0
    origin = sequence(planned, {name: 0.0 for name in raised})[0] if trainings else ""
    return Space(gaps, [Trained(origin, 2**level) for level in range(1, trainings + 1)], rounds)


def raised_objectives(family: PolicyFamily, floors: Floors) -> list[str]:
    """Objectives with a floor that training can give more weight: all but the primary."""
    return sorted({name.partition(".")[0] for name in floors} - {family.primary})


def raised_multipliers(origin: Policy, objectives: Sequence[str], factor: int) -> dict[str, float]:
    """The multipliers of ``origin`` with those on ``objectives`` times ``factor``."""
    raised = {name: factor * max(origin.multipliers.get(name, 0.0), LEAST_MULTIPLIER) for name in objectives}
    return {**origin.multipliers, **raised}
