"""The gateway's end of the audit: takes decisions in the event loop and hands them to a worker process.

``record`` costs the event loop a few microseconds; encoding for the database, hashing and committing happen in the
worker, on another core. What the worker has not acknowledged is kept, and given to the next worker if one dies.
"""

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
from collections import deque
from pathlib import Path

from mopo_serve.audit.pipe import Settings, frame
from mopo_serve.audit.spill import LARGEST_BYTES
from mopo_serve.audit.store import new_writer
from mopo_serve.decisions import Decision
from mopo_train.errors import MopoError

log = logging.getLogger("mopo_serve")
LARGEST_FRAME = 1000
"""Decisions in one frame."""
PIPE_BYTES = 4 * 1024 * 1024
"""Handed to the pipe but not read by the worker, beyond which handing over waits."""
RESTART_SECONDS = (0.1, 0.5, 2.0, 5.0)
"""Waits before a new worker is started after the first, second, ... death in a row."""


class NotWritten(MopoError):
    """Decisions did not become durable in time."""


class AuditWriter:
    """A sink of decisions. Make it, ``start`` it in the event loop, and ``close`` it there.

    ``queue_rows`` and ``queue_bytes`` bound what is recorded but not durable: beyond them ``accepting`` is false, and a
    gateway refuses new requests. What is recorded all the same, by requests in flight, is kept.
    """

    def __init__(
        self,
        place: str,
        spill: Path,
        *,
        queue_rows: int = 50_000,
        queue_bytes: int = 256 * 1024 * 1024,
        spill_bytes: int = LARGEST_BYTES,
    ) -> None:
        self._settings = Settings(place, new_writer(), str(spill), spill_bytes)
        self._queue_rows, self._queue_bytes = queue_rows, queue_bytes
        self._unsent: deque[tuple[int, Decision]] = deque()
        self._sent: deque[tuple[int, Decision]] = deque()  # and not acknowledged
        self._ordinal = self._acknowledged = self._bytes = 0
        self._scheduled = self._closing = False
        self._worker: asyncio.subprocess.Process | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.spilling = False
        """True while decisions go to the spill file because the database is away."""

    async def start(self) -> None:
        """Start the worker. The store must exist."""
        self._loop = asyncio.get_running_loop()
        await self._start_worker()
        self._tasks = [asyncio.create_task(self._keep_worker())]

    @property
    def queued(self) -> int:
        """Decisions that are not durable yet."""
        return self._ordinal - self._acknowledged

    @property
    def accepting(self) -> bool:
        """False while so much waits to become durable that new requests should be refused."""
        return self.queued < self._queue_rows and self._bytes < self._queue_bytes

    @property
    def worker_pid(self) -> int | None:
        """Process id of the worker that runs now."""
        return None if self._worker is None else self._worker.pid

    def record(self, decision: Decision) -> None:
        """Take ``decision``; it is handed to the worker in this turn of the event loop."""
        self._ordinal += 1
        self._bytes += len(decision.text or "")
        self._unsent.append((self._ordinal, decision))
        if not self._scheduled and self._loop is not None:
            self._scheduled = True
            self._loop.call_soon(self._send)

    async def written(self, seconds: float = 10.0) -> None:
        """Return when everything recorded so far is durable. Raises NotWritten after ``seconds``."""
        if self.queued == 0:
            return
        done = asyncio.get_running_loop().create_future()
        self._waiters.append((self._ordinal, done))
        try:
            async with asyncio.timeout(seconds):
                await done
        except TimeoutError as error:
            raise NotWritten(f"the audit could not be written within {seconds:g} s; try again later") from error

    async def close(self, seconds: float = 30.0) -> int:
        """Let the worker place what is left and end; gives how many decisions were not acknowledged by then."""
        self._closing = True
        self._send()
        for task in self._tasks:
            task.cancel()
        worker = self._worker
        if worker is None or worker.stdin is None:
            return self.queued
        acknowledging = asyncio.create_task(self._read_acknowledgements(worker))
        worker.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await worker.wait()
                await acknowledging
        acknowledging.cancel()
        return self.queued

    def _send(self) -> None:
        """Hand what waits to the worker, as far as its pipe has room."""
        self._scheduled = False
        pipe = self._worker.stdin if self._worker else None
        while self._unsent and pipe is not None and not pipe.is_closing():
            if not self._closing and pipe.transport.get_write_buffer_size() > PIPE_BYTES:
                return  # the next acknowledgement comes back here
            part = [self._unsent.popleft() for _ in range(min(LARGEST_FRAME, len(self._unsent)))]
            self._sent.extend(part)
            pipe.write(frame([(ordinal, tuple(decision)) for ordinal, decision in part]))

    async def _start_worker(self) -> None:
        """Start a worker, and give it everything that was not acknowledged."""
        self._worker = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mopo_serve.audit.worker", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            start_new_session=os.name == "posix",
        )  # fmt: skip
        pipe = self._worker.stdin
        assert pipe is not None
        pipe.write(frame(self._settings))
        self._unsent.extendleft(reversed(self._sent))
        self._sent.clear()
        self._send()

    async def _keep_worker(self) -> None:
        """Read acknowledgements, and start a new worker whenever one ends."""
        deaths = 0
        while self._worker is not None:
            before = self._acknowledged
            await self._read_acknowledgements(self._worker)
            status = await self._worker.wait()
            deaths = 1 if self._acknowledged > before else deaths + 1
            log.error("the audit's worker ended with status %s; starting another, nothing is lost", status)
            await asyncio.sleep(RESTART_SECONDS[min(deaths, len(RESTART_SECONDS)) - 1])
            try:
                await self._start_worker()
            except OSError as error:  # no memory, process or file left for one; its predecessor ends once more
                log.error("the audit's worker cannot be started: %s; trying again", error)

    async def _read_acknowledgements(self, worker: asyncio.subprocess.Process) -> None:
        """Until the worker ends."""
        assert worker.stdout is not None
        async for line in worker.stdout:
            ordinal, _, where = line.decode("ascii").strip().partition(" ")
            self.spilling = where == "spilled"
            self._acknowledge(int(ordinal))

    def _acknowledge(self, ordinal: int) -> None:
        """Everything up to ``ordinal`` is durable."""
        self._acknowledged = max(self._acknowledged, ordinal)
        while self._sent and self._sent[0][0] <= ordinal:
            self._bytes -= len(self._sent.popleft()[1].text or "")
        while self._waiters and self._waiters[0][0] <= ordinal:
            done = self._waiters.popleft()[1]
            if not done.done():
                done.set_result(None)
        self._send()
