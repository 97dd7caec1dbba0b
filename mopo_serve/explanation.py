"""Why a profile gets its policy: the JSON of ``resolve`` and of ``POST /v1/profiles/resolve``, in words and numbers."""

from typing import Any

from mopo_eval.profiles import Floors
from mopo_eval.reliability import as_json
from mopo_eval.scorecards import reliability_of
from mopo_eval.selection import PolicyMargins, Selection, less
from mopo_serve.caller import ANYBODY, Caller
from mopo_serve.requests import RequestedProfile
from mopo_serve.routing import Question, Routing

PROMISES = {
    False: "each answer's policy holds every effective floor",
    True: "the floors hold on average over conversations, not in each: a sticky user may always meet a lower policy",
}


def explain(
    routing: Routing, profile: str | None, requested: RequestedProfile | None = None, caller: Caller = ANYBODY
) -> dict[str, Any]:
    """The answer to "which policy, and why". Raises ApiError (400, 403)."""
    question = routing.question(profile, requested, caller)
    selection = routing.answer(question)
    told = {
        "policy": selection.policy,
        "feasible": selection.feasible,
        "profile": question.name,
        "floors": selection.floors,
        "policies": [_row(selection, row, question) for row in selection.policies],
        "reason": selection.reason,
        "primary": question.profile.primary,
        "set_by": set_by(question.layers, selection.floors),
        **routing.alternatives(selection),
    }
    if selection.feasible:
        told["promise"] = PROMISES[selection.weights is not None]
    told |= as_json(reliability_of(card for card in routing.cards.values() if card is not None))
    if selection.weights is not None:
        told |= {"weights": selection.weights, "expected": selection.expected}
    return told


def set_by(layers: dict[str, Floors], floors: Floors) -> dict[str, str]:
    """Whose floor each effective floor is; the first of those that ask for the same."""
    found = {}
    for name, floor in floors.items():
        found[name] = next((who for who, asked in layers.items() if asked.get(name) == floor), "")
    return found


def why(selection: Selection, row: PolicyMargins, primary: str) -> str:
    """One sentence on ``row``'s place in ``selection``."""
    if row.suspended:
        return "suspended: what users saw of it did not hold its floors"
    missed = [
        f"{name} {less(bound, selection.floors[name])}"
        for name, bound in row.certified.items()
        if bound is not None and bound < selection.floors[name]
    ]
    unknown = [name for name, margin in row.margins.items() if margin is None]
    if row.primary is None:
        unknown.append(primary)
    share = (selection.weights or {}).get(row.id)
    if share is not None:
        alone = f"; by itself it misses {', '.join(missed)}" if missed else ""
        return f"answers {share:.1%} of conversations{alone}"
    if unknown:
        return f"was not measured on {', '.join(unknown)}"
    if missed:
        return f"misses {', '.join(missed)}" + ("; serves as the fallback" if row.id == selection.policy else "")
    if row.id == selection.policy:
        return f"holds every floor, with the greatest {primary}, {row.primary:.3f}, of those that do"
    best = next((other.primary for other in selection.policies if other.id == selection.policy), None)
    if selection.weights is not None or best is None:
        return f"holds every floor; {primary} {row.primary:.3f}"
    if best == row.primary:
        return f"holds every floor; the same {primary} as {selection.policy}, whose id comes first"
    return f"holds every floor, but its {primary}, {row.primary:.3f}, is less than {selection.policy}'s {best:.3f}"


def _row(selection: Selection, row: PolicyMargins, question: Question) -> dict[str, Any]:
    return {
        "id": row.id,
        "margins": row.margins,
        "meets": row.meets,
        "certified": row.certified,
        "primary": row.primary,
        "why": why(selection, row, question.profile.primary),
    }
