"""The search: which policy to look at next, and which to take. Pure: measuring is a function that it is given."""

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import NamedTuple

from mopo_eval.refine.candidates import Gap, Space, Trained

NEGLIGIBLE = 1e-9
"""Rounding of margins."""


class Look(NamedTuple):
    """What one policy measured."""

    policy: str
    margins: Mapping[str, float]
    """Certified lower bound minus floor, per floor; the error shared among the whole space."""
    primary: float
    """Mean judge score on the primary."""

    @property
    def worst(self) -> float:
        """The smallest margin."""
        return min(self.margins.values())

    @property
    def holds(self) -> bool:
        """True if every floor holds."""
        return self.worst >= 0


class Place(NamedTuple):
    """A policy inside a gap."""

    gap: Gap
    share: Fraction

    @property
    def id(self) -> str:
        """Its name in the family."""
        return self.gap.at(self.share)


Candidate = Place | Trained
Measure = Callable[[Candidate], Look]


class Outcome(NamedTuple):
    """How a search ended."""

    best: Look | None
    """The policy with the greatest primary that holds every floor."""
    candidate: Candidate | None
    """What ``best`` is, unless it was a member before."""
    looks: list[Look]
    """At candidates, in order."""
    closest: Look
    """The greatest ``worst`` of all, members included."""


def search(space: Space, members: Mapping[str, Look], measure: Measure, *, train: bool = True) -> Outcome:
    """Look for the greatest primary that holds every floor; ``members`` are the looks at the family as it is.

    Where a neighbour holds the floors and the other does not, the gap between them is halved towards the one that does
    not. Where none holds them, first a place between neighbours that miss different floors, then policies trained
    beyond. The number of looks is at most 1 + trainings + rounds. ``train`` False: nothing is trained beyond.
    """
    seen: dict[str, Look] = dict(members)
    tried: dict[str, Candidate] = {}
    looks: list[Look] = []

    def look(candidate: Candidate) -> Look:
        if candidate.id not in seen:
            seen[candidate.id] = measure(candidate)
            looks.append(seen[candidate.id])
            tried[candidate.id] = candidate
        return seen[candidate.id]

    bracket = _best_bracket(space, members)
    if bracket is None and not any(found.holds for found in members.values()):
        bracket = _inside(space, members, look) or (_beyond(space, look) if train else None)
    if bracket is not None:
        _halve(space, bracket, look)
    holding = [found for found in seen.values() if found.holds]
    best = min(holding, key=lambda found: (-found.primary, found.policy), default=None)
    closest = max(seen.values(), key=lambda found: (found.worst, found.primary))
    return Outcome(best, tried.get(best.policy) if best else None, looks, closest)


class _Bracket(NamedTuple):
    """A stretch of a gap with one end that holds the floors, and one that does not or has nothing to gain."""

    gap: Gap
    inside: Fraction
    """Share of the end that holds."""
    outside: Fraction


def _best_bracket(space: Space, members: Mapping[str, Look]) -> _Bracket | None:
    """The gap with the greatest primary where, by straight lines, the floors begin to hold."""
    found: list[tuple[float, _Bracket]] = []
    for gap in space.gaps:
        one, other = members[gap.first], members[gap.second]
        if one.holds == other.holds:
            continue
        holds, fails = (one, other) if one.holds else (other, one)
        part = holds.worst / (holds.worst - fails.worst)  # of the way from the one that holds
        crossing = holds.primary + part * (fails.primary - holds.primary)
        inside = Fraction(0) if one.holds else Fraction(1)
        found.append((crossing, _Bracket(gap, inside, 1 - inside)))
    if not found:
        return None
    crossing, bracket = max(found, key=lambda each: each[0])
    best = max((look.primary for look in members.values() if look.holds), default=float("-inf"))
    return bracket if crossing > best else None


def _inside(space: Space, members: Mapping[str, Look], look: Measure) -> _Bracket | None:
    """Try the place where, by straight lines, the worst floor is missed least, if that is between two neighbours."""
    best, found = max((look.worst for look in members.values()), default=float("-inf")), None
    for gap in space.gaps:
        one, other = members[gap.first], members[gap.second]
        for step in range(1, space.places + 1):
            share = Fraction(step, space.places + 1)
            worst = min(
                float(1 - share) * one.margins[name] + float(share) * other.margins[name] for name in one.margins
            )
            if worst > best + NEGLIGIBLE:
                best, found = worst, Place(gap, share)
    if found is None or not look(found).holds:
        return None
    first = members[found.gap.first].primary >= members[found.gap.second].primary
    return _Bracket(found.gap, found.share, Fraction(0 if first else 1))


def _beyond(space: Space, look: Measure) -> _Bracket | None:
    """Train further policies until one holds the floors; the gap is the one to the policy that they begin from."""
    for trained in space.trained:
        if look(trained).holds:
            return _Bracket(Gap(trained.origin, trained.id), Fraction(1), Fraction(0))
    return None


def _halve(space: Space, bracket: _Bracket, look: Measure) -> None:
    """Move the end that holds towards the other, by halves, to the finest places of the space."""
    finest = space.places + 1
    while abs(bracket.outside - bracket.inside) > Fraction(1, finest):
        middle = Fraction(round((bracket.inside + bracket.outside) / 2 * finest), finest)
        holds = look(Place(bracket.gap, middle)).holds
        bracket = bracket._replace(inside=middle) if holds else bracket._replace(outside=middle)
