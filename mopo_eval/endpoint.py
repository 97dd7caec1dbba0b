"""Requests to an OpenAI-compatible endpoint: many in flight, each repeated while its failure may pass.

What is asked and what becomes of the answers is for ``answers`` and ``judges``.
"""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar

import httpx

from mopo_train.errors import EngineError

Item = TypeVar("Item")
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
"""Never behind a proxy of the environment."""
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
LONGEST_WAIT = 30.0
TIMEOUT = httpx.Timeout(connect=10.0, read=600.0, write=60.0, pool=None)
"""Seconds. A CPU engine with a full queue may take minutes over one answer."""


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


async def in_flight(
    endpoint: Endpoint, items: Iterable[Item], work: Callable[[httpx.AsyncClient, Item], Awaitable[None]]
) -> None:
    """Do ``work`` on every item, ``endpoint.concurrency`` at a time. Raises what the first failing one raises."""
    waiting = iter(items)

    certificates = httpx.create_ssl_context(trust_env=_proxied(endpoint))

    async def worker() -> None:
        # One client, with one connection, per worker: a shared pool looks through all connections for every request,
        # which at 32 in flight costs three times the processor time.
        async with open_client(endpoint, certificates) as client:
            for item in waiting:  # shared by the workers: each item is taken once
                await work(client, item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(endpoint.concurrency):
                group.create_task(worker())
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None  # the others failed for the same reason


def open_client(endpoint: Endpoint, certificates: ssl.SSLContext | None = None) -> httpx.AsyncClient:
    """A client for ``endpoint``; ``certificates``: loaded once for many clients."""
    proxied = _proxied(endpoint)
    return httpx.AsyncClient(
        base_url=endpoint.url,
        timeout=TIMEOUT,
        verify=certificates or httpx.create_ssl_context(trust_env=proxied),
        trust_env=proxied,
        headers={"authorization": f"Bearer {endpoint.key}"} if endpoint.key else {},
    )


class Clients:
    """Clients of an engine that are not in use: one for each request in flight, see `in_flight`."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._certificates = httpx.create_ssl_context(trust_env=_proxied(endpoint))
        self._idle: list[httpx.AsyncClient] = []

    @asynccontextmanager
    async def one(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client for one request."""
        client = self._idle.pop() if self._idle else open_client(self.endpoint, self._certificates)
        try:
            yield client
        finally:
            self._idle.append(client)

    async def close(self) -> None:
        """Close those that are idle."""
        for client in self._idle:
            await client.aclose()
        self._idle.clear()


def _proxied(endpoint: Endpoint) -> bool:
    return httpx.URL(endpoint.url).host not in LOOPBACK


async def post_chat(client: httpx.AsyncClient, endpoint: Endpoint, body: dict[str, Any]) -> httpx.Response:
    """As ``post``, of a chat completion."""
    return await post(client, endpoint, "/v1/chat/completions", body)


async def post(client: httpx.AsyncClient, endpoint: Endpoint, path: str, body: dict[str, Any]) -> httpx.Response:
    """The first response that is not worth a retry. Raises EngineError after the last attempt."""
    patience, problem = endpoint.patience, ""
    for attempt in range(patience.attempts):
        wait = 0.0
        try:
            response = await client.post(path, json=body)
            if response.status_code not in RETRIED:
                return response
            problem = f"it answered {response.status_code}: {error_message(response)}"
            wait = _retry_after(response)
        except httpx.TransportError as error:  # no connection, cut connection, timeout
            problem = f"{type(error).__name__}{f': {error}' if str(error) else ''}"
        if attempt + 1 < patience.attempts:
            backoff = patience.first_wait * 2**attempt * random.uniform(0.5, 1.0)
            await asyncio.sleep(min(LONGEST_WAIT, max(wait, backoff)))
    raise EngineError(f"the engine at {endpoint.url} failed {patience.attempts} times in a row; {problem}")


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the engine asks to wait; 0 if it does not say, or says it as a date."""
    try:
        return max(0.0, float(response.headers.get("retry-after", "0")))
    except ValueError:
        return 0.0


def error_message(response: httpx.Response) -> str:
    """The message of an OpenAI-shaped error, or the beginning of the body."""
    try:
        found = response.json()
        error = found.get("error", found) if isinstance(found, dict) else found
        return str(error["message"])[:300]
    except (ValueError, LookupError, TypeError, AttributeError):
        return response.text[:300]
