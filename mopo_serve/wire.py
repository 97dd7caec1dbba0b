"""The hot path's own HTTP/1.1 client: one POST, and its answer's bytes as they come.

On httptools' parser, as uvicorn is. It does what a proxy before engines on trusted addresses needs and no more: no
redirects, cookies, proxies, compression or HTTP/2. aiohttp's client, which does the rest (``upstream``), takes a third
more processor time per answer and half more per stream.
"""

import asyncio
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import httptools

KEEP_ALIVE_SECONDS = 4.0
"""Less than the 5 s after which uvicorn closes an idle connection, so that none is used while it closes."""
HIGH_WATER = 256 * 1024
"""Bytes of an answer that wait for a slow client before the engine is not read any more."""


class EngineUnreachable(Exception):
    """No connection to the engine could be made."""


class EngineGone(Exception):
    """The engine closed the connection, or said what is not HTTP, before its answer was complete."""


class EngineSilent(Exception):
    """The engine said nothing for too long."""


class Connection(asyncio.Protocol):
    """One connection to an engine; answers one request at a time."""

    def __init__(self, silence_seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._silence = silence_seconds
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._parts: deque[bytes] = deque()
        self._error: Exception | None = None
        self._paused = False
        self._size = 0
        self._heard = 0.0
        self._headed = self._keeps = self._extra = False
        self.complete = True
        """True once the answer is whole, or while there is none."""
        self.idle_since = 0.0
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        """Lower-case names; of several headers with one name the last."""

    @property
    def reusable(self) -> bool:
        """True if another request may be sent."""
        alive = self._transport is not None and not self._transport.is_closing()
        return self.complete and self._keeps and not self._extra and self._error is None and alive

    async def ask(self, request: bytes) -> None:
        """Send ``request``; returns when the answer's head is there. Raises EngineGone, EngineSilent."""
        assert self._transport is not None and self.complete
        self._parser = httptools.HttpResponseParser(self)
        self.status, self.headers = 0, {}
        self._parts.clear()
        self._size = 0
        self._error = None
        self.complete = self._headed = self._keeps = False
        self._heard = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._silence, self._check)
        self._transport.write(request)
        while not self._headed:
            await self._news()

    async def read(self) -> bytes:
        """The whole answer. Raises EngineGone, EngineSilent."""
        while not self.complete:
            await self._news()
        return self._take()

    async def parts(self) -> AsyncIterator[bytes]:
        """The answer's bytes as they come. Raises EngineGone, EngineSilent."""
        while True:
            if self._parts:
                yield self._take()
            elif self.complete:
                return
            else:
                await self._news()

    def abort(self) -> None:
        """End the connection at once, which tells the engine that nobody waits any more."""
        if self._transport is not None:
            self._transport.abort()

    def _take(self) -> bytes:
        parts = self._parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._size = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def _news(self) -> None:
        """Wait until something comes. Raises what ended the connection."""
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        if self._error is not None and not self._parts:
            raise self._error

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _check(self) -> None:
        """Ends a request to which the engine says nothing. Reading that is paused is not the engine's silence."""
        self._timer = None
        if self.complete:
            return
        left = self._heard + self._silence - self._loop.time()
        if left <= 0 and not self._paused:
            self._fail(EngineSilent())
            self.abort()
        else:
            self._timer = self._loop.call_later(max(left, 0.001) if not self._paused else self._silence, self._check)

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        self._wake()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = transport  # type: ignore[assignment]  # uvloop's are no asyncio.Transport

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        if self.complete:  # nobody asked
            self._keeps = False
            self.abort()
            return
        self._heard = self._loop.time()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail(EngineGone())
            self.abort()
            return
        if self._size > HIGH_WATER and not self._paused and not self.complete and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._keeps = False
        if not self.complete:
            bounded = b"content-length" in self.headers or b"transfer-encoding" in self.headers
            if self._headed and not bounded and exc is None:  # an answer may end with its connection
                self.complete = True
                self._wake()
            else:
                self._fail(EngineGone())

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        if not self.complete:
            self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        if not self.complete:
            self.status = self._parser.get_status_code()
            self._headed = self.status >= 200

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        if not self.complete:
            self._parts.append(body)
            self._size += len(body)

    def on_message_begin(self) -> None:
        """Called by the parser. An answer after the answer was not asked for: it belongs to nobody."""
        self._extra = self.complete

    def on_message_complete(self) -> None:
        """Called by the parser."""
        if not self._headed:  # 1xx: the answer is still to come
            self.status, self.headers = 0, {}
        elif not self.complete:
            self._keeps = self._parser.should_keep_alive()
            self.complete = True


