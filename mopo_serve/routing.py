"""Which policy answers a request: a family's profiles, decided once, and looked up for each request.

Pure but for ``read_routing``. A request names ``mopo/<profile>``, ``mopo/policy/<id>`` (a pinned policy) or plain
``mopo``: the profile that the table of users gives its user or key, else no profile, the family's primary objective,
and no floors but the organisation's, the key's and the request's own.
"""

import datetime
import functools
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mopo_eval.mixture import draw
from mopo_eval.profiles import Floors, ProfileFile, ThresholdProfile, check_floor_names, read_profiles
from mopo_eval.scorecards import Scorecard, read_scorecards
from mopo_eval.selection import Selection, Selector, best_attainable, effective_floors, holds, select
from mopo_serve.caller import ANYBODY, Caller
from mopo_serve.keys import ApiKey, forbidden, may_ask
from mopo_serve.openai_errors import ApiError, malformed, shown
from mopo_serve.requests import RequestedProfile
from mopo_train.errors import ProfileError
from mopo_train.family import PolicyFamily, check_floors, parse_floors, read_family

NO_PROFILE = "mopo"
PINNED = "mopo/policy/"
NOTHING_ASKED = RequestedProfile()
FrozenFloors = tuple[tuple[str, float], ...]
REMEMBERED = 4096
"""Answers that are kept: of profiles under each key's and user's floors, and of floors that requests state."""


class Choice(NamedTuple):
    """Who answers a request."""

    policy: str
    profile: str
    """Profile that was asked for, ``policy/<id>`` for a pinned policy, ``-`` for none."""
    feasible: bool
    """False where a fallback serves a profile whose floors it does not all hold."""
    floors: Floors
    """Effective floors."""
    reason: str
    share: float | None = None
    """Of the policy in the mixture that it was drawn from; None where one policy answers."""


