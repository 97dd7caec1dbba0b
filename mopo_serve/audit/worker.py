"""The process that writes a gateway's decisions: ``python -m mopo_serve.audit.worker``, started by ``writer``.

Reads frames of numbered decisions on stdin, appends them in batches to the store, or to the spill file while the
database cannot be reached, and acknowledges on stdout: a line ``<ordinal> <stored|spilled>`` says that everything up to
``ordinal`` is durable. Ends when stdin does, however its parent ended.
"""

import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from mopo_serve.audit.pipe import Settings, read_frame
from mopo_serve.audit.schema import DECISIONS, AuditError
from mopo_serve.audit.spill import Spill, SpillFull, recover
from mopo_serve.audit.store import AuditStore, decision_row, open_store
from mopo_serve.decisions import Decision
from mopo_train.console import say

LARGEST_BATCH = 5000
"""Decisions in one transaction."""
GATHER_SECONDS = 0.005
"""Between a decision and the transaction with it and those that came after it: a transaction takes as much time as many
decisions, and on a machine with few cores it would hold up the gateway just when a client goes on."""
RETRY_SECONDS = 1.0
"""Between two attempts to reach a database that is away."""
LAST_SECONDS = 20.0
"""How long a worker whose gateway is gone tries to place what neither database nor spill file takes."""
Numbered = tuple[int, tuple[Any, ...]]
"""Ordinal and a Decision's fields."""


class Worker:
    """Appends to the store, which exists, or to the spill file.

    A store that has vanished is waited for, not made anew: a second store would hide that the first is missing.
    """

    def __init__(self, settings: Settings, tell: Callable[[str], None]) -> None:
        self.settings, self._tell = settings, tell
        self._store: AuditStore | None = None
        self._retry_at = 0.0
        self._away = False
        self._recovered = False
        self.spill = Spill(Path(settings.spill), settings.writer, largest_bytes=settings.spill_bytes)

    def place(self, decisions: list[Numbered], *, give_up_at: Callable[[], float | None]) -> str:
        """Make ``decisions`` durable; gives where: ``stored`` or ``spilled``.

        Blocks while neither takes them, until the time that ``give_up_at`` gives. Raises SpillFull then.
        """
        rows = self._rows(decisions)
        while True:
            if self.reach():
                try:
                    self._opened().append(DECISIONS, rows)
                    return "stored"
                except AuditError as error:
                    self._lost(error)
            try:
                self.spill.append(rows)
                return "spilled"
            except SpillFull as error:
                limit = give_up_at()
                if limit is not None and time.monotonic() > limit:
                    raise
                self._say(f"{error}; new requests are refused until the database is back")
                time.sleep(max(0.0, min(0.1, self._retry_at - time.monotonic())))

    def reach(self, *, at_once: bool = False) -> bool:
        """Whether the database takes rows now: reached, and with nothing left in a spill file of ours.

        After a failure it is not tried again for ``RETRY_SECONDS``, unless ``at_once``.
        """
        if time.monotonic() < self._retry_at and not at_once:
            return False
        try:
            store = self._opened()
            self.spill.drain(store)
            if not self._recovered:
                recover(Path(self.settings.spill), store)
                self._recovered = True
        except AuditError as error:
            self._lost(error)
            return False
        if self._away:
            self._away = False
            self._tell("the audit database is back; nothing was lost")
        return True

    def waiting(self) -> float | None:
        """Seconds until the database should be tried although no decision comes; None if there is no need."""
        if not self.spill.size and self._recovered:
            return None
        return max(0.0, self._retry_at - time.monotonic())

    def close(self) -> None:
        """Close store and spill file."""
        self.spill.close()
        if self._store is not None:
            self._store.close()

    def _opened(self) -> AuditStore:
        if self._store is None:
            self._store = open_store(self.settings.place, create=False)
        return self._store

    def _lost(self, error: AuditError) -> None:
        self._retry_at = time.monotonic() + RETRY_SECONDS
        self._say(f"{error}; decisions go to '{self.spill.path}' meanwhile")

    def _say(self, message: str) -> None:
        """Tell once per outage."""
        if not self._away:
            self._away = True
            self._tell(message)

    def _rows(self, decisions: list[Numbered]) -> list[dict[str, Any]]:
        return [decision_row(Decision(*fields), self.settings.writer, ordinal) for ordinal, fields in decisions]


def gather(frames: "queue.Queue[list[Numbered] | None]", first: list[Numbered]) -> tuple[list[Numbered], bool]:
    """``first`` and what else is there, at most about ``LARGEST_BATCH``; True if the end was among it."""
    batch = list(first)
    while len(batch) < LARGEST_BATCH:
        try:
            more = frames.get_nowait()
        except queue.Empty:
            break
        if more is None:
            return batch, True
        batch += more
    return batch, False


def run(stdin: IO[bytes], acknowledge: Callable[[str], None], tell: Callable[[str], None]) -> int:
    """Place everything that comes; gives the exit status: 1 if something could not be placed at the end."""
    settings = read_frame(stdin)
    if settings is None:
        return 0
    frames: queue.Queue[list[Numbered] | None] = queue.Queue(maxsize=64)
    orphaned: list[float] = []

    def receive() -> None:
        while (found := read_frame(stdin)) is not None:
            frames.put(found)
        orphaned.append(time.monotonic() + LAST_SECONDS)
        frames.put(None)

    threading.Thread(target=receive, daemon=True).start()
    worker = Worker(settings, tell)
    try:
        ended = False
        while not ended:
            try:
                batch = frames.get(timeout=worker.waiting())
            except queue.Empty:
                worker.reach()
                continue
            if batch is None:
                break
            time.sleep(GATHER_SECONDS)
            batch, ended = gather(frames, batch)
            where = worker.place(batch, give_up_at=lambda: orphaned[0] if orphaned else None)
            acknowledge(f"{batch[-1][0]} {where}")
        worker.reach(at_once=True)
    except SpillFull as error:
        tell(f"decisions were lost, beginning with number {batch[0][0] if batch else 0}: {error}")
        return 1
    finally:
        worker.close()
    return 0


def main() -> None:
    """Serve the parent until it closes the pipe. Signals are for the gateway: it drains, and then closes it."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)

    def acknowledge(line: str) -> None:
        with suppress(OSError):  # the gateway is gone; what it left is written all the same
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    sys.exit(run(sys.stdin.buffer, acknowledge, lambda message: say(f"audit: {message}")))


if __name__ == "__main__":
    main()
