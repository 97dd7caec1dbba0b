"""Starter profiles from a measurement: floors that the family certifiably holds, for a team to edit."""

import math
from collections.abc import Callable, Iterable, Mapping

from mopo_eval.profiles import ProfileFile, ThresholdProfile
from mopo_eval.scorecards import Scorecard
from mopo_eval.selection import select

ENDINGS = {"ness": "", "tuality": "tual", "fety": "fe"}
"""Endings of objectives and of their adjectives: helpfulness, factuality, safety."""
COMMENT = (
    "Proposed by mopo-eval from its measurement; edit freely, it is never overwritten.\n"
    "# Floors are judge scores in [0, 1] (NAME.win_rate: win rates against the reference), held against certified_low."
)
Bound = Callable[[Scorecard], float]


def propose_profiles(cards: Mapping[str, Scorecard], front: Iterable[str], primary: str) -> ProfileFile:
    """Profiles that each select a policy of ``front``, a different one each where the family allows.

    One maximises ``primary`` without floors, one holds balanced floors on all other objectives, and one per other
    objective is strict on it. Floors are ``certified_low`` of a policy on the front, rounded down to 0.01, so that the
    policy holds them. ``cards`` are measured on ``primary`` and share their objectives. Raises ValueError otherwise.
    """
    if not all(primary in card.objectives for card in cards.values()):
        raise ValueError(f"no measured '{primary}', which decides among policies; give it a judge")
    candidates = [cards[name] for name in sorted(front)]
    others = [name for name in candidates[0].objectives if name != primary]
    plain = ThresholdProfile(primary=primary)
    taken = {select(plain, cards).policy}
    strict: dict[str, ThresholdProfile] = {}
    for name in others:
        ranked = sorted(candidates, key=_certified(name), reverse=True)
        strict[f"strict-{_slug(name)}"] = _distinct([_profile(card, [name], primary) for card in ranked], cards, taken)
    ranked = sorted(candidates, key=_balance(candidates, [primary, *others]), reverse=True)
    balanced = {}
    if others:
        balanced["balanced"] = _distinct([_profile(card, others, primary) for card in ranked], cards, taken)
    return ProfileFile(profiles={most_name(primary): plain, **balanced, **strict})


def most_name(objective: str) -> str:
    """Name of the profile that only maximises ``objective``: ``most-helpful`` for helpfulness."""
    for ending, adjective in ENDINGS.items():
        if objective.endswith(ending):
            return f"most-{_slug(objective.removesuffix(ending) + adjective)}"
    return f"best-{_slug(objective)}"


def round_down(bound: float) -> float:
    """``bound`` rounded down to 0.01, never above it."""
    hundredths = math.floor(bound * 100 + 1e-9)  # 0.29 * 100 is 28.999...
    return hundredths / 100 if hundredths / 100 <= bound else (hundredths - 1) / 100


def _profile(card: Scorecard, objectives: list[str], primary: str) -> ThresholdProfile:
    floors = {name: round_down(card.objectives[name].certified_low) for name in objectives}
    return ThresholdProfile(primary=primary, floors={name: floor for name, floor in floors.items() if floor > 0})


def _distinct(
    profiles: list[ThresholdProfile], cards: Mapping[str, Scorecard], taken: set[str | None]
) -> ThresholdProfile:
    """The first profile whose policy no other profile has ``taken``, or the first; adds its policy to ``taken``."""
    chosen = next((profile for profile in profiles if select(profile, cards).policy not in taken), profiles[0])
    taken.add(select(chosen, cards).policy)
    return chosen


def _certified(objective: str) -> Bound:
    return lambda card: card.objectives[objective].certified_low


def _balance(candidates: list[Scorecard], objectives: list[str]) -> Bound:
    """The smallest of a card's bounds, each scaled to 0 at the candidates' worst and 1 at their best."""
    worst = {name: min(map(_certified(name), candidates)) for name in objectives}
    reach = {name: max(map(_certified(name), candidates)) - worst[name] for name in objectives}
    varying = [name for name in objectives if reach[name] > 0]

    def balance(card: Scorecard) -> float:
        return min(((_certified(name)(card) - worst[name]) / reach[name] for name in varying), default=0.0)

    return balance


def _slug(objective: str) -> str:
    return objective.replace("_", "-")
