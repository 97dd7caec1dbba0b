"""Replicas of an engine: whose turn it is, who is left alone for a while, and who is well again.

A request goes to the replica that last saw its beginning (its prefix is cached there), unless that one has clearly
more to do than the least busy one. A replica that fails several times in a row is left alone for a time that grows
(a circuit breaker); one request or health check that succeeds ends it.
"""

import asyncio
import logging
import math
import time
import zlib
from collections.abc import Awaitable, Callable, Collection, Sequence

from mopo_serve.openai_errors import ApiError, unavailable
from mopo_serve.upstream import Upstream
from mopo_train.errors import MopoError

SLACK = 4
"""Requests that the replica with the cached prefix may have more than the least busy one."""
FAILURES = 3
"""In a row, before a replica is left alone."""
PAUSE_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0)
"""How long; the n-th time in a row, and the last one from then on."""
CHECK_SECONDS = 2.0
"""Between two health checks of a replica."""
HANG_SECONDS = 30.0
"""Of failed health checks, after which a replica counts as hanging: requests that wait for it are given up."""
log = logging.getLogger("mopo_serve")


class Replica:
    """One engine and what is known of it."""

    def __init__(self, name: str, upstream: Upstream, clock: Callable[[], float] = time.monotonic) -> None:
        self.name, self.upstream = name, upstream
        self.outstanding = 0
        """Requests that it is answering."""
        self._clock = clock
        self._failed = 0
        self._pauses = 0
        self._until = 0.0
        self._trying = False
        self._sick_since: float | None = None
        """When a health check failed, and all since then."""
        self.returned: Callable[[Replica], Awaitable[None]] | None = None
        """Is called when it is healthy after failures: it may be another process, without what was loaded at run time.
        Raises MopoError."""

    @property
    def available(self) -> bool:
        """False while it is left alone; after that, one request at a time may try it."""
        if not self._pauses:
            return True
        return self._clock() >= self._until and not self._trying

    @property
    def well(self) -> bool:
        """False from a pause on until it answers again."""
        return not self._pauses

    @property
    def wait(self) -> float:
        """Seconds until it may be tried again."""
        return max(0.0, self._until - self._clock()) if self._pauses else 0.0

    @property
    def hangs(self) -> bool:
        """True once its health checks have failed for so long that it will not come back by itself."""
        return self._sick_since is not None and self._clock() - self._sick_since >= HANG_SECONDS

    def start_over(self) -> None:
        """Forget its failures: its engine is a new one."""
        self._failed = self._pauses = 0
        self._sick_since = None

    def begin(self) -> None:
        """A request is sent to it."""
        self.outstanding += 1
        if self._pauses:
            self._trying = True

    def end(self, *, failed: bool | None) -> None:
        """A request ended. ``failed`` None: without saying anything about the engine (the client left)."""
        self.outstanding -= 1
        self._trying = False
        if failed is not None:
            self._judge(not failed)

    def _judge(self, well: bool) -> None:
        if well:
            if self._pauses:
                log.warning("engine %s answers again", self.name)
            self._failed = self._pauses = 0
            return
        self._failed += 1
        if self._failed >= FAILURES and self._clock() >= self._until:
            seconds = PAUSE_SECONDS[min(self._pauses, len(PAUSE_SECONDS) - 1)]
            self._until = self._clock() + seconds
            self._pauses += 1
            log.warning("engine %s failed %d times in a row: left alone for %.0f s", self.name, self._failed, seconds)

    async def check(self) -> None:
        """Ask for its health. One that hangs for long loses its connections, so that waiting requests go elsewhere."""
        well = await self.upstream.healthy()
        if well and self.returned is not None and (self._pauses or self._sick_since is not None):
            try:
                await self.returned(self)
            except MopoError as error:
                log.warning("engine %s lacks an adapter: %s", self.name, error)
        if not well:
            self._judge(False)
            self._sick_since = self._clock() if self._sick_since is None else self._sick_since
        else:
            self._sick_since = None
            if self._pauses:
                self._judge(True)
        if self.hangs and self.outstanding:
            log.warning("engine %s hangs: giving up %d requests", self.name, self.outstanding)
            self.upstream.wire.drop()


class Pool:
    """The replicas behind a gateway."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self.replicas = list(replicas)

    def choose(self, prefix: Callable[[], bytes], tried: Collection[Replica] = ()) -> Replica:
        """The replica for a request that begins with ``prefix``, none of those ``tried``. Raises ApiError (503)."""
        replicas = self.replicas
        if len(replicas) == 1 and not tried and replicas[0].available:
            return replicas[0]
        usable = [replica for replica in replicas if replica not in tried and replica.available]
        if not usable:
            raise self._nobody()
        start = zlib.crc32(prefix()) % len(replicas)
        near = next(each for each in replicas[start:] + replicas[:start] if each in usable)
        least = min(usable, key=lambda replica: replica.outstanding)
        return near if near.outstanding <= least.outstanding + SLACK else least

    def others(self, tried: Collection[Replica]) -> bool:
        """True if a replica is left that was not tried."""
        return any(replica.available and replica not in tried for replica in self.replicas)

    async def healthy(self) -> bool:
        """True if any replica says that it is well."""
        return any(await asyncio.gather(*(replica.upstream.healthy() for replica in self.replicas)))

    async def watch(self) -> None:
        """Check every replica, for ever."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            await asyncio.gather(*(replica.check() for replica in self.replicas))

    async def close(self) -> None:
        """Close every connection."""
        await asyncio.gather(*(replica.upstream.close() for replica in self.replicas))

    def _nobody(self) -> ApiError:
        error = unavailable("no engine can be reached; try again")
        error.retry_after = max(1, math.ceil(min(replica.wait for replica in self.replicas)))
        return error
