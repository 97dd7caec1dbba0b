"""Which policy a threshold profile selects: pure decisions over measured scores.

A floor holds for a policy when the policy's ``certified_low`` clears it, so the decision stays valid for
floors that somebody chose after seeing the scores. No files, clocks or sockets here. ``select`` tells all that a
person may ask; ``Selector`` gives the same policy in microseconds.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from mopo_eval.mixture import best_mixture
from mopo_eval.profiles import Floors, ThresholdProfile
from mopo_eval.scorecards import Scorecard


class PolicyMargins(NamedTuple):
    """How far one policy clears each floor."""

    id: str
    certified: dict[str, float | None]
    """Certified lower bound that each floor is held against; None where it was not measured."""
    margins: dict[str, float | None]
    """``certified`` minus the effective floor."""
    meets: bool
    """True if every floor and the primary were measured, every floor holds, and the policy is not suspended."""
    primary: float | None
    """Measured mean on the profile's primary objective."""
    suspended: bool = False
    """True if what users saw of it keeps it from serving this profile."""

    @property
    def worst(self) -> float:
        """The smallest margin; minus infinity if something was not measured."""
        if self.primary is None or any(margin is None for margin in self.margins.values()):
            return float("-inf")
        return min((margin for margin in self.margins.values() if margin is not None), default=0.0)


class Selection(NamedTuple):
    """The policy that serves a profile, and why."""

    policy: str | None
    """None: the profile is infeasible and no fallback is allowed. Of a mixture: the largest component."""
    feasible: bool
    """True if ``policy`` holds every effective floor, or the mixture does on average."""
    floors: Floors
    """Effective floors."""
    policies: list[PolicyMargins]
    """Every policy, by id."""
    closest: str | None
    """The policy with the smallest largest violation; None if none was measured."""
    reason: str
    """One sentence for the person who asks why."""
    weights: dict[str, float] | None = None
    """Share of each policy that has one in a mixture, summing to 1; None where one policy answers."""

    @property
    def served(self) -> str | None:
        """Who answers, for a person: a policy, or every component of a mixture with its share."""
        if self.weights is None:
            return self.policy
        return ", ".join(f"{share:.1%} {policy}" for policy, share in self.weights.items())

    @property
    def expected(self) -> dict[str, float] | None:
        """What a mixture's certified bounds come to on average, per floor name; None where one policy answers."""
        if self.weights is None:
            return None
        rows = {row.id: row for row in self.policies}
        return {
            name: sum(share * (rows[policy].certified[name] or 0.0) for policy, share in self.weights.items())
            for name in self.floors
        }


class Selector:
    """A family's measured scores, arranged so that a decision takes microseconds."""

    def __init__(self, cards: Mapping[str, Scorecard | None]) -> None:
        known = {policy: card for policy, card in sorted(cards.items()) if card is not None}
        objectives = {objective for card in known.values() for objective in card.objectives}
        self._ranked = {
            primary: sorted(
                (policy for policy, card in known.items() if primary in card.objectives),
                key=lambda policy: (-known[policy].objectives[primary].mean, policy),  # noqa: B023 - used at once
            )
            for primary in objectives
        }
        names = [name for objective in objectives for name in (objective, f"{objective}.win_rate")]
        self._bounds: dict[str, dict[str, float]] = {name: {} for name in names}
        for name, bounds in self._bounds.items():
            for policy, card in known.items():
                bound = certified_bound(card, name)
                bounds[policy] = -1.0 if bound is None else bound  # below every floor

    def best(self, primary: str, floors: Floors, suspended: Collection[str] = ()) -> str | None:
        """The policy that ``select`` picks where one holds every floor; None where none does."""
        try:
            held = [(self._bounds[name], floor) for name, floor in floors.items()]
        except KeyError:  # nobody was measured on it
            return None
        for policy in self._ranked.get(primary, ()):
            if policy in suspended:
                continue
            for bounds, floor in held:
                if bounds[policy] < floor:
                    break
            else:
                return policy
        return None


