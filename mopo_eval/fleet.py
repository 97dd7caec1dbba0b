"""Asking engines: each is asked what comes next, many at once, and what it cannot answer goes to the others.

An engine that fails for good leaves its questions to the rest. A worker that is lost, since its machine died, took what
was in flight with it: that is asked again, and nothing else.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from mopo_eval.answers import Answer, Question, Refusal, Sampling, ask
from mopo_eval.endpoint import Client, Endpoint
from mopo_train.console import say
from mopo_train.errors import EngineError

REVIVAL_SECONDS = 600.0
"""A lost worker is waited for so long: it starts an engine anew, perhaps with a large model."""
PAUSE_SECONDS = 0.5


class Lost(Exception):
    """The worker that was asked is gone; another takes its place."""


class Asker(Protocol):
    """One engine that answers."""

    name: str
    """For messages."""

    async def answer(self, question: Question) -> Answer | Refusal:
        """The outcome. Raises EngineError where the engine is of no more use, Lost where to ask again."""
        ...

    async def close(self) -> None:
        """Nothing more will be asked."""
        ...


class LocalAsker:
    """An engine that is asked from here."""

    def __init__(self, endpoint: Endpoint, sampling: Sampling) -> None:
        self.name, self._client, self._sampling = endpoint.kind, Client(endpoint), sampling

    async def answer(self, question: Question) -> Answer | Refusal:
        """As `Asker`."""
        return await ask(self._client, question, self._sampling)

    async def close(self) -> None:
        """As `Asker`."""
        await self._client.close()


class Fleet:
    """Engines that share the questions; one of them is a fleet, too."""

    def __init__(self, askers: Sequence[Asker], concurrency: int, on_answer: Callable[[Answer], None]) -> None:
        """``concurrency`` questions in flight at each engine; ``on_answer`` is told every answer as it comes."""
        self._askers, self._alive = askers, list(askers)
        self._concurrency, self._on_answer = concurrency, on_answer
        self._again: deque[Question] = deque()
        self._refused: list[Refusal] = []
        self._failure: EngineError | None = None

    async def ask(self, asked: Iterable[Question]) -> list[Refusal]:
        """Ask every question; returns those that were refused for good.

        Raises EngineError when no engine is left, and what ``on_answer`` raises.
        """
        try:
            await self._ask(iter(asked))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None  # the others failed for the same reason
        finally:
            await asyncio.gather(*(asker.close() for asker in self._askers))
        return self._refused

    async def _ask(self, waiting: Iterator[Question]) -> None:
        def take() -> Question | None:
            return self._again.popleft() if self._again else next(waiting, None)

        first = True
        while first or self._again:  # again where an engine failed after the others had nothing more to do
            first = False
            if not self._alive:
                assert self._failure is not None
                raise self._failure
            async with asyncio.TaskGroup() as group:
                for asker in self._alive:
                    for _ in range(self._concurrency):
                        group.create_task(self._work(asker, take))
            if not self._alive and (left := next(waiting, None)) is not None:
                self._again.append(left)

    async def _work(self, asker: Asker, take: Callable[[], Question | None]) -> None:
        while asker in self._alive and (question := take()) is not None:
            try:
                outcome = await self._patiently(asker, question)
            except EngineError as error:
                self._again.append(question)
                self._fail(asker, error)
                return
            self._refused.append(outcome) if isinstance(outcome, Refusal) else self._on_answer(outcome)

    async def _patiently(self, asker: Asker, question: Question) -> Answer | Refusal:
        began = time.monotonic()
        while True:
            try:
                return await asker.answer(question)
            except Lost as error:
                if time.monotonic() - began > REVIVAL_SECONDS:
                    raise EngineError(f"the worker of {asker.name} was lost and did not come back: {error}") from error
                await asyncio.sleep(PAUSE_SECONDS)

    def _fail(self, asker: Asker, error: EngineError) -> None:
        if asker not in self._alive:
            return
        self._alive.remove(asker)
        self._failure = error
        if self._alive:
            say(f"warning: {error}; the other {len(self._alive)} engines go on without it")