class Exchange:
    """One request and its answer: a context that gives the connection back, or ends it if the answer is not whole."""

    def __init__(self, client: "WireClient", path: str, body: bytes, headers: bytes) -> None:
        self._client = client
        self._request = b"".join(
            (b"POST ", path.encode("ascii"), client.head, str(len(body)).encode(), b"\r\n", headers, b"\r\n", body)
        )
        self._connection: Connection | None = None

    async def __aenter__(self) -> Connection:
        """The answer, once its head is there. Raises EngineUnreachable, EngineGone, EngineSilent."""
        while True:
            connection, used = await self._client.connection()
            try:
                await connection.ask(self._request)
            except EngineGone:
                self._client.give_back(connection)
                if not used or connection.status:  # else it was closed while it lay idle: nothing was answered
                    raise
            except BaseException:
                self._client.give_back(connection)
                raise
            else:
                self._connection = connection
                return connection

    async def __aexit__(self, *_: object) -> None:
        """Give the connection back if it can be used again; end it otherwise."""
        if self._connection is not None:
            self._client.give_back(self._connection)


class WireClient:
    """Connections to one engine; as many as there are requests at the same time."""

    def __init__(self, url: str, *, silence_seconds: float, connect_seconds: float) -> None:
        place = urlsplit(url)
        self._host = place.hostname or ""
        self._port = place.port or (443 if place.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if place.scheme == "https" else None
        self._silence, self._connect = silence_seconds, connect_seconds
        self._idle: deque[Connection] = deque()
        """In the order of ``idle_since``; the last one is used next."""
        self._busy: set[Connection] = set()
        host = place.netloc.rpartition("@")[2]
        self.head = f" HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: ".encode()

    def post(self, path: str, body: bytes, headers: bytes = b"") -> Exchange:
        """Send ``body`` to ``path``. ``headers``: further ones, each with its line end."""
        return Exchange(self, path, body, headers)

    async def connection(self) -> tuple[Connection, bool]:
        """A connection to ask on, and whether it was used before. Raises EngineUnreachable."""
        now = time.monotonic()
        while self._idle:
            found = self._idle.pop()
            if self._fresh(found, now):
                self._busy.add(found)
                return found, True
            found.abort()
        try:
            async with asyncio.timeout(self._connect):
                _, made = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(self._silence), self._host, self._port, ssl=self._tls
                )
        except (OSError, TimeoutError) as error:
            raise EngineUnreachable from error
        self._busy.add(made)
        return made, False

    def give_back(self, connection: Connection) -> None:
        """Keep ``connection`` for the next request if it can be used again, else end it."""
        self._busy.discard(connection)
        now = time.monotonic()
        if connection.reusable:
            connection.idle_since = now
            self._idle.append(connection)
        else:
            connection.abort()
        # What a crowd has left behind goes, one with each request.
        if self._idle and not self._fresh(self._idle[0], now):
            self._idle.popleft().abort()

    @staticmethod
    def _fresh(connection: Connection, now: float) -> bool:
        return connection.reusable and now - connection.idle_since < KEEP_ALIVE_SECONDS

    def drop(self) -> None:
        """End every connection, whatever is going on in it; new ones can be made."""
        for connection in (*self._idle, *self._busy):
            connection.abort()
        self._idle.clear()
