"""Floors that stood before anything was scored: what ``profiles.yaml`` said when a run began.

Such floors may be tested with more power than floors that somebody chose after seeing scores (see ``certificate``).
It guards against honest mistakes, not against somebody who edits files or looks at scores elsewhere.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from mopo_eval.answer_store import ROWS_AT_ONCE
from mopo_eval.evaluation import RESPONSES, SPOOL, read_summary
from mopo_eval.profiles import ProfileFile, read_profiles
from mopo_eval.prompts import EvaluationPrompt
from mopo_train.console import say
from mopo_train.errors import FamilyError, ProfileError
from mopo_train.family import PolicyFamily, first_problem, write_whole

FILE = "registration.json"


class Registration(BaseModel):
    """The contents of ``evaluation/<run>/registration.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    registered_at: str
    """ISO 8601, UTC: before the run asked its first question."""
    profiles: ProfileFile
    """As they stood; empty where there were none."""
    seen: list[str]
    """Runs of this family that had scored some of the same prompts before: whoever set the floors may know them."""


def register(root: Path, family: PolicyFamily, run: str, prompts: Sequence[EvaluationPrompt]) -> None:
    """Record the profiles of the family in ``root`` for ``run``, unless it has an answer already."""
    directory = root / "evaluation" / run
    if any((directory / name).exists() for name in (SPOOL, "run.json", "responses.parquet")):
        return
    path, profiles = root / "profiles.yaml", ProfileFile()
    if path.exists():
        try:
            profiles = read_profiles(path, family.objectives, [policy.id for policy in family.policies])
        except ProfileError as error:
            say(f"warning: no floors are registered for this run: {error}")
    seen = runs_that_scored(root, {prompt.text for prompt in prompts})
    now = datetime.now(UTC).isoformat(timespec="seconds")
    made = Registration(registered_at=now, profiles=profiles, seen=seen)
    write_whole(directory / FILE, made.model_dump_json(indent=2) + "\n")


def read_registration(directory: Path) -> Registration | None:
    """That of the run in ``directory``; None if it has none. Raises FamilyError."""
    path = directory / FILE
    if not path.is_file():
        return None
    try:
        return Registration.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise FamilyError(f"'{path}' is not a registration: {first_problem(error)}; restore it from a copy.") from error


def runs_that_scored(root: Path, texts: Iterable[str]) -> list[str]:
    """Names of the finished and judged runs that share a prompt's text with ``texts``, or whose prompts are gone."""
    wanted = set(texts)
    runs = (path for path in sorted((root / "evaluation").glob("*/run.json")) if read_summary(path).judges)
    return [path.parent.name for path in runs if _asked_one(path.with_name(RESPONSES), wanted)]


def _asked_one(path: Path, wanted: set[str]) -> bool:
    """Whether the table at ``path`` has one of the prompts ``wanted``; also where it cannot be read: it may."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as table:
            batches = table.iter_batches(ROWS_AT_ONCE, columns=["prompt"])
            return any(wanted.intersection(batch.column("prompt").unique().to_pylist()) for batch in batches)
    except (pa.ArrowException, OSError):
        return True
