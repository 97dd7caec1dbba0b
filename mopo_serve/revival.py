"""Keeps the engines that the gateway started alive: one that dies or hangs is started again, a bounded number of times.

Meanwhile the gateway answers 503 with Retry-After, or by other replicas. An engine is started again only with the very
adapters that it had: files that have changed belong to scores that this gateway has not read.
"""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from mopo_eval.engine import Engine
from mopo_train.console import say
from mopo_train.errors import MopoError

WATCH_SECONDS = 1.0
"""Between two looks whether an engine still listens."""
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before the n-th restart in a row; there are no more than these."""
STEADY_SECONDS = 600.0
"""After which a restart is forgotten."""


class Care(NamedTuple):
    """What an engine needs beside its process."""

    before: Callable[[], None]
    """Called in a thread before a restart; raises MopoError where the engine must never be started again."""
    after: Callable[[int], Awaitable[None]]
    """Called with the engine's number once it is healthy again; raises MopoError if it is of no use."""
    hangs: Callable[[int], bool]
    """True if the engine with that number listens, but has answered nothing for long (`engines.Replica.hangs`)."""


async def _nothing(_: int) -> None:
    pass


NO_CARE = Care(lambda: None, _nothing, lambda _: False)


class Engines(NamedTuple):
    """What a gateway stands in front of."""

    running: Sequence[Engine]
    logs: Sequence[Path | None] = ()
    """Of those that it started: their last lines tell why they died."""
    care: Care = NO_CARE


class Budget:
    """How often an engine may still be started again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._spent: deque[float] = deque()

    def draw(self) -> float | None:
        """Seconds to wait before the next restart, which then counts; None if there may be no more."""
        now = self._clock()
        while self._spent and now - self._spent[0] > STEADY_SECONDS:
            self._spent.popleft()
        if len(self._spent) == len(PAUSES):
            return None
        self._spent.append(now)
        return PAUSES[len(self._spent) - 1]


async def keep_alive(engines: Engines) -> None:
    """Return when every engine is dead for good. One that we only attached to may come back by itself."""
    numbered = list(enumerate(engines.running))
    kept = [keep_one(engine, number, engines.care) for number, engine in numbered if engine.pid is not None]
    if len(kept) < len(numbered):
        kept.append(_for_ever())
    await asyncio.gather(*kept)


async def _for_ever() -> None:
    await asyncio.Event().wait()


async def keep_one(engine: Engine, number: int, care: Care) -> None:
    """Start ``engine`` again whenever it dies or hangs; return when that failed too often."""
    budget, name = Budget(), f"engine-{number}"
    while True:
        fate = await _fate_of(engine, number, care)
        if engine.restart is None:
            say(f"{name} {fate}")
            return
        if not await _revived(engine.restart, f"{name} {fate}", number, care, budget):
            return


async def _revived(restart: Callable[[], None], what: str, number: int, care: Care, budget: Budget) -> bool:
    """True once a dead engine is healthy again; False if that is not to be, which is told. ``what`` happened to it."""
    name = f"engine-{number}"
    while (pause := budget.draw()) is not None:
        say(f"{what}: starting it again in {pause:.0f} s; until then requests for it are answered 503")
        await asyncio.sleep(pause)
        try:
            await _in_thread(care.before)
        except MopoError as error:
            say(f"{name} is given up: {error}")
            return False
        try:
            await _in_thread(restart)
            await care.after(number)
        except MopoError as error:
            say(f"{name} could not be started again: {error}")
        else:
            say(f"{name} runs again")
            return True
    say(f"{name} is given up after {len(PAUSES)} restarts within {STEADY_SECONDS / 60:.0f} minutes")
    return False


async def _fate_of(engine: Engine, number: int, care: Care) -> str:
    """What an engine came to, once it did: ``died`` where nobody listens at its address, or ``hangs``."""
    place = urlsplit(engine.url)
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        try:
            async with asyncio.timeout(WATCH_SECONDS):
                _, writer = await asyncio.open_connection(place.hostname, place.port)
        except ConnectionRefusedError:
            return "died"
        except (TimeoutError, OSError):  # busy, not dead
            pass
        else:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        if care.hangs(number):
            return "hangs"


async def _in_thread(work: Callable[[], None]) -> None:
    """Run ``work`` in a thread that nobody waits for when the gateway stops: a model may load for minutes."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle(error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def run() -> None:
        failure: BaseException | None = None
        try:
            work()
        except BaseException as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is gone: the gateway has stopped
            loop.call_soon_threadsafe(settle, failure)

    threading.Thread(target=run, daemon=True).start()
    await done