def effective_floors(*layers: Floors) -> Floors:
    """The largest floor that any layer (organisation, key, profile, request) asks for, per name."""
    floors: Floors = {}
    for layer in layers:
        for name, floor in layer.items():
            if name not in floors or floor > floors[name]:
                floors[name] = floor
    return floors


def certified_bound(card: Scorecard | None, floor_name: str) -> float | None:
    """``certified_low`` that a floor called ``floor_name`` is held against; None where not measured."""
    objective, _, metric = floor_name.partition(".")
    score = card.objectives.get(objective) if card else None
    if score is None:
        return None
    return score.win_rate.certified_low if metric == "win_rate" else score.certified_low


def best_attainable(cards: Iterable[Scorecard], floor_names: Iterable[str]) -> dict[str, float | None]:
    """The largest certified bound of any policy per floor name: no profile can ask for more."""
    known = list(cards)
    best: dict[str, float | None] = {}
    for name in floor_names:
        bounds = [bound for card in known if (bound := certified_bound(card, name)) is not None]
        best[name] = max(bounds, default=None)
    return best


def holds(card: Scorecard | None, floors: Floors) -> bool:
    """True if the card's certified bounds clear every one of ``floors``."""
    return all((bound := certified_bound(card, name)) is not None and bound >= floor for name, floor in floors.items())


def policy_margins(
    policy: str, card: Scorecard | None, floors: Floors, primary: str, *, suspended: bool = False
) -> PolicyMargins:
    """How far ``policy`` clears each of ``floors``."""
    bounds = {name: certified_bound(card, name) for name in floors}
    margins = {name: None if bound is None else bound - floors[name] for name, bound in bounds.items()}
    score = card.objectives.get(primary) if card else None
    return PolicyMargins(
        id=policy,
        certified=bounds,
        margins=margins,
        meets=score is not None and holds(card, floors) and not suspended,
        primary=None if score is None else score.mean,
        suspended=suspended,
    )


def select(
    profile: ThresholdProfile,
    cards: Mapping[str, Scorecard | None],
    binding: Floors | None = None,
    requested: Floors | None = None,
    suspended: Collection[str] = (),
    kept: Floors | None = None,
) -> Selection:
    """The policy that serves ``profile``, of the family whose ``cards`` are given by policy id (None: not measured).

    Among the policies that hold every effective floor the greatest mean on the primary wins, ties by id; a
    ``mixture`` may do better, holding the floors on average. ``binding`` are the organisation's and the key's floors,
    which every fallback and every component of a mixture must hold too; ``requested`` are floors stated in the
    request; ``suspended`` policies serve nobody. Where no policy holds every floor, ``profile.on_infeasible`` decides,
    among the policies that also hold the floors ``kept``.
    """
    binding = binding or {}
    floors = effective_floors(binding, profile.floors, requested or {})
    table = [
        policy_margins(policy, cards[policy], floors, profile.primary, suspended=policy in suspended)
        for policy in sorted(cards)
    ]
    allowed = [row for row in table if holds(cards[row.id], binding) and not row.suspended]
    measured = [row for row in table if row.worst > float("-inf")]
    closest = min((row for row in measured if not row.suspended), key=_distance, default=None)
    nearest = closest.id if closest else None
    if profile.selection == "mixture" and (mixed := _mixed(allowed, floors)) is not None:
        top = max(sorted(mixed), key=lambda policy: mixed[policy])
        found = Selection(top, True, floors, table, nearest, "", mixed)
        return found._replace(reason=_mixture_reason(found, profile.primary))
    meeting = [row for row in table if row.meets]
    if meeting:
        best = min(meeting, key=lambda row: (-(row.primary or 0.0), row.id))
        among = (
            f"of the {len(meeting)} policies that hold every floor" if floors else "of all policies; no floor is set"
        )
        reason = f"{best.id} has the greatest {profile.primary}, {best.primary:.3f}, {among}"
        if floors and len(meeting) == 1:
            reason = f"{best.id} is the only policy that holds every floor; {profile.primary} {best.primary:.3f}"
        return Selection(best.id, True, floors, table, nearest, reason + _set_aside(table))
    policy, outcome = _fallback(profile, [row for row in allowed if holds(cards[row.id], kept or {})], kept)
    if closest:
        cause = _shortfall(closest, floors) + _set_aside(table)
    elif measured:
        cause = "every measured policy is suspended"
    else:
        missing = sorted({name.partition(".")[0] for name in floors} | {profile.primary})
        cause = f"no policy was measured on {', '.join(missing)}"
    return Selection(policy, False, floors, table, nearest, f"{cause}; {outcome}")


