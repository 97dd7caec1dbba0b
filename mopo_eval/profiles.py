"""Threshold profiles: what a caller asks for by name, and the floors that an organisation sets for all.

Reads and checks ``profiles.yaml``; which policy a profile gets is decided in ``selection``.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, LiteralString

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError

from mopo_eval.strict_yaml import load_strictly
from mopo_train.errors import ProfileError
from mopo_train.family import (
    ObjectiveName,
    PolicyFamily,
    PolicyId,
    UnitScore,
    check_floors,
    first_problem,
    parse_floors,
    write_whole,
)

FloorName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*(\.win_rate)?$")]
"""An objective (its judge score), or ``objective.win_rate`` (its win rate against the reference)."""
Floors = dict[FloorName, Annotated[UnitScore, Field(strict=True)]]
"""Numbers only: a floor that YAML reads from ``no`` is False, and would be 0."""
ProfileName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]


def _saying(message: LiteralString) -> WrapValidator:
    """Whatever is wrong with the value, the error says ``message``."""

    def check(value: Any, inner: ValidatorFunctionWrapHandler) -> Any:
        try:
            return inner(value)
        except ValidationError:
            raise PydanticCustomError("profile", message) from None

    return WrapValidator(check)


SelectionKind = Annotated[Literal["single", "mixture"], _saying("must be 'single' or 'mixture'")]
OnInfeasible = Annotated[
    Literal["reject", "closest"] | PolicyId, _saying("must be 'reject', 'closest' or the id of a policy")
]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ThresholdProfile(_Model):
    """Floors that a policy must hold, and what to maximise among the policies that hold them."""

    primary: ObjectiveName
    """Objective whose measured mean decides among the policies that hold every floor."""
    floors: Floors = {}
    """Least ``certified_low`` per objective or ``objective.win_rate``, in [0, 1]."""
    selection: SelectionKind = "single"
    """One policy that holds every floor, or a mixture of policies that holds them on average over conversations."""
    on_infeasible: OnInfeasible = "reject"
    """When no policy holds every floor: answer 422, serve the closest one, or serve this policy."""


class Organisation(_Model):
    """Floors that no profile, key or request may go below."""

    floors: Floors = {}


UserName = Annotated[str, Field(min_length=1, max_length=256)]


class ProfileFile(_Model):
    """The contents of ``profiles.yaml``."""

    profiles: dict[ProfileName, ThresholdProfile] = {}
    organisation: Organisation = Organisation()
    users: dict[UserName, ProfileName] = {}
    """Profile of each user that has one: a request's ``user``, or else the name of its API key. It answers requests
    that name no profile, and its floors are added to those of a profile that they do name."""


def read_profiles(path: Path, objectives: Iterable[str], policies: Iterable[str]) -> ProfileFile:
    """The profiles in ``path``, with every name in them checked against the family.

    A misspelt objective is refused: a floor that is silently ignored would protect nobody. Raises ProfileError.
    """
    try:
        content = load_strictly(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ProfileError(
            f"no profiles at '{path}'. Measure the family with 'mopo-eval run', which proposes some, "
            "or name a file with --profiles."
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ProfileError(f"cannot read profiles from '{path}': {error}") from error
    if not isinstance(content, dict):
        raise ProfileError(
            f"'{path}' holds no mapping, so it may have lost its floors; "
            "write 'profiles: {}' if there shall be no profiles"
        )
    try:
        parsed = ProfileFile.model_validate(content)
    except ValidationError as error:
        raise ProfileError(f"'{path}': {first_problem(error)}") from error
    check_profiles(parsed, objectives, policies, where=f"'{path}'")
    return parsed


def check_profiles(profiles: ProfileFile, objectives: Iterable[str], policies: Iterable[str], *, where: str) -> None:
    """Raise ProfileError if ``profiles`` name an objective, a policy or a user's profile that there is not."""
    known, ids = set(objectives), set(policies)
    for name, profile in profiles.profiles.items():
        check_names(profile, known, ids, where=f"{where}: profile '{name}'")
    check_floor_names(profiles.organisation.floors, known, where=f"{where}: organisation")
    for user, name in profiles.users.items():
        if name not in profiles.profiles:
            raise ProfileError(
                f"{where}: user {ascii(user)} has profile '{name}', which is not among the profiles: "
                f"{', '.join(profiles.profiles) or 'there are none'}"
            )


def asked_profiles(
    root: Path, family: PolicyFamily, names: Sequence[str] | None, *, path: Path | None, floors: tuple[str, ...] = ()
) -> tuple[dict[str, ThresholdProfile], Floors]:
    """The profiles called ``names`` (None: all) of the family in ``root``, by name, and the organisation's floors.

    ``path``: a file other than the family's. Without names, ``floors`` (name=value) make one profile called
    ``floors`` on the family's primary. Raises ProfileError and FloorError, also where there are no profiles at all.
    """
    place = path or root / "profiles.yaml"
    known = ProfileFile()
    if not floors or path is not None or place.exists():
        known = read_profiles(place, family.objectives, [policy.id for policy in family.policies])
    if floors:
        given = parse_floors(floors)
        check_floor_names(given, set(family.objectives), where="--floor")
        for name, value in given.items():
            check_floors({name.removesuffix(".win_rate"): value}, family.objectives)
        return {"floors": ThresholdProfile(primary=family.primary, floors=given)}, known.organisation.floors
    wanted = list(known.profiles) if names is None else list(dict.fromkeys(names))
    for name in wanted:
        if name not in known.profiles:
            raise ProfileError(
                f"no profile '{name}' in '{place}'; it has {', '.join(sorted(known.profiles)) or 'none'}."
            )
    if not wanted:
        raise ProfileError(f"'{place}' holds no profiles; write some, or give floors.")
    return {name: known.profiles[name] for name in wanted}, known.organisation.floors


def check_names(profile: ThresholdProfile, objectives: set[str], policies: set[str], *, where: str) -> None:
    """Raise ProfileError if ``profile`` names an objective or policy that the family does not have."""
    if profile.primary not in objectives:
        raise ProfileError(
            f"{where}: primary '{profile.primary}' is not an objective of this family; "
            f"known: {', '.join(sorted(objectives))}"
        )
    check_floor_names(profile.floors, objectives, where=where)
    if profile.on_infeasible not in {"reject", "closest"} | policies:
        raise ProfileError(
            f"{where}: on_infeasible '{profile.on_infeasible}' is neither 'reject', 'closest' "
            "nor a policy of this family"
        )


def check_floor_names(floors: Floors, objectives: set[str], *, where: str) -> None:
    """Raise ProfileError if a floor is on an objective that the family does not have."""
    for name in floors:
        if name.removesuffix(".win_rate") not in objectives:
            raise ProfileError(
                f"{where}: floor on '{name}', which is not an objective of this family; "
                f"known: {', '.join(sorted(objectives))}"
            )


def write_profiles(path: Path, profiles: ProfileFile, comment: str) -> None:
    """Write ``profiles`` as YAML under a ``comment`` line."""
    body: dict[str, Any] = profiles.model_dump(exclude_defaults=True)
    write_whole(path, f"# {comment}\n" + yaml.safe_dump(body, sort_keys=False))
