"""Fronts that were not measured: the predicted one (``plan.json``) and a sandbox's exact one (``front.json``)."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mopo_train.errors import FamilyError
from mopo_train.family import PolicyFamily, UnitScore, first_problem


class _Model(BaseModel):
    """More fields than these are welcome in the files: they are other readers' business."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class PlanPoint(_Model):
    """One point of the predicted front, in data win rate."""

    floors: dict[str, UnitScore] = {}
    predicted: dict[str, UnitScore]
    predicted_low: dict[str, UnitScore] = {}
    feasible: bool = True


class Plan(_Model):
    """The contents of ``plan.json`` that are drawn."""

    objectives: list[str]
    points: list[PlanPoint]


class ExactPoint(_Model):
    """One point of a sandbox's exact front."""

    scores: dict[str, UnitScore]
    """Mean judge score per objective."""
    win_rates: dict[str, UnitScore] = {}
    """Data win rate per objective."""


class ExactFront(_Model):
    """The contents of a sandbox's ``front.json`` that are drawn."""

    points: list[ExactPoint] = Field(min_length=1)


_Read = TypeVar("_Read", bound=_Model)


def read_plan(root: Path, family: PolicyFamily) -> Plan | None:
    """The plan in ``root``; None where there is none. Raises FamilyError if it is damaged or of other objectives."""
    path = root / "plan.json"
    if not path.is_file():
        return None
    plan = _read(path, Plan)
    if set(plan.objectives) != set(family.objectives):
        raise FamilyError(f"'{path}' plans for {plan.objectives}, but this family has {family.objectives}.")
    return plan


def front_path(root: Path) -> Path | None:
    """``front.json`` in the directory of the family's data, as ``family.json`` records it or beside the family."""
    family = root / "family.json"
    try:
        source = PolicyFamily.model_validate_json(family.read_bytes()).data.source
    except (OSError, ValidationError):
        return None
    places = [Path(name) if Path(name).is_dir() else Path(name).parent for name in source]
    # Data paths are recorded as the user typed them, so a relative one may have moved with the family.
    beside = [root.parent / place.name for place in places]
    for place in [*places, *beside]:
        if place.name and (place / "front.json").is_file():
            return place / "front.json"
    return None


def read_exact_front(root: Path, family: PolicyFamily) -> ExactFront | None:
    """The exact front of the sandbox that the family was trained on; None where there is none.

    Raises FamilyError if the file is damaged or belongs to other objectives.
    """
    path = front_path(root)
    if path is None:
        return None
    front = _read(path, ExactFront)
    if not set(family.objectives) <= set(front.points[0].scores):
        raise FamilyError(f"'{path}' holds {sorted(front.points[0].scores)}, but this family has {family.objectives}.")
    return front


def _read(path: Path, model: type[_Read]) -> _Read:
    try:
        return model.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise FamilyError(f"cannot read '{path}': {first_problem(error)}") from error
