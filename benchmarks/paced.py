"""An engine that decodes by the clock: continuous batching whose steps take a known time, for capacity checks.

Each step gives every request in the batch one token and takes ``BASE + EACH * batch`` seconds, as a GPU's decoding
steps do; up to ``SLOTS`` requests are in the batch, others wait and join between steps. It sleeps instead of computing,
so that a busy machine disturbs it little.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from starlette.types import Receive, Scope, Send

from tests.mopo_serve.stub import listening

BASE, EACH, SLOTS = 0.010, 0.001, 16


class PacedEngine:
    """An ASGI application; ``decode`` must run beside it."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._come = asyncio.Event()

    async def decode(self) -> None:
        """Make steps for ever."""
        batch: list[tuple[int, asyncio.Future[None]]] = []
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            while self._waiting and len(batch) < SLOTS:
                batch.append(self._waiting.popleft())
            if not batch:
                self._come.clear()
                await self._come.wait()
                due = clock()
                continue
            due += BASE + EACH * len(batch)
            await asyncio.sleep(max(0.0, due - clock()))
            batch = [(left - 1, done) for left, done in batch]
            for left, done in batch:
                if left == 0 and not done.done():
                    done.set_result(None)
            batch = [each for each in batch if each[0] > 0]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one chat."""
        if scope["type"] != "http":
            return
        tokens = int(json.loads((await receive())["body"])["max_tokens"])
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((tokens, done))
        self._come.set()
        await done
        body = json.dumps({"choices": [], "usage": {"completion_tokens": tokens}}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def paced_engine() -> AsyncIterator[str]:
    """A paced engine on a free loopback port; gives its URL."""
    engine = PacedEngine()
    decoding = asyncio.create_task(engine.decode())
    try:
        async with listening(engine) as url:
            yield url
    finally:
        decoding.cancel()
        with suppress(asyncio.CancelledError):
            await decoding
