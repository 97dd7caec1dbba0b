"""The family directory: the interface between training, evaluation, serving and dashboards.

Holds the models of ``family.json`` and reads and writes it. Does not load adapters or models, and
imports neither torch nor transformers.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from mopo_train.errors import FamilyError, FamilyNotFound, FloorError

SCHEMA_VERSION = 1
REFERENCE = "reference"
INTERPOLATED = "interpolated"
"""Id of the policy without an adapter; always a member."""

UnitScore = Annotated[float, Field(ge=0, le=1)]
ObjectiveName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
PolicyId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # a later version may say more


class DataSummary(_Model):
    """What a family was trained on."""

    source: Annotated[list[str], BeforeValidator(lambda given: [given] if isinstance(given, str) else given)]
    """Paths or hub names, as given; a single one may stand without a list."""
    sha256: str
    """Of the canonical rows, in order."""
    pairs: int = Field(ge=0)
    prompts: int = Field(ge=0)
    labelled: dict[ObjectiveName, int]
    """Pairs that carry a label, per objective."""


class Between(_Model):
    """Where an interpolated policy lies."""

    first: PolicyId
    second: PolicyId
    share: float = Field(gt=0, lt=1)
    """Of the way from ``first`` to ``second``; the weights are (1 - share) x first + share x second."""


class GeneratedKL(_Model):
    """KL(policy || reference) of whole answers in nats, on answers that the policy wrote to training prompts."""

    kl: float
    error: float | None
    """Standard error of ``kl``; None for a single prompt."""
    prompts: int = Field(ge=1)


class Search(_Model):
    """A search for a policy that holds floors, which looked at scores on a run's prompts (``mopo-eval refine``)."""

    run: str
    """The evaluation whose prompts and judges it used."""
    floors: dict[str, float]
    """In judge score, or ``objective.win_rate``."""
    policy: PolicyId
    """The member that it found."""
    others: int = Field(ge=0)
    """Further policies that it could have tried: bounds on those prompts are shared with them too."""
    tried: int = Field(ge=1)
    """Policies that it did measure."""


class Policy(_Model):
    """One member of a family."""

    id: PolicyId
    """Unique in the family; also the name of its adapter in the engine."""
    kind: str
    """``reference``, ``mopo``, ``interpolated``, ``dpo`` or another method's name."""
    adapter: str | None
    """PEFT adapter directory relative to the family, or None for the base model itself."""
    floors: dict[ObjectiveName, float] = {}
    """Floors it was trained for, in data win rate."""
    multipliers: dict[ObjectiveName, float] = {}
    """Lagrange multiplier per floor at the optimum of the dual."""
    predicted: dict[ObjectiveName, float] = {}
    """Predicted data win rate per objective (plain mean over prompts)."""
    predicted_low: dict[ObjectiveName, float] = {}
    """Predicted worst reweighting of the prompts (design section 2): what its floors are checked on."""
    bound: dict[ObjectiveName, float] = {}
    """Lower bound on the true data win rate per objective, net of the labels' noise (`optimism`)."""
    ess: float | None = None
    """Mean over prompts of (sum rho)^2 / (r sum rho^2), in (0, 1]."""
    generated_kl: GeneratedKL | None = None
    """None where it was not measured. Unlike a divergence on the data's responses it sees all text."""
    between: Between | None = None
    """Of an ``interpolated`` policy. Profiles select it only where it was measured and is not dominated."""


class PolicyFamily(_Model):
    """The contents of ``family.json``."""

    schema_version: int = SCHEMA_VERSION
    created_at: str
    """ISO 8601, UTC."""
    package_version: str
    base_model: str
    """``base`` when the model lies in the family directory, otherwise a path or hub name."""
    objectives: list[ObjectiveName] = Field(min_length=2)
    primary: ObjectiveName
    data: DataSummary
    config: dict[str, Any]
    """The resolved configuration of the run, with its seed."""
    policies: list[Policy] = Field(min_length=1)
    searches: list[Search] = []
    """Those that added a member."""

    @model_validator(mode="after")
    def _is_consistent(self) -> "PolicyFamily":
        ids = [policy.id for policy in self.policies]
        if duplicates := {name for name in ids if ids.count(name) > 1}:
            raise ValueError(f"policy ids must be unique; repeated: {sorted(duplicates)}")
        if REFERENCE not in ids:
            raise ValueError(f"the policy '{REFERENCE}' is missing")
        if self.primary not in self.objectives:
            raise ValueError(f"primary '{self.primary}' is not one of the objectives {self.objectives}")
        return self

    def policy(self, name: str) -> Policy:
        """The policy called ``name``; raises FamilyError if there is none."""
        for policy in self.policies:
            if policy.id == name:
                return policy
        raise FamilyError(f"no policy '{name}' in this family; it has {[p.id for p in self.policies]}")


