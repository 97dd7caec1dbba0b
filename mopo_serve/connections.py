"""Connections that cannot be held open for nothing: bounds on how slowly and how much a client may send and read.

uvicorn bounds idle connections by itself; not those that send a head byte by byte or never read their answer.
"""

import asyncio
import re
from collections.abc import Callable
from typing import Any

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mopo_serve.client import CONNECTION
from mopo_serve.openai_errors import unavailable

HEAD_SECONDS = 10.0
"""From a connection, or the first byte of a request, to the end of the request's head."""
HEAD_BYTES = 64 * 1024
"""Of a head, and of what stands between two parts of a chunked body or after the last one (trailers)."""
BODY_SECONDS = 60.0
"""From the end of the head to the end of the body; then the client is answered 408."""
STALL_SECONDS = 60.0
"""How long a client may leave its answer unread while the gateway has more of it than fits into the buffers."""
SPARE = 100
"""Connections beyond the limit that are answered; still more are cut, for each takes a file that others need."""
_UPGRADE = re.compile(rb"\r\nupgrade:[^\r\n]*", re.IGNORECASE)


async def crowded(_: Scope, __: Receive, send: Send) -> None:
    """Answers in place of the application while there are too many connections, and ends this one."""
    error = unavailable("the gateway has too many connections; try again", "too_many_connections")
    body = error.body()
    headers = [*error.headers(), (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class HeadWithBody:
    """A connection as an answer is written to it: its head waits for the first of its body, and both go out at once.

    Each costs a call of the system, and wakes the client, by itself. ASGI foresees it: an answer's start is always
    followed by a part of its body.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._head = transport, b""
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        """Write ``data``, unless it is a head. A chunk of a body begins with its length, ``100 Continue`` has none."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 100"):
            self._head = data
            return
        self._transport.write(data)

    def close(self) -> None:
        """Write what waits, and close."""
        if self._head:
            self.write(b"")
        self._transport.close()


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with those bounds; what uvicorn would answer in plain text has OpenAI's shape."""

    on_lost: Callable[[], None] | None = None
    """Called when the connection ends; set by whoever answers the request."""
    _in_head = _in_body = False
    _late = False
    """There were as many connections as there may be when this one came; those that were there go on."""
    _framing = 0
    """Bytes that came since the last one of a body: of a head, of chunks' frames, of trailers."""
    _deaf = False
    """Nothing more is read: the parser has left HTTP/1.1, and what comes would pass for requests."""
    _arrival_timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._most, self.limit_concurrency = self.limit_concurrency, None  # counted here instead

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by the loop."""
        super().connection_made(transport)
        if self._most is not None and len(self.connections) > self._most:
            self._late = True
            if len(self.connections) > self._most + SPARE:
                self.transport.abort()
        self._answers: Any = HeadWithBody(transport)
        self._arrival_timer = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        for timer in (self._arrival_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self._arrival_timer = self._stall_timer = None
        super().connection_lost(exc)
        if self.on_lost is not None:
            self.on_lost()

    def data_received(self, data: bytes) -> None:
        """Called by the loop. What comes in one piece, as most requests do, needs no timer."""
        if self._deaf:
            return
        if b"pgrade:" in data and not (self._in_head or self._in_body):
            data = _without_upgrade(data)
        self._framing += len(data)
        super().data_received(data)
        if self._framing > HEAD_BYTES and self._in_head:
            self._answer(b"431 Request Header Fields Too Large", b"head_too_large", b"the head is too large")
        elif self._framing > HEAD_BYTES and self._in_body:
            self.transport.abort()
        if (self._in_head or self._in_body) and self._arrival_timer is None:
            seconds = HEAD_SECONDS if self._in_head else BODY_SECONDS
            self._arrival_timer = self.loop.call_later(seconds, self._too_slow)

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for what is not HTTP."""
        self._answer(b"400 Bad Request", b"invalid_request", b"this is not a request of HTTP/1.1")

    def on_message_begin(self) -> None:
        """Called by the parser."""
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser, for trailers too: nobody reads those, and they belong to no head."""
        if self._in_head:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._framing = 0
        super().on_body(body)

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._in_head, self._in_body = False, True
        self._arrived()
        self.scope[CONNECTION] = self  # type: ignore[literal-required]
        crowd = self._late and len(self.connections) > (self._most or 0) and self.url != b"/healthz"
        self.app = crowded if crowd else self.config.loaded_app
        super().on_headers_complete()
        if self.scope["method"] != "HEAD":  # there uvicorn writes no body that the head could wait for
            self.cycle.transport = self._answers
        if self.parser.should_upgrade():  # in a head that came in pieces; a body would be lost
            self.cycle.keep_alive, self._deaf = False, True

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._in_body, self._framing = False, 0
        self._arrived()
        super().on_message_complete()

    def pause_writing(self) -> None:
        """Called by the loop when the client reads more slowly than the answer comes."""
        super().pause_writing()
        if self._stall_timer is None:
            self._stall_timer = self.loop.call_later(STALL_SECONDS, self._abort)

    def resume_writing(self) -> None:
        """Called by the loop when the client has read on."""
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        super().resume_writing()

    def _arrived(self) -> None:
        if self._arrival_timer is not None:
            self._arrival_timer.cancel()
            self._arrival_timer = None

    def _too_slow(self) -> None:
        self._arrival_timer = None
        if self._in_body and self.cycle is not None and self.cycle.response_started:
            self.transport.abort()  # it was answered already, without its body
        elif self._in_head or self._in_body:
            self._answer(b"408 Request Timeout", b"request_timeout", b"the request took too long to arrive")
        else:
            self.transport.close()  # nothing ever came

    def _answer(self, status: bytes, code: bytes, message: bytes) -> None:
        """Say what is wrong in OpenAI's shape, and end the connection."""
        self._in_head = self._in_body = False
        if self.transport.is_closing():
            return
        body = (
            b'{"error": {"message": "%b", "type": "invalid_request_error", "param": null, "code": "%b"}}'
            % (message, code)
        )  # fmt: skip
        self.transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (status, len(body), body)
        )
        self.transport.close()

    def _abort(self) -> None:
        self.transport.abort()


def _without_upgrade(data: bytes) -> bytes:
    """``data`` with no wish in its first head to go on in another protocol (h2c, websocket), which may be ignored.

    RFC 9110, 7.8. The parser would stop there, before the body.
    """
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"", head) + end + rest
