"""Files that are only ever added to, a JSON object per line: flags, labels, sign-offs. Whole lines or none.

A line that a crash cut off is closed by the next one and reported by the reader; nothing is ever rewritten.
"""

import os
import threading
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from mopo_train.family import first_problem

Entry = TypeVar("Entry", bound=BaseModel)
_ONE_AT_A_TIME = threading.Lock()


def append(path: Path, text: str) -> None:
    """Add one line to the file at ``path`` and wait until it is on the disk. Raises OSError, ValueError for two lines.

    Sessions of one dashboard take turns; lines of several processes do not mix, since each is one write at the end.
    """
    if "\n" in text:
        raise ValueError("a journal's entry is one line")
    with _ONE_AT_A_TIME:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(handle).st_size
            cut = size > 0 and _byte_at(handle, size - 1) != b"\n"
            os.write(handle, (("\n" if cut else "") + text + "\n").encode())
            os.fsync(handle)
        finally:
            os.close(handle)


def _byte_at(handle: int, place: int) -> bytes:
    os.lseek(handle, place, os.SEEK_SET)
    return os.read(handle, 1)


def read_journal(path: Path, model: type[Entry]) -> tuple[list[Entry], list[str]]:
    """The entries of ``path`` in order, and a sentence per line that is none; both empty where there is no file."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")  # names may hold other line ends
    except FileNotFoundError:
        return [], []
    except OSError as error:
        return [], [f"cannot read '{path}': {error}"]
    entries, problems = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entries.append(model.model_validate_json(line))
        except ValidationError as error:
            problems.append(f"'{path}', line {number}: {first_problem(error)}")
    return entries, problems