def between_id(first: str, share: float) -> str:
    """Name of the policy at ``share`` in (0, 1) of the way from ``first`` to the next: policy-02.25 for a quarter."""
    return f"{first}.{f'{share:.5f}'.rstrip('0')[2:]}"


def read_family(root: Path) -> PolicyFamily:
    """The finished family in ``root``; whether its adapters are there is for `check_adapters`.

    Raises FamilyNotFound without ``family.json``, FamilyError if it is damaged or of another version.
    """
    path = root / "family.json"
    if not path.is_file():
        raise FamilyNotFound(root)
    try:
        family = PolicyFamily.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise FamilyError(f"'{path}' is not a policy family: {first_problem(error)}") from error
    if family.schema_version != SCHEMA_VERSION:
        raise FamilyError(
            f"'{path}' has schema version {family.schema_version}, this package reads {SCHEMA_VERSION}; "
            "train the family again or use the package version that it names."
        )
    return family


def check_adapters(root: Path, family: PolicyFamily) -> None:
    """Raise FamilyError where an adapter that ``family`` names is missing in ``root``."""
    for policy in family.policies:
        if policy.adapter and not (root / policy.adapter / "adapter_config.json").is_file():
            raise FamilyError(
                f"policy '{policy.id}' has no adapter at '{root / policy.adapter}': restore the directory from a copy, "
                "or train the family again with --force."
            )


def write_family(root: Path, family: PolicyFamily) -> None:
    """Write ``family.json`` last, by rename: where it exists, every adapter is complete."""
    write_whole(root / "family.json", family.model_dump_json(indent=2) + "\n")


def base_model_path(root: Path, family: PolicyFamily) -> str:
    """Where to load the base model from: a path inside ``root`` if the family holds it, else as recorded."""
    inside = root / family.base_model
    return str(inside) if inside.is_dir() else family.base_model


def write_whole(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` by rename, so that a reader sees the old file or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def check_floors(floors: Mapping[str, float], objectives: list[str]) -> None:
    """Raise FloorError for a floor on an unknown objective or outside [0, 1]."""
    for name, floor in floors.items():
        if name not in objectives:
            raise FloorError(f"floor on '{name}', which is not an objective here; known: {', '.join(objectives)}")
        if not 0 <= floor <= 1:  # also refuses NaN
            raise FloorError(f"floor {name}={floor} is outside [0, 1]")


def check_problem_names(primary: str, floors: Mapping[str, float], objectives: list[str]) -> None:
    """Raise FloorError for an unknown primary, and as `check_floors`."""
    if primary not in objectives:
        raise FloorError(f"'{primary}' is not an objective of this data; known: {', '.join(objectives)}")
    check_floors(floors, objectives)


def parse_floors(given: tuple[str, ...]) -> dict[str, float]:
    """Floors from ``objective=value`` arguments of a command line. Raises FloorError, also for the same one twice."""
    floors: dict[str, float] = {}
    for text in given:
        match = re.fullmatch(r"([a-z][a-z0-9_.-]*)=([0-9.eE+-]+)", text.strip())
        if match is None:
            raise FloorError(f"cannot read the floor '{text}'; write it as objective=value, for example safety=0.8")
        if match[1] in floors:
            raise FloorError(f"two floors on '{match[1]}'; give one")
        try:
            floors[match[1]] = float(match[2])
        except ValueError as error:
            raise FloorError(f"cannot read the floor '{text}': '{match[2]}' is not a number") from error
    return floors


def first_problem(error: ValidationError) -> str:
    """The first of pydantic's findings, in one line."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"]) or "the file"
    return f"{where}: {problem['msg']}"
