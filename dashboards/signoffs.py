"""Sign-offs: who agreed to a profile, bound by SHA-256 to the family, the evaluation and the profile they saw.

Entries in ``FAMILY/profiles/sign-offs.jsonl`` are only ever added. A sign-off holds as long as all three are what they
were; any change ends it and can be named. It records what somebody said here, not who they are: for that, start the
dashboard with a login.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from dashboards.journal import append, read_journal
from mopo_eval.profiles import ProfileFile
from mopo_train.family import PolicyFamily

FILE = "profiles/sign-offs.jsonl"
ROLES = ["product", "safety", "legal", "engineering", "other"]
PARTS = ["family", "evaluation", "profile"]


class SignOff(BaseModel):
    """One person's agreement to one profile."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    time: str
    """ISO 8601, UTC."""
    name: str = Field(min_length=1, max_length=200)
    role: str = Field(min_length=1, max_length=100)
    note: str = Field(default="", max_length=5000)
    profile: str
    """Name of the profile."""
    family_sha256: str
    evaluation_sha256: str
    profile_sha256: str


class Evidence(NamedTuple):
    """What a sign-off rests on."""

    family: str
    evaluation: str
    profile: str


def add_signoff(root: Path, signoff: SignOff) -> None:
    """Add ``signoff`` to the family's. Raises OSError."""
    append(root / FILE, signoff.model_dump_json())


def read_signoffs(root: Path) -> tuple[list[SignOff], list[str]]:
    """The sign-offs in order, and what could not be read."""
    return read_journal(root / FILE, SignOff)


def changed(signoff: SignOff, now: Evidence) -> list[str]:
    """Which of ``PARTS`` are no longer what was signed; empty while the sign-off holds."""
    signed = (signoff.family_sha256, signoff.evaluation_sha256, signoff.profile_sha256)
    return [part for part, before, after in zip(PARTS, signed, now, strict=True) if before != after]


def family_files(root: Path, family: PolicyFamily) -> list[Path]:
    """What makes the family: ``family.json`` and every adapter."""
    adapters = [root / policy.adapter for policy in family.policies if policy.adapter]
    names = ("adapter_config.json", "adapter_model.safetensors")
    return [root / "family.json", *(path / name for path in adapters for name in names)]


def evaluation_files(root: Path, family: PolicyFamily, run: str | None) -> list[Path]:
    """What selection rests on: the scorecards, and the run that they are of."""
    cards = [root / "scorecards" / f"{policy.id}.json" for policy in family.policies]
    if run is None:
        return cards
    return [*cards, *(root / "evaluation" / run / name for name in ("run.json", "judgements.parquet"))]


def files_sha256(root: Path, files: list[Path]) -> str:
    """One digest of the files' contents and names, relative to ``root``; a missing file counts as such."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        if path.is_file():
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def users_of(profiles: ProfileFile, name: str) -> list[str]:
    """Who has the profile called ``name`` without asking for it."""
    return sorted(user for user, theirs in profiles.users.items() if theirs == name)


def profile_sha256(profiles: ProfileFile, name: str) -> str:
    """Of the profile called ``name`` (or that there is none), its users, and the organisation's floors."""
    profile = profiles.profiles.get(name)
    content: dict[str, Any] = {
        "name": name,
        "profile": profile.model_dump(mode="json") if profile else None,
        "organisation": profiles.organisation.model_dump(mode="json"),
    }
    if users := users_of(profiles, name):
        content["users"] = users
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def unsigned(profiles: ProfileFile, current: ProfileFile | None, signoffs: list[SignOff], base: Evidence) -> list[str]:
    """Profiles that differ from those in force, or are missing, and that nobody's sign-off covers as things stand.

    ``base``: the evidence, whose ``profile`` does not matter here.
    """
    known = {} if current is None else {name: profile_sha256(current, name) for name in current.profiles}
    found = []
    for name in dict.fromkeys([*profiles.profiles, *known]):
        now = base._replace(profile=profile_sha256(profiles, name))
        signed = any(entry.profile == name and not changed(entry, now) for entry in signoffs)
        if known.get(name) != now.profile and not signed:
            found.append(name)
    return found
