"""Which policy answers a request: a family's profiles, decided once, and looked up for each request.

Pure but for ``read_routing``. A request names ``mopo/<profile>``, ``mopo/policy/<id>`` (a pinned policy) or plain
``mopo``: no profile, the family's primary objective, and no floors but the organisation's and the request's own.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mopo_eval.profiles import Floors, ProfileFile, ThresholdProfile, check_floor_names, check_names, read_profiles
from mopo_eval.scorecards import Scorecard, read_scorecards
from mopo_eval.selection import Selection, best_attainable, holds, select
from mopo_serve.openai_errors import ApiError, malformed, shown
from mopo_serve.requests import RequestedProfile
from mopo_train.errors import ProfileError
from mopo_train.family import PolicyFamily, check_floors, parse_floors, read_family

NO_PROFILE = "mopo"
PINNED = "mopo/policy/"
NOTHING_ASKED = RequestedProfile()


class Decision(NamedTuple):
    """Who answers a request."""

    policy: str
    profile: str
    """Profile that was asked for, ``policy/<id>`` for a pinned policy, ``-`` for none."""
    feasible: bool
    """False where a fallback serves a profile whose floors it does not all hold."""


@dataclass(frozen=True)
class Routing:
    """A family as the gateway sees it; nothing in it changes while it serves."""

    identity: str
    """Directory name and digest of ``family.json``: the header ``x-mopo-family``."""
    family: PolicyFamily
    cards: Mapping[str, Scorecard | None]
    """By policy id; None for a policy that was not measured."""
    profiles: Mapping[str, ThresholdProfile]
    organisation: Floors
    selections: Mapping[str, Selection]
    """What each profile gets when a request adds nothing."""

    @property
    def models(self) -> list[str]:
        """Every name that ``/v1/models`` lists: profiles, then policies."""
        return [f"mopo/{name}" for name in self.profiles] + [PINNED + policy for policy in self.cards]

    @property
    def measured(self) -> bool:
        """True if any policy has a scorecard."""
        return any(card is not None for card in self.cards.values())

    def decide(self, model: str, requested: RequestedProfile | None = None) -> Decision:
        """Who answers a request for ``model``. Raises ApiError (400, 404, 422)."""
        if model.startswith(PINNED):
            return self._pinned(model.removeprefix(PINNED), model, requested or NOTHING_ASKED)
        name = None if model == NO_PROFILE else model.removeprefix("mopo/")
        if name is not None and (name == model or name not in self.profiles):
            raise self.unknown_model(model)
        selection = self.select(name, requested)
        if selection.policy is None:
            raise self.infeasible(selection, model)
        return Decision(selection.policy, name or "-", selection.feasible)

    def select(self, name: str | None, requested: RequestedProfile | None = None) -> Selection:
        """What the profile called ``name`` (None: no profile) gets with what a request adds. Raises ApiError (400)."""
        if requested is None and name is not None:
            return self.selections[name]
        requested = requested or NOTHING_ASKED
        try:
            return select(self.combined(name, requested), self.cards, self.organisation, requested.floors)
        except ProfileError as error:
            raise malformed(str(error), self._misnamed(requested)) from error

    def combined(self, name: str | None, requested: RequestedProfile) -> ThresholdProfile:
        """The profile called ``name`` with what ``requested`` replaces in it; floors come on top in ``select``.

        Raises ProfileError for an objective or policy that the family does not have.
        """
        base = ThresholdProfile(primary=self.family.primary) if name is None else self.profiles[name]
        changes = requested.model_dump(include={"primary", "on_infeasible"}, exclude_none=True)
        asked = ThresholdProfile(primary=changes.get("primary", base.primary), floors=requested.floors)
        asked = asked.model_copy(update=changes)
        check_names(asked, set(self.family.objectives), set(self.cards), where="objective_profile")
        return base.model_copy(update=changes)

    def known_profile(self, name: str | None) -> str | None:
        """``name`` itself if it is a profile or None. Raises ProfileError."""
        if name is not None and name not in self.profiles:
            known = ", ".join(self.profiles) or "none; write some into profiles.yaml, or name a file with --profiles"
            raise ProfileError(f"no profile '{name}'; known: {known}")
        return name

    def infeasible(self, selection: Selection, model: str) -> ApiError:
        """422: no policy may answer for ``model``; with what could be had instead."""
        details = {"floors": selection.floors, **self.alternatives(selection)}
        message = f"'{model}' cannot be served: {selection.reason}. Floors are held against certified lower bounds."
        return ApiError(422, message, code="infeasible_profile", param="model", details=details)

    def alternatives(self, selection: Selection) -> dict[str, Any]:
        """The best attainable bound per objective and floor, and the closest policy with its margins."""
        names = [*self.family.objectives, *(name for name in selection.floors if name not in self.family.objectives)]
        attainable = best_attainable((card for card in self.cards.values() if card), names)
        margins = next((row.margins for row in selection.policies if row.id == selection.closest), None)
        closest = None if margins is None else {"policy": selection.closest, "margins": margins}
        return {"attainable": attainable, "closest": closest}

    def unknown_model(self, model: str) -> ApiError:
        """404, listing what exists."""
        message = f"the model {shown(model)} does not exist; available: {', '.join(self.models)}"
        return ApiError(404, message, code="model_not_found", param="model")

    def _pinned(self, policy: str, model: str, requested: RequestedProfile) -> Decision:
        """The policy itself, if it holds the organisation's floors and the request's."""
        if policy not in self.cards:
            raise self.unknown_model(model)
        for name in ("primary", "on_infeasible"):
            if getattr(requested, name) is not None:
                raise malformed(
                    f"'objective_profile.{name}' has no meaning for a pinned policy; name a profile instead",
                    f"objective_profile.{name}",
                )
        selection = self.select(None, requested)
        if holds(self.cards[policy], selection.floors):
            return Decision(policy, f"policy/{policy}", True)
        margins = next(row.margins for row in selection.policies if row.id == policy)
        missed = ", ".join(name for name, margin in margins.items() if margin is None or margin < 0)
        whose = "the floors of the organisation and the request" if requested.floors else "the organisation's floors"
        reason = f"{policy} does not hold {whose} on {missed}"
        raise self.infeasible(selection._replace(policy=None, feasible=False, reason=reason), model)

    def _misnamed(self, requested: RequestedProfile) -> str:
        """Which field of ``objective_profile`` names something that the family does not have."""
        if requested.primary is not None and requested.primary not in self.family.objectives:
            return "objective_profile.primary"
        for name in requested.floors:
            if name.removesuffix(".win_rate") not in self.family.objectives:
                return f"objective_profile.floors.{name}"
        return "objective_profile.on_infeasible"


def build_routing(
    family: PolicyFamily, cards: Mapping[str, Scorecard], profiles: ProfileFile, *, identity: str
) -> Routing:
    """Decide every profile once. ``cards`` may lack policies; those hold no floor."""
    every = {policy.id: cards.get(policy.id) for policy in family.policies}
    organisation = profiles.organisation.floors
    selections = {name: select(profile, every, organisation) for name, profile in profiles.profiles.items()}
    return Routing(identity, family, every, profiles.profiles, organisation, selections)


def read_routing(root: Path, profiles: Path | None = None) -> Routing:
    """The family in ``root`` with its scorecards and the profiles in ``profiles`` (default: its own, if it has any).

    Raises FamilyError, ProfileError.
    """
    family = read_family(root)
    path = profiles or root / "profiles.yaml"
    found = ProfileFile()
    if profiles is not None or path.exists():
        found = read_profiles(path, family.objectives, [policy.id for policy in family.policies])
    digest = hashlib.sha256((root / "family.json").read_bytes()).hexdigest()[:12]
    name = re.sub(r"[^A-Za-z0-9._-]", "_", root.resolve().name)
    return build_routing(family, read_scorecards(root, family), found, identity=f"{name}@{digest}")


def stated(routing: Routing, floors: tuple[str, ...], primary: str | None) -> RequestedProfile:
    """What ``objective=score`` arguments and a primary state. Raises FloorError, ProfileError."""
    values = parse_floors(floors)
    objectives = set(routing.family.objectives)
    check_floor_names(values, objectives, where="--floor")
    if primary is not None and primary not in objectives:
        raise ProfileError(f"--primary '{primary}' is not an objective of this family; known: {sorted(objectives)}")
    for name, floor in values.items():
        check_floors({name.removesuffix(".win_rate"): floor}, routing.family.objectives)
    return RequestedProfile(primary=primary, floors=values)


def explain(routing: Routing, profile: str | None, selection: Selection) -> dict[str, Any]:
    """The answer to "which policy, and why": the JSON of ``resolve`` and of ``POST /v1/profiles/resolve``."""
    return {
        "policy": selection.policy,
        "feasible": selection.feasible,
        "profile": profile,
        "floors": selection.floors,
        "policies": [
            {
                "id": row.id,
                "margins": row.margins,
                "meets": row.meets,
                "certified": row.certified,
                "primary": row.primary,
            }
            for row in selection.policies
        ],
        "reason": selection.reason,
        **routing.alternatives(selection),
    }
