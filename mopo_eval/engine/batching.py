"""One thread that owns the model: requests wait in line and are answered in batches, whatever their policies."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mopo_train.generation import Piece, Row

MAX_ROWS = 32
"""Answers in one batch."""

Generate = Callable[["Sequence[Row]", "Callable[[Row, Piece], None]"], None]


class Job:
    """The answers that one request asks for. Made and read on the event loop, filled by the worker."""

    def __init__(self, rows: "list[Row]", *, stream: bool) -> None:
        self.rows, self._stream = rows, stream
        self._index = {id(row): index for index, row in enumerate(rows)}
        self._pending: list[tuple[int, Piece]] = []
        self._open = len(rows)
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Queue[list[tuple[int, Piece]] | Exception | None] = asyncio.Queue()

    def add(self, row: "Row", piece: "Piece") -> None:
        """From the worker: ``piece`` belongs to ``row``. Told at once to a stream, else when all is done."""
        self._pending.append((self._index[id(row)], piece))
        self._open -= piece.finish is not None
        if self._stream or self._open == 0:
            self._tell(self._pending)
            self._pending = []

    def end(self, error: Exception | None = None) -> None:
        """From the worker: nothing more comes."""
        self._tell(error)

    def cancel(self) -> None:
        """Nobody waits for the answers any more: they leave the batch at its next token."""
        for row in self.rows:
            row.cancelled = True
        self._news.put_nowait(None)

    async def pieces(self) -> "AsyncIterator[list[tuple[int, Piece]]]":
        """Pieces with the index of their answer, as they come. Raises what generating them raised."""
        while (news := await self._news.get()) is not None:
            if isinstance(news, Exception):
                raise news
            yield news

    def _tell(self, news: "list[tuple[int, Piece]] | Exception | None") -> None:
        try:
            self._loop.call_soon_threadsafe(self._news.put_nowait, news)
        except RuntimeError:  # the loop is closed: the server is ending
            pass


class Worker:
    """Answers jobs on one thread, batch after batch, in the order in which they came."""

    def __init__(self, generate: Generate, max_rows: int = MAX_ROWS) -> None:
        self._generate, self._max_rows = generate, max_rows
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._running = 0
        threading.Thread(target=self._work, name="generation", daemon=True).start()

    def submit(self, job: Job) -> None:
        """Put ``job`` in line."""
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()

    def load(self) -> int:
        """Requests waiting or being answered."""
        with self._changed:
            return len(self._waiting) + self._running

    def _work(self) -> None:
        while True:
            batch = self._next_batch()
            owner = {id(row): job for job in batch for row in job.rows}
            failure: Exception | None = None
            try:
                self._generate(
                    [row for job in batch for row in job.rows],
                    lambda row, piece, owner=owner: owner[id(row)].add(row, piece),  # type: ignore[misc]
                )
            except Exception as error:  # noqa: BLE001 - told to every client of the batch; the worker lives on
                failure = error
            with self._changed:
                self._running = 0
            for job in batch:
                job.end(failure)

    def _next_batch(self) -> list[Job]:
        """The first job in line and those behind it that fit beside it."""
        with self._changed:
            while not self._waiting:
                self._changed.wait()
            batch = [self._waiting.popleft()]
            rows = len(batch[0].rows)
            while self._waiting and (rows := rows + len(self._waiting[0].rows)) <= self._max_rows:
                batch.append(self._waiting.popleft())
            self._running = len(batch)
            return batch
