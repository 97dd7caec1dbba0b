"""What ``mopo-train check`` found in the family's data: found again on disk, or made in a process of its own.

The check itself is `mopo_train.check`; it reads data sets, which this process need not carry.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dashboards.errors import DataCheckError
from mopo_train.family import PolicyFamily, write_whole

FILE = "check.json"
TIMEOUT = 600
"""Seconds."""
Document = Mapping[str, Any]


def find_check(root: Path, family: PolicyFamily) -> Path | None:
    """``check.json`` in the family's directory or beside its data; None where there is none."""
    places = [root, *(path.parent for path in find_sources(root, family) or [])]
    return next((place / FILE for place in places if (place / FILE).is_file()), None)


def find_sources(root: Path, family: PolicyFamily) -> list[Path] | None:
    """The family's data where they are now: as recorded, or beside the family; None if one is missing."""
    found = []
    for name in family.data.source:
        path = Path(name)
        places = [path, root.parent / path.parent.name / path.name]
        there = next((place for place in places if place.exists()), None)
        if there is None:
            return None
        found.append(there)
    return found


def read_check(path: Path) -> Document:
    """The document of ``check --json`` at ``path``. Raises DataCheckError."""
    try:
        document: Document = json.loads(path.read_text(encoding="utf-8"))
        return _whole(document, str(path))
    except (OSError, ValueError) as error:
        raise DataCheckError(f"cannot read '{path}': {error}; make it again with 'mopo-train check --json'.") from error


def run_check(sources: list[Path], save_to: Path | None) -> Document:
    """Check ``sources`` now, and keep the document at ``save_to`` if given. Raises DataCheckError."""
    command = [sys.executable, "-c", "from mopo_train.cli import main; main()", "check", "--json"]
    try:
        done = subprocess.run(
            [*command, *map(str, sources)], capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DataCheckError(f"the check took longer than {TIMEOUT} s; run 'mopo-train check' yourself.") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it failed without a message"])[-1]
        raise DataCheckError(f"'mopo-train check' failed: {last}")
    document = _whole(json.loads(done.stdout), "mopo-train check")
    if save_to is not None:
        write_whole(save_to, json.dumps(document, indent=1) + "\n")
    return document


def _whole(document: Any, where: str) -> Document:
    needed = {"rows", "prompts", "objectives", "conflict", "problems"}
    if not isinstance(document, dict) or not needed <= set(document):
        raise DataCheckError(f"{where} holds no document of 'mopo-train check --json'; make it again.")
    return document