class Question(NamedTuple):
    """What a caller asks for, with everybody's floors."""

    name: str | None
    """Of the profile; None for none."""
    profile: ThresholdProfile
    """With its user's floors, and what the request replaces."""
    binding: Floors
    """Floors that fallbacks and components of mixtures hold too."""
    requested: Floors
    layers: dict[str, Floors]
    """Floors by who asks for them."""
    kept: Floors = {}
    """Floors that fallbacks hold too, but not every component of a mixture."""


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
    users: Mapping[str, str] = field(default_factory=dict)
    """Profile by user or key name."""
    suspended: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Policies, by profile, that what users saw of them keeps from serving it."""

    @functools.cached_property
    def selections(self) -> dict[str, Selection]:
        """What each profile gets when nobody adds anything."""
        return {name: self.answer(self.question(name)) for name in self.profiles}

    @functools.cached_property
    def _selector(self) -> Selector:
        return Selector(self.cards)

    @functools.cached_property
    def _plan(self) -> Callable[..., Selection]:
        return functools.lru_cache(REMEMBERED)(self._planned)

    @functools.cached_property
    def _mixture(self) -> Callable[..., Selection]:
        return functools.lru_cache(REMEMBERED)(self._mixed)

    @functools.cached_property
    def created(self) -> int:
        """When the family was made, in seconds since 1970."""
        return int(datetime.datetime.fromisoformat(self.family.created_at).timestamp())

    @property
    def models(self) -> list[str]:
        """Every name that ``/v1/models`` lists: profiles, then policies."""
        return [f"mopo/{name}" for name in self.profiles] + [PINNED + policy for policy in self.cards]

    @property
    def measured(self) -> bool:
        """True if any policy has a scorecard."""
        return any(card is not None for card in self.cards.values())

    def models_for(self, key: ApiKey | None) -> list[str]:
        """Those of ``models`` that ``key`` may ask for."""
        profiles = [f"mopo/{name}" for name in self.profiles if may_ask(key, name)]
        return profiles + ([PINNED + policy for policy in self.cards] if key is None or key.pin else [])

    def decide(
        self, model: str, requested: RequestedProfile | None = None, caller: Caller = ANYBODY, request_id: str = ""
    ) -> Choice:
        """Who answers a request for ``model``. Raises ApiError (400, 403, 404, 422).

        ``request_id`` stands for the conversation where a mixture is drawn for a caller that names none.
        """
        if model.startswith(PINNED):
            return self._pinned(model.removeprefix(PINNED), model, requested or NOTHING_ASKED, caller)
        name = self.profile_of(model, caller)
        label = name or "-"
        if requested is None:
            key = caller.key
            confined = key is not None and key.profiles is not None
            selection = self._plan(name, _frozen(key.floors if key else None), confined, self._assigned(caller))
        elif (requested.selection or (self.profiles[name].selection if name else "single")) == "mixture":
            key = caller.key
            _check_fallback(requested, key)
            selection = self._mixture(
                name, requested.primary, requested.selection, requested.on_infeasible, _frozen(requested.floors),
                key and (_frozen(key.floors), key.profiles is not None), self._assigned(caller),
            )  # fmt: skip
        else:
            key = caller.key
            _check_fallback(requested, key)
            self._check_names(requested)
            floors = effective_floors(
                *self._layers(name, requested, key.floors if key else {}, self._assigned(caller)).values()
            )
            primary = requested.primary or self._profile(name).primary
            policy = self._selector.best(primary, floors, self.suspended.get(name or "", ()))
            if policy is not None:
                reason = f"{policy} has the greatest {primary} of the policies that hold every floor"
                return Choice(policy, label, True, floors, reason)
            selection = self.answer(self.question(name, requested, caller))
        if selection.policy is None:
            raise self.infeasible(selection, model)
        if selection.weights is None:
            return Choice(selection.policy, label, selection.feasible, selection.floors, selection.reason)
        policy = draw(selection.weights, caller.sticky(request_id), f"{self.identity} {label}")
        return Choice(policy, label, True, selection.floors, selection.reason, selection.weights[policy])

    def profile_of(self, model: str, caller: Caller) -> str | None:
        """The profile that ``model`` names for ``caller``; None for none. Raises ApiError (403, 404)."""
        if model == NO_PROFILE:
            name = self._assigned(caller)
        else:
            name = model.removeprefix("mopo/")
            if name == model or name not in self.profiles:
                raise self.unknown_model(model, caller.key)
        self.check_scope(name, caller.key)
        return name

    def check_scope(self, name: str | None, key: ApiKey | None) -> None:
        """Raise ApiError (403) if ``key`` may not ask for the profile called ``name`` (None: for none)."""
        if key is not None and not may_ask(key, name):
            known = ", ".join(f"mopo/{each}" for each in key.profiles or []) or "no profile"
            asked = f"'mopo/{name}'" if name else "a model without a profile"
            raise forbidden(f"this key may not ask for {asked}; it may ask for {known}", "model")

    def question(
        self, name: str | None, requested: RequestedProfile | None = None, caller: Caller = ANYBODY
    ) -> Question:
        """What ``caller`` asks for with the profile called ``name`` (None: no profile). Raises ApiError (400).

        A key that is confined to profiles cannot leave their floors. Where it asks for another ``selection`` or
        ``on_infeasible``, they become binding; where its request or user asks for so much more, or for such
        a primary, that the profile's fallback is to serve, that keeps them.
        """
        key = caller.key
        _check_fallback(requested, key)
        return self._question(
            name,
            requested or NOTHING_ASKED,
            {} if key is None else key.floors,
            key is not None and key.profiles is not None,
            self._assigned(caller),
        )

    def _question(
        self, name: str | None, requested: RequestedProfile, key_floors: Floors, confined: bool, assigned: str | None
    ) -> Question:
        """``question`` of a caller whose key has ``key_floors`` and is ``confined`` to profiles or not."""
        base, layers = self._profile(name), self._layers(name, requested, key_floors, assigned)
        own = layers["user"]
        binding = effective_floors(self.organisation, key_floors) if key_floors else self.organisation
        usual = effective_floors(binding, base.floors)
        asks_more = effective_floors(usual, own, requested.floors) != usual
        asks_other = requested.primary not in (None, base.primary)  # on which perhaps nobody was measured
        kept = base.floors if confined and (asks_more or asks_other) else {}
        if own:
            base = base.model_copy(update={"floors": effective_floors(base.floors, own)})
        if requested is NOTHING_ASKED:
            return Question(name, base, binding, {}, layers, kept)
        changes = {
            field: value
            for field in ("primary", "selection", "on_infeasible")
            if (value := getattr(requested, field)) is not None
        }
        self._check_names(requested)
        if confined and changes.keys() - {"primary"}:
            binding = effective_floors(binding, base.floors)
        profile = base.model_copy(update=changes) if changes else base
        return Question(name, profile, binding, requested.floors, layers, kept)

    def _profile(self, name: str | None) -> ThresholdProfile:
        """The profile called ``name``; for None one without floors on the family's primary."""
        return self._no_profile if name is None else self.profiles[name]

    @functools.cached_property
    def _no_profile(self) -> ThresholdProfile:
        return ThresholdProfile(primary=self.family.primary)

    def _layers(
        self, name: str | None, requested: RequestedProfile, key_floors: Floors, assigned: str | None
    ) -> dict[str, Floors]:
        """Floors by who asks for them; the largest of each name is in effect."""
        own = self.profiles[assigned].floors if assigned is not None and assigned != name else {}
        return {
            "organisation": self.organisation,
            "key": key_floors,
            "profile": self._profile(name).floors,
            "user": own,
            "request": requested.floors,
        }

    def answer(self, question: Question) -> Selection:
        """Which policy ``question`` gets, with everything that a person may want to know about it."""
        suspended = self.suspended.get(question.name or "", frozenset())
        return select(question.profile, self.cards, question.binding, question.requested, suspended, kept=question.kept)

    def select(
        self, name: str | None, requested: RequestedProfile | None = None, caller: Caller = ANYBODY
    ) -> Selection:
        """What the profile called ``name`` gets with what a request and its caller add. Raises ApiError (400)."""
        return self.answer(self.question(name, requested, caller))

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

    def unknown_model(self, model: str, key: ApiKey | None = None) -> ApiError:
        """404, listing what exists for ``key``."""
        available = ", ".join(self.models_for(key)) or "none"
        message = f"the model {shown(model)} does not exist; available: {available}"
        return ApiError(404, message, code="model_not_found", param="model")

    def _assigned(self, caller: Caller) -> str | None:
        """The profile that the table of users gives ``caller``."""
        if not self.users:
            return None
        if caller.user is not None and caller.user in self.users:
            return self.users[caller.user]
        return self.users.get(caller.key.name) if caller.key is not None else None

    def _planned(self, name: str | None, key_floors: FrozenFloors, confined: bool, assigned: str | None) -> Selection:
        """The selection of a request that adds nothing itself."""
        return self.answer(self._question(name, NOTHING_ASKED, dict(key_floors), confined, assigned))

    def _mixed(  # noqa: PLR0913 - everything that it depends on, as what can be remembered
        self,
        name: str | None,
        primary: str | None,
        selection: Literal["single", "mixture"] | None,
        on_infeasible: str | None,
        floors: FrozenFloors,
        key: tuple[FrozenFloors, bool] | None,
        assigned: str | None,
    ) -> Selection:
        """The selection of a mixture with floors of a request: a linear program, so it is remembered."""
        requested = RequestedProfile(
            primary=primary, floors=dict(floors), selection=selection, on_infeasible=on_infeasible
        )  # fmt: skip
        floors_of_key, confined = key or ((), False)
        return self.answer(self._question(name, requested, dict(floors_of_key), confined, assigned))

    def _pinned(self, policy: str, model: str, requested: RequestedProfile, caller: Caller) -> Choice:
        """The policy itself, if it holds the floors of the organisation, the key and the request."""
        key = caller.key
        if key is not None and not key.pin:
            raise forbidden("this key may not pin a policy; name a profile instead", "model")
        if policy not in self.cards:
            raise self.unknown_model(model, key)
        for name in ("primary", "selection", "on_infeasible"):
            if getattr(requested, name) is not None:
                raise malformed(
                    f"'objective_profile.{name}' has no meaning for a pinned policy; name a profile instead",
                    f"objective_profile.{name}",
                )
        self._check_names(requested)
        binding = effective_floors(self.organisation, key.floors if key is not None else {})
        floors = effective_floors(binding, requested.floors)
        if holds(self.cards[policy], floors):
            return Choice(policy, f"policy/{policy}", True, floors, f"the request pins {policy}")
        selection = self.select(None, requested, caller)
        row = next(row for row in selection.policies if row.id == policy)
        missed = ", ".join(name for name, margin in row.margins.items() if margin is None or margin < 0)
        owners = [
            *(["the organisation"] if self.organisation else []),
            *(["the key"] if key is not None and key.floors else []),
            *(["the request"] if requested.floors else []),
        ]
        whose = f"the floors of {' and '.join(owners)}" if len(owners) > 1 else f"{owners[0]}'s floors"
        reason = f"{policy} does not hold {whose} on {missed}"
        raise self.infeasible(selection._replace(policy=None, feasible=False, reason=reason, weights=None), model)

    def _check_names(self, requested: RequestedProfile) -> None:
        """Raise ApiError (400) if ``requested`` names what the family does not have."""
        objectives = self._objectives
        if requested.primary is not None and requested.primary not in objectives:
            raise self._misnamed("primary", requested.primary)
        for name in requested.floors:
            if name.removesuffix(".win_rate") not in objectives:
                raise self._misnamed(f"floors.{name}", name)
        fallback = requested.on_infeasible
        if fallback is not None and fallback not in ("reject", "closest") and fallback not in self.cards:
            raise malformed(
                f"on_infeasible '{fallback}' is neither 'reject', 'closest' nor a policy of this family",
                "objective_profile.on_infeasible",
            )

    @functools.cached_property
    def _objectives(self) -> frozenset[str]:
        return frozenset(self.family.objectives)

    def _misnamed(self, place: str, name: str) -> ApiError:
        known = ", ".join(sorted(self._objectives))
        return malformed(f"'{name}' is not an objective of this family; known: {known}", f"objective_profile.{place}")


