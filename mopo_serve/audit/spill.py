"""A local file that keeps rows while the database cannot: JSON Lines, fsynced, read back in order.

One file per writer in a directory that gateways may share; a lock on the file shows that its writer lives. Rows are
numbered, so a file that was appended to the store twice is stored once.
"""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from mopo_serve.audit.chain import plain
from mopo_serve.audit.schema import DECISIONS, AuditError, said
from mopo_serve.audit.store import AuditStore, Row
from mopo_train.console import say

try:
    import fcntl
except ImportError:  # Windows: there a directory belongs to one gateway
    fcntl = None  # type: ignore[assignment]

LARGEST_BYTES = 1024**3
"""Default bound on a spill file: about 1.5 million decisions without text."""
BATCH = 2000
"""Rows that are appended in one transaction when a file is read back."""


class SpillFull(AuditError):
    """The spill file has reached its bound, or its disk is full."""


class Spill:
    """The spill file of one writer. Not for several threads."""

    def __init__(self, directory: Path, writer: str, *, largest_bytes: int = LARGEST_BYTES) -> None:
        self.path = directory / f"{writer}.jsonl"
        self.largest_bytes = largest_bytes
        self._file: IO[bytes] | None = None
        self.size = whole_lines(self.path) if self.path.exists() else 0

    def append(self, rows: Sequence[Row]) -> None:
        """Keep ``rows``; they are on the disk when this returns. Raises SpillFull, and keeps none of them then."""
        content = b"".join(json.dumps(dict(row)).encode("ascii") + b"\n" for row in rows)
        if self.size + len(content) > self.largest_bytes:
            raise SpillFull(f"'{self.path}' would grow beyond {self.largest_bytes} bytes")
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = open_locked(self.path)
            self._file.seek(self.size)
            self._file.write(content)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):
                if self._file is not None:
                    self._file.truncate(self.size)
            raise SpillFull(f"'{self.path}' cannot be written: {error}") from error
        self.size += len(content)

    def drain(self, store: AuditStore) -> None:
        """Append everything to ``store`` and remove the file. Raises StoreUnavailable; nothing is lost then."""
        if self.size:
            damaged = replay(self.path, store)
            self.close()
            put_away(self.path, damaged)
            self.size = 0

    def close(self) -> None:
        """Let go of the file; it stays."""
        if self._file is not None:
            with suppress(OSError):  # what could not be written was never acknowledged
                self._file.close()
            self._file = None


def whole_lines(path: Path) -> int:
    """Bytes of the file at ``path`` up to the end of its last whole line."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65536)
            file.seek(start)
            at = file.read(end - start).rfind(b"\n")
            if at >= 0:
                return start + at + 1
            end = start
    return 0


def recover(directory: Path, store: AuditStore) -> int:
    """Append to ``store`` what gateways left in ``directory`` that no longer run; gives the number of files.

    Raises StoreUnavailable.
    """
    files = 0
    for path in sorted(directory.glob("*.jsonl")):
        try:
            lock = open_locked(path)
        except OSError:
            continue  # its writer lives, or another gateway is at it
        with lock:
            put_away(path, replay(path, store))
            files += 1
    return files


def replay(path: Path, store: AuditStore) -> int:
    """Append the rows in the file at ``path``; gives the number of lines that cannot be read as rows.

    A last line without its end was never acknowledged, and is left out.
    """
    batch: list[Row] = []
    damaged = 0
    with path.open("rb") as lines:
        for line in lines:
            row = read_row(line)
            if row is not None:
                batch.append(row)
            elif line.endswith(b"\n"):
                damaged += 1
            if len(batch) == BATCH:
                store.append(DECISIONS, batch)
                batch = []
    if batch:
        store.append(DECISIONS, batch)
    return damaged


def read_row(line: bytes) -> Row | None:
    """The row in a line of a spill file; None if it holds no row that can be stored."""
    try:
        row = json.loads(line)
        for column in said(DECISIONS):
            plain(column, row.get(column.name))
    except (ValueError, TypeError, AttributeError):
        return None
    return dict(row)


def put_away(path: Path, damaged: int) -> None:
    """Remove a spill file whose rows are stored, or keep it aside if it has lines that nobody could read."""
    if damaged:
        say(f"audit: {damaged} lines of a spill file cannot be read; kept as '{path}.damaged'")
        path.replace(f"{path}.damaged")
    else:
        path.unlink(missing_ok=True)


def open_locked(path: Path) -> IO[bytes]:
    """``path``, made if need be, locked for as long as it is open. Raises OSError if another process has it."""
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600), "r+b")
    try:
        if fcntl is not None:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file
