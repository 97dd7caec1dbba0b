"""What floors decide: which policies are out, and which policy each profile gets. Pure decisions.

All floors here are judge scores or measured win rates against ``reference`` and are held against
``certified_low``; data win rates of the plan have no say.
"""

import math
from typing import NamedTuple

from dashboards.frames import FamilyView, dominated_policies
from mopo_eval.profiles import Floors, ThresholdProfile
from mopo_eval.selection import PolicyMargins, Selection, effective_floors, policy_margins, select


def held(bound: float, digits: int = 2) -> float:
    """The largest floor with so many digits that ``bound`` holds: rounded up, it would not."""
    scale = 10.0**digits
    return math.floor(scale * bound + 1e-9) / scale


class Standing(NamedTuple):
    """One policy under the floors."""

    policy: str
    holds: bool
    """True if its certified bounds clear every floor."""
    margins: PolicyMargins
    dominated: bool


class Outcome(NamedTuple):
    """The policy that one profile gets."""

    profile: str
    asks: ThresholdProfile
    selection: Selection

    @property
    def margins(self) -> PolicyMargins | None:
        """The margins of the chosen policy; None if there is none."""
        return next((row for row in self.selection.policies if row.id == self.selection.policy), None)


def binding_floors(view: FamilyView, floors: Floors) -> Floors:
    """``floors`` raised to the organisation's, without floors of zero, which exclude nothing."""
    chosen = effective_floors(view.profiles.organisation.floors, floors)
    return {name: floor for name, floor in chosen.items() if floor > 0}


def standings(view: FamilyView, floors: Floors) -> list[Standing]:
    """Every measured policy under ``floors`` and the organisation's, in the family's order."""
    asked = binding_floors(view, floors)
    dominated = dominated_policies(view)
    rows = []
    for policy, card in view.cards.items():
        if card is not None:
            margins = policy_margins(policy, card, asked, view.family.primary)
            held = all(margin is not None and margin >= 0 for margin in margins.margins.values())
            rows.append(Standing(policy, held, margins, policy in dominated))
    return rows


def choose(view: FamilyView, primary: str, floors: Floors) -> Selection:
    """The policy with the greatest mean on ``primary`` among those that hold ``floors`` and the organisation's."""
    asked = {name: floor for name, floor in floors.items() if floor > 0}
    return select(ThresholdProfile(primary=primary), view.cards, view.profiles.organisation.floors, asked)


def outcomes(view: FamilyView, floors: Floors) -> list[Outcome]:
    """The policy that each profile would get if ``floors`` were asked for on top of its own."""
    asked = {name: floor for name, floor in floors.items() if floor > 0}
    organisation = view.profiles.organisation.floors
    return [
        Outcome(name, profile, select(profile, view.cards, organisation, asked))
        for name, profile in view.profiles.profiles.items()
    ]
