"""Answers and verdicts on disk as they come: a JSON line each, appended, so that a killed run asks nothing twice.

A line is handed to the operating system before the next answer is taken, which survives the process; the disk is
told at least once a second, which survives the machine.
"""

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

from mopo_train.errors import MopoError

SYNC_SECONDS = 0.5
Kept = TypeVar("Kept")


class Row(Protocol):
    """A named tuple of values that JSON has."""

    def _asdict(self) -> dict[str, Any]: ...


class Spool:
    """An open spool; use ``open_spool``."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor, self._path = descriptor, path
        self._end = os.lseek(descriptor, 0, os.SEEK_END)
        self._closing = threading.Event()
        self._unsynced = threading.Event()
        self._failed: OSError | None = None
        self._syncing = threading.Thread(target=self._sync, daemon=True)
        self._syncing.start()

    def append(self, row: Row) -> int:
        """Keep ``row``, and say at which byte of the file it begins (``read_row``).

        Raises MopoError where the disk takes no more, also where it says so only later.
        """
        line = json.dumps(row._asdict(), ensure_ascii=True, separators=(",", ":")) + "\n"
        data, place = line.encode(), self._end
        self._end += len(data)
        try:
            if self._failed:
                raise self._failed
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            raise MopoError(f"cannot keep more in '{self._path}': {error.strerror}; repeat afterwards.") from error
        self._unsynced.set()
        return place

    def close(self) -> None:
        """Put what is left on disk; safe to call once."""
        self._closing.set()
        self._syncing.join()

    def _sync(self) -> None:
        while not self._closing.wait(SYNC_SECONDS):
            self._sync_new()
        self._sync_new()
        os.close(self._descriptor)

    def _sync_new(self) -> None:
        if self._unsynced.is_set():
            self._unsynced.clear()
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                self._failed = error


@contextmanager
def open_spool(path: Path) -> Iterator[Spool]:
    """The spool at ``path`` for appending; without an answer it leaves no file and no empty directory behind.

    Raises MopoError if another process has it open.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        _lock(descriptor, path)
        _end_last_line(descriptor)
        spool = Spool(descriptor, path)
    except BaseException:
        os.close(descriptor)
        raise
    try:
        yield spool
    finally:
        spool.close()
        if path.is_file() and not path.stat().st_size:  # a device is no file
            path.unlink()
            if not any(path.parent.iterdir()):
                path.parent.rmdir()


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock file at ``path``, which stays, while the block runs. Raises MopoError if another process does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as opened:
        _lock(opened.fileno(), path)
        yield


def read_spool(path: Path, kind: Callable[..., Kept]) -> list[Kept]:
    """The rows in ``path``, made by ``kind``; none without a file. A line that a crash left unfinished is no row."""
    return [row for _, row in scan_spool(path, kind)]


def scan_spool(path: Path, kind: Callable[..., Kept]) -> Iterator[tuple[int, Kept]]:
    """As ``read_spool``, one row at a time, each with the byte at which it begins."""
    place = 0
    try:
        with path.open("rb") as lines:
            for line in lines:
                try:
                    yield place, kind(**json.loads(line))
                except (ValueError, TypeError):
                    pass
                place += len(line)
    except FileNotFoundError:
        return


def read_row(opened: BinaryIO, place: int, kind: Callable[..., Kept]) -> Kept:
    """The row that begins at byte ``place`` of the file ``opened``."""
    opened.seek(place)
    return kind(**json.loads(opened.readline()))


def _lock(descriptor: int, path: Path) -> None:
    """Hold the file until it is closed or the process ends, where the system can."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise MopoError(f"another mopo-eval is measuring into '{path.parent}'; wait for it or stop it.") from error


def _end_last_line(descriptor: int) -> None:
    """End a line that a crash left unfinished, so that the next answer begins a line of its own."""
    size = os.lseek(descriptor, 0, os.SEEK_END)
    if size:
        os.lseek(descriptor, size - 1, os.SEEK_SET)
        if os.read(descriptor, 1) != b"\n":
            os.write(descriptor, b"\n")