def _mixed(allowed: list[PolicyMargins], floors: Floors) -> dict[str, float] | None:
    """Shares of the best mixture of those ``allowed``; None if none holds ``floors`` on average."""
    usable = [row for row in allowed if row.worst > float("-inf")]
    bounds = {name: {row.id: row.certified[name] or 0.0 for row in usable} for name in floors}
    return best_mixture({row.id: row.primary or 0.0 for row in usable}, bounds, floors)


def _mixture_reason(found: Selection, primary: str) -> str:
    """What the mixture is and what it promises."""
    weights = found.weights or {}
    means = {row.id: row.primary or 0.0 for row in found.policies}
    mean = sum(share * means[policy] for policy, share in weights.items())
    kept = "; ".join(
        f"{name} {bound:.3f} >= {found.floors[name]:.3f}" for name, bound in (found.expected or {}).items()
    )
    promise = f": {kept}, on average over conversations, not in each of them" if kept else "; no floor is set"
    return (
        f"the mixture of {found.served} has the greatest {primary}, {mean:.3f} on average, of all that hold every floor"
        + (promise)
    )


def _set_aside(table: list[PolicyMargins]) -> str:
    """Which policies are suspended, if any are."""
    names = [row.id for row in table if row.suspended]
    return f" (suspended: {', '.join(names)})" if names else ""


def _fallback(profile: ThresholdProfile, allowed: list[PolicyMargins], kept: Floors | None) -> tuple[str | None, str]:
    """What ``profile.on_infeasible`` makes of the policies that hold every floor that a fallback must hold."""
    whose = (
        "the organisation's, the key's and the profile's floors" if kept else "the organisation's and the key's floors"
    )
    if profile.on_infeasible == "reject":
        return None, "so nothing is served (on_infeasible: reject)"
    if profile.on_infeasible == "closest":
        best = min((row for row in allowed if row.worst > float("-inf")), key=_distance, default=None)
        if best is None:
            return None, f"no measured policy holds {whose}"
        return best.id, f"serving the closest policy that is allowed, {best.id}"
    if profile.on_infeasible in {row.id for row in allowed}:
        return profile.on_infeasible, f"serving the fallback {profile.on_infeasible}"
    return None, f"the fallback {profile.on_infeasible} does not hold {whose}"


def _distance(row: PolicyMargins) -> tuple[float, float, str]:
    """Smallest for the policy with the smallest largest violation; then the greater primary, then the id."""
    return -row.worst, -(row.primary or 0.0), row.id


def _shortfall(row: PolicyMargins, floors: Floors) -> str:
    """Which floors the closest policy misses, and by how much."""
    missed = [
        f"{name} {less(bound, floors[name])}"
        for name, bound in row.certified.items()
        if bound is not None and bound < floors[name]
    ]
    return f"no policy holds every floor: the closest, {row.id}, misses {', '.join(missed)}"


def less(bound: float, floor: float) -> str:
    """``bound`` < ``floor`` with the digits, three or more, that it takes to see it."""
    digits = next((n for n in range(3, 17) if f"{bound:.{n}f}" != f"{floor:.{n}f}"), 17)
    return f"{bound:.{digits}f} < {floor:.{digits}f}"