def _check_fallback(requested: RequestedProfile | None, key: ApiKey | None) -> None:
    """Raise ApiError (403) where a request names a policy to fall back to and its key may not pin one."""
    fallback = requested.on_infeasible if requested is not None else None
    if fallback not in (None, "reject", "closest") and key is not None and not key.pin:
        raise forbidden("this key may not pin a policy, as 'on_infeasible' would", "objective_profile.on_infeasible")


def _frozen(floors: Floors | None) -> FrozenFloors:
    return tuple(floors.items()) if floors else ()


def build_routing(
    family: PolicyFamily, cards: Mapping[str, Scorecard], profiles: ProfileFile, *, identity: str
) -> Routing:
    """Every profile, ready to be decided. ``cards`` may lack policies; those hold no floor."""
    every = {policy.id: cards.get(policy.id) for policy in family.policies}
    return Routing(identity, family, every, profiles.profiles, profiles.organisation.floors, profiles.users)


def read_routing(root: Path, profiles: Path | None = None) -> Routing:
    """The family in ``root`` with its scorecards and the profiles in ``profiles`` (default: its own, if it has any).

    Raises FamilyError, ProfileError.
    """
    family = read_family(root)
    path = profiles or root / "profiles.yaml"
    found = ProfileFile()
    if profiles is not None or path.exists():
        found = read_profiles(path, family.objectives, [policy.id for policy in family.policies])
    return build_routing(family, read_scorecards(root, family), found, identity=family_identity(root))


def family_identity(root: Path) -> str:
    """What answers and the audit store call the family in ``root``: directory and digest. Raises OSError."""
    digest = hashlib.sha256((root / "family.json").read_bytes()).hexdigest()[:12]
    name = re.sub(r"[^A-Za-z0-9._-]", "_", root.resolve().name)
    return f"{name}@{digest}"


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
