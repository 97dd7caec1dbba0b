"""Engines asked, or started, by workers of a Ray cluster.

The command takes each answer as it comes and keeps it, so a worker that is lost loses what was in flight.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mopo_eval.answers import Answer, Question, Refusal, Sampling, ask
from mopo_eval.endpoint import Client, Endpoint, Patience
from mopo_eval.engine import open_engine
from mopo_eval.fleet import Lost
from mopo_train import __version__
from mopo_train.errors import EngineError
from mopo_train.executor.cluster import Cluster, check_version, connected, import_ray, users_error
from mopo_train.family import PolicyFamily

CLOSING_SECONDS = 60.0


class Assignment(NamedTuple):
    """What a worker needs to answer."""

    engine: str
    """URL, or kind of an engine to start."""
    root: Path
    family: PolicyFamily
    sampling: Sampling
    concurrency: int
    patience: Patience
    key: str | None = None
    """Bearer token of a running engine."""
    version: str = __version__


class Worker:
    """An actor with one engine: attached by its URL, or started on the worker's machine."""

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._stack = ExitStack()
        self._opening = asyncio.Lock()
        self._client: Client | None = None

    async def open(self) -> str:
        """Attach to the engine or start it, once; returns its kind. Raises EngineError, ClusterError."""
        async with self._opening:
            if self._client is None:
                self._client = Client(await asyncio.to_thread(self._open))
        return self._client.endpoint.kind

    def _open(self) -> Endpoint:
        asked = self._assignment
        check_version(asked.version)
        if not asked.engine.startswith("http") and not (asked.root / "family.json").is_file():
            raise EngineError(
                f"a worker does not see '{asked.root}', so it cannot start an engine; use a file system that all "
                "machines share, or give the URLs of running engines with --engine."
            )
        engine = self._stack.enter_context(open_engine(asked.engine, asked.root, asked.family, key=asked.key))
        return Endpoint(engine.url, engine.kind, asked.concurrency, asked.patience, asked.key, engine.restart)

    async def answer(self, question: Question) -> Answer | Refusal:
        """The outcome of a question. Raises EngineError."""
        await self.open()
        assert self._client is not None
        return await ask(self._client, question, self._assignment.sampling)

    async def close(self) -> None:
        """End an engine that was started."""
        if self._client is not None:
            await self._client.close()
        await asyncio.to_thread(self._stack.close)


class RayAsker:
    """A `Worker` as the fleet sees it."""

    def __init__(self, actor: Any, name: str) -> None:
        self.actor, self.name = actor, name

    async def answer(self, question: Question) -> Answer | Refusal:
        """As `fleet.Asker`."""
        outcome: Answer | Refusal = await _result(self.actor.answer.remote(question))
        return outcome

    async def close(self) -> None:
        """Wait until the worker has ended its engine; one that is lost has none."""
        with contextlib.suppress(Lost, TimeoutError):
            await asyncio.wait_for(_result(self.actor.close.remote()), CLOSING_SECONDS)


@contextmanager
def ray_askers(cluster: Cluster, assignments: list[Assignment]) -> Iterator[list[RayAsker]]:
    """A worker for each of ``assignments``, with its engine ready. Raises ClusterError, EngineError."""
    with connected(cluster) as found:
        ray = import_ray()
        options = {"num_cpus": found.cpus, "num_gpus": found.gpus, "max_restarts": -1, "scheduling_strategy": "SPREAD"}
        actor = ray.remote(Worker)
        made = [
            RayAsker(actor.options(**options, max_concurrency=each.concurrency + 2).remote(each), each.engine)
            for each in assignments
        ]
        asyncio.run(_opened(made))
        yield made


async def _opened(askers: list[RayAsker]) -> None:
    await asyncio.gather(*(_result(asker.actor.open.remote()) for asker in askers))


async def _result(reference: Any) -> Any:
    """What a worker gave. Raises the user's error that it raised, or Lost."""
    from ray.exceptions import RayActorError, RayTaskError

    try:
        return await reference
    except RayTaskError as error:
        raise users_error(error) from None
    except RayActorError as error:
        raise Lost(" ".join(str(error).split())[:200]) from error
