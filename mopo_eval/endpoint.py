"""Requests to an OpenAI-compatible endpoint: many in flight, each repeated while its failure may pass.

Through aiohttp: for each request httpx spends five times its processor time (``benchmarks/evaluation.py``). What is
asked and what becomes of the answers is for ``answers`` and ``judges``.
"""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from mopo_train.console import say
from mopo_train.errors import EngineError

Item = TypeVar("Item")
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
"""Never behind a proxy of the environment."""
LONGEST_WAIT = 30.0
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=600.0)
"""Seconds. A CPU engine with a full queue may take minutes over one answer."""
MOST_RESTARTS = 5
"""Of an engine that was started here, while it is asked."""


class Patience(NamedTuple):
    """How long to go on after failures that may pass: no connection, timeouts, 429 and 5xx."""

    attempts: int = 6
    first_wait: float = 0.5
    """Seconds before the second attempt; doubled each time, with jitter, or longer if the engine says so."""


class Endpoint(NamedTuple):
    """Where and how to ask."""

    url: str
    """Base URL without ``/v1``."""
    kind: str
    concurrency: int = 32
    patience: Patience = Patience()
    key: str | None = None
    """Sent as a bearer token."""
    restart: Callable[[], None] | None = None
    """Starts the engine again at its address; None where somebody else started it. Raises EngineError."""


class Reply(NamedTuple):
    """What came back, read whole."""

    status: int
    body: bytes
    retry_after: str = ""

    @property
    def text(self) -> str:
        """The body for people."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as a program reads it. Raises ValueError."""
        return json.loads(self.body)

    @property
    def may_pass(self) -> bool:
        """True for a timeout, too many requests, and failures of the endpoint: worth another attempt."""
        return self.status in (408, 429) or self.status >= 500

    @property
    def message(self) -> str:
        """That of an OpenAI-shaped error, or the beginning of the body."""
        try:
            found = self.json()
            error = found.get("error", found) if isinstance(found, dict) else found
            return str(error["message"])[:300]
        except (ValueError, LookupError, TypeError, AttributeError):
            return self.text[:300]

    @property
    def wait(self) -> float:
        """Seconds that the endpoint asks to wait; 0 if it does not say, or says it as a date."""
        try:
            return max(0.0, float(self.retry_after))
        except ValueError:
            return 0.0


class Silent(EngineError):
    """An engine that gave no reply at all: it has died, or hangs."""


class Client:
    """Asks an endpoint, of one event loop; opens connections when they are needed, and closes them at the end.

    An engine that was started here and died is started again, so that what runs overnight is finished in the morning.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._session: aiohttp.ClientSession | None = None
        self._restarts, self._restarting = 0, asyncio.Lock()
        self._gone = False
        """It could not be started again: who else waits for it does not try once more."""

    async def chat(self, body: dict[str, Any]) -> Reply:
        """As ``post``, of a chat completion."""
        return await self.post("/v1/chat/completions", body)

    async def post(self, path: str, body: dict[str, Any]) -> Reply:
        """The first reply that is not worth a retry. Raises EngineError after the last attempt."""
        while True:
            restarts = self._restarts
            try:
                return await self._patiently(path, body)
            except Silent as error:
                if not await self._restarted(restarts, error):
                    raise

    async def _restarted(self, before: int, error: EngineError) -> bool:
        """True where it is another engine now than that of ``before`` restarts, which failed with ``error``.

        Raises EngineError where it cannot be started.
        """
        async with self._restarting:
            if self._restarts > before:
                return True
            if self._gone or self.endpoint.restart is None or before == MOST_RESTARTS:
                return False
            say(f"warning: {error}; starting it again ({before + 1} of {MOST_RESTARTS} times)")
            self._gone = True
            await asyncio.to_thread(self.endpoint.restart)
            self._gone = False
            self._restarts += 1
            return True

    async def _patiently(self, path: str, body: dict[str, Any]) -> Reply:
        patience, problem, kind = self.endpoint.patience, "", EngineError
        for attempt in range(patience.attempts):
            wait = 0.0
            try:
                reply = await self._post(path, body)
                if not reply.may_pass:
                    return reply
                problem, wait, kind = f"it answered {reply.status}: {reply.message}", reply.wait, EngineError
            except (aiohttp.ClientError, TimeoutError) as error:  # no connection, cut connection, timeout
                problem, kind = f"{type(error).__name__}{f': {error}' if str(error) else ''}", Silent
            if attempt + 1 < patience.attempts:
                backoff = patience.first_wait * 2**attempt * random.uniform(0.5, 1.0)
                await asyncio.sleep(min(LONGEST_WAIT, max(wait, backoff)))
        raise kind(f"the engine at {self.endpoint.url} failed {patience.attempts} times in a row; {problem}")

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def _post(self, path: str, body: dict[str, Any]) -> Reply:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),  # whoever asks decides how many are in flight
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=TIMEOUT,
                headers={"authorization": f"Bearer {self.endpoint.key}"} if self.endpoint.key else None,
                proxy=_proxy(self.endpoint.url),
            )
        async with self._session.post(self.endpoint.url + path, json=body, allow_redirects=False) as response:
            return Reply(response.status, await response.read(), response.headers.get("retry-after", ""))


def _proxy(url: str) -> str | None:
    """That of the environment; aiohttp's own ``trust_env`` would take passwords from ~/.netrc, too."""
    parts = urlsplit(url)
    if parts.hostname in LOOPBACK or proxy_bypass(parts.netloc):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")


async def in_flight(endpoint: Endpoint, items: Iterable[Item], work: Callable[[Client, Item], Awaitable[None]]) -> None:
    """Do ``work`` on every item, ``endpoint.concurrency`` at a time. Raises what the first failing one raises."""
    client, waiting = Client(endpoint), iter(items)

    async def worker() -> None:
        for item in waiting:  # shared by the workers: each item is taken once
            await work(client, item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(endpoint.concurrency):
                group.create_task(worker())
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None  # the others failed for the same reason
    finally:
        await client.close()
