"""Answers that somebody flagged, with their comment, in ``FAMILY/flags.jsonl``."""

from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from dashboards.journal import append, read_journal

FILE = "flags.jsonl"


class Flag(BaseModel):
    """One remark about one answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    time: str
    """ISO 8601, UTC."""
    name: str = Field(min_length=1, max_length=200)
    """Who flagged it."""
    run: str
    prompt_id: str
    policy: str
    sample: int = 0
    comment: str = Field(default="", max_length=5000)


def add_flag(root: Path, flag: Flag) -> None:
    """Add ``flag`` to the family's. Raises OSError."""
    append(root / FILE, flag.model_dump_json())


def read_flags(root: Path) -> tuple[list[Flag], list[str]]:
    """The flags in order, and what could not be read."""
    return read_journal(root / FILE, Flag)


def now() -> str:
    """The time, as entries hold it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
