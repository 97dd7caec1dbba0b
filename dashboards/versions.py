"""Versions of the threshold profiles: ``FAMILY/profiles/0001.json`` and on; ``FAMILY/profiles.yaml`` is in force.

A version is written once, whole, and never changed. What was put in force, when and by whom is in
``profiles/in-force.jsonl``. A ``profiles.yaml`` that was edited by hand is kept as a version before it is replaced.
"""

import hashlib
import os
import secrets
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dashboards.journal import append, read_journal
from mopo_eval.profiles import ProfileFile, ThresholdProfile, check_profiles, write_profiles
from mopo_train.errors import ProfileError
from mopo_train.family import first_problem, read_family

DIRECTORY, LOG, IN_FORCE = "profiles", "in-force.jsonl", "profiles.yaml"
_ONE_AT_A_TIME = threading.Lock()


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Version(_Model):
    """One version of all profiles."""

    number: int = Field(ge=1)
    saved_at: str
    """ISO 8601, UTC."""
    author: str = Field(min_length=1, max_length=200)
    note: str = Field(default="", max_length=5000)
    profiles: ProfileFile


class PutInForce(_Model):
    """That a version was put in force."""

    time: str
    name: str = Field(min_length=1, max_length=200)
    version: int
    replaced: int | None
    """The version in force before; None where there was none."""


class Change(NamedTuple):
    """One difference between two states of a profile."""

    what: str
    """``primary``, ``on_infeasible``, ``selection``, or the name of a floor."""
    before: str | float | None
    after: str | float | None


def save_version(root: Path, profiles: ProfileFile, author: str, note: str = "") -> Version:
    """Write ``profiles`` as the next version. Raises ProfileError without an author, OSError."""
    versions, _ = read_versions(root)
    number = 1 + max((version.number for version in versions), default=0)
    while True:
        try:
            version = Version(number=number, saved_at=_now(), author=author, note=note, profiles=profiles)
        except ValidationError as error:
            raise ProfileError(f"this version cannot be saved: {first_problem(error)}") from error
        path = _path(root, number)
        path.parent.mkdir(exist_ok=True)
        partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}.partial")  # sessions are threads of one process
        partial.write_text(version.model_dump_json(indent=2) + "\n", encoding="utf-8")
        try:
            os.link(partial, path)  # unlike a rename it never replaces a version that somebody saved meanwhile
            return version
        except FileExistsError:
            number += 1
        finally:
            partial.unlink()


def read_versions(root: Path) -> tuple[list[Version], list[str]]:
    """The versions, oldest first, and a sentence per file that is none."""
    versions, problems = [], []
    for path in sorted((root / DIRECTORY).glob("[0-9]*.json")):
        try:
            versions.append(Version.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError) as error:
            reason = first_problem(error) if isinstance(error, ValidationError) else str(error)
            problems.append(f"'{path}': {reason}")
    return sorted(versions, key=lambda version: version.number), problems


def read_log(root: Path) -> tuple[list[PutInForce], list[str]]:
    """What was put in force, in order, and what could not be read."""
    return read_journal(root / DIRECTORY / LOG, PutInForce)


def number_in_force(versions: list[Version], log: list[PutInForce], profiles: ProfileFile) -> int | None:
    """The version that says what ``profiles`` say: the one last put in force, else the latest; None if none does."""
    same = [version.number for version in versions if version.profiles == profiles]
    return log[-1].version if log and log[-1].version in same else max(same, default=None)


def put_in_force(
    root: Path, version: Version, name: str, current: ProfileFile | None, *, shown_sha256: str | None
) -> None:
    """Make ``version`` the family's profiles.yaml; the gateway takes it with its next reload.

    ``current``: what profiles.yaml says, None where it is missing or cannot be read; ``shown_sha256``: of the file
    that was read so. What no version says is saved as one first, and a file that cannot be read is kept beside the
    versions. Raises ProfileError, also where the file is another one by now or the family could not be served by the
    version, and FamilyError, OSError.
    """
    path = root / IN_FORCE
    family = read_family(root)
    policies = [policy.id for policy in family.policies]
    check_profiles(version.profiles, family.objectives, policies, where=f"version {version.number}")
    with _ONE_AT_A_TIME:
        found = path.read_bytes() if path.exists() else None
        if _sha256(found) != shown_sha256:
            raise ProfileError(f"'{path}' was changed since it was shown; look at what it says now, then try again")
        replaced = _keep(root, current, found)
        comment = (
            f"version {version.number}, saved {version.saved_at}; change it in the dashboard, which keeps versions"
        )
        write_profiles(path, version.profiles, comment)
        entry = PutInForce(time=_now(), name=name, version=version.number, replaced=replaced)
        append(root / DIRECTORY / LOG, entry.model_dump_json())


def _keep(root: Path, current: ProfileFile | None, found: bytes | None) -> int | None:
    """Keep what is about to be replaced; gives the version that says it, None where none can."""
    if found is None:
        return None
    if current is None:
        kept = root / DIRECTORY / f"unreadable-{str(_sha256(found))[:16]}.yaml"  # so that no other content has its name
        kept.parent.mkdir(exist_ok=True)
        kept.write_bytes(found)
        return None
    if (number := number_in_force(read_versions(root)[0], read_log(root)[0], current)) is not None:
        return number
    return save_version(root, current, "profiles.yaml", "found in force, saved before it was replaced").number


def _sha256(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha256(content).hexdigest()


def changes(before: ThresholdProfile | None, after: ThresholdProfile | None) -> list[Change]:
    """What differs, field by field; floors of 0 are no floors."""
    found = []
    for what in ("primary", "on_infeasible", "selection"):
        old, new = (getattr(profile, what, None) for profile in (before, after))
        if old != new:
            found.append(Change(what, old, new))
    old_floors, new_floors = (profile.floors if profile else {} for profile in (before, after))
    for name in dict.fromkeys([*old_floors, *new_floors]):
        old, new = old_floors.get(name) or None, new_floors.get(name) or None
        if old != new:
            found.append(Change(name, old, new))
    return found


def _path(root: Path, number: int) -> Path:
    return root / DIRECTORY / f"{number:04d}.json"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
