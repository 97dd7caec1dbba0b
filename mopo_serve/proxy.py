"""The hot path: one completion from a client to the engine and back, as a bare ASGI endpoint.

Reads the body, asks ``routing`` who answers, forwards, and passes the answer's bytes on as they come. Watches the
client while it does: when it leaves, the engine's request is closed at once.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

import aiohttp
from starlette.types import Message, Receive, Scope, Send

from mopo_serve.metrics import GatewayMetrics, Record
from mopo_serve.openai_errors import ApiError, engine_error, unavailable
from mopo_serve.requests import engine_body, parse_body, request_id, take_model, take_profile
from mopo_serve.routing import PINNED, Routing
from mopo_serve.upstream import Upstream

CLIENT_LEFT = 499
"""Status under which a request is counted whose client hung up (nginx's number)."""
KEPT_HEADERS = ("cache-control", "content-type", "openai-processing-ms", "retry-after")
"""Headers of the engine that reach the client; others may say where it runs."""
TRACE_HEADERS = frozenset({b"traceparent", b"tracestate"})
"""Headers of the client that reach the engine."""
log = logging.getLogger("mopo_serve")


@dataclass(slots=True)
class Exchange:
    """What is known about a request while it is answered."""

    request_id: bytes
    started: float
    profile: str = "-"
    policy: str = "-"
    fallback: bool = False
    """True if the policy does not hold every floor of the profile."""
    status: int = CLIENT_LEFT
    first_token: float | None = None
    answering: bool = False
    """True once the answer's head was sent: a later failure can only be told inside the stream."""

    def record(self) -> Record:
        """The finished request."""
        seconds = time.perf_counter() - self.started
        return Record(self.request_id.decode(), self.profile, self.policy, self.status, seconds, self.first_token)


class ClientLeft(Exception):
    """The client hung up before its request was complete."""


class CompletionEndpoint:
    """``POST /v1/chat/completions`` and ``/v1/completions``."""

    def __init__(
        self,
        routing: Routing,
        upstream: Upstream,
        metrics: GatewayMetrics,
        *,
        max_body: int,
        observe: Callable[[Record], None] | None = None,
    ) -> None:
        self.routing, self.upstream, self.metrics = routing, upstream, metrics
        self.max_body, self.observe = max_body, observe
        self.in_flight = 0
        self.draining = False
        """While true, new requests are answered 503 and only those in flight are finished."""
        self._family = routing.identity.encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; whatever happens, exactly one answer is sent unless the client left."""
        exchange = Exchange(request_id(scope["headers"]), time.perf_counter())
        self.in_flight += 1
        self.metrics.in_flight.inc()
        try:
            await self._answer(scope, receive, send, exchange)
        except ClientLeft:
            pass
        except ApiError as error:
            await self._refuse(error, send, exchange)
        except Exception:
            log.exception("request %s failed", exchange.request_id.decode())
            await self._refuse(ApiError(500, "the gateway failed", code="internal_error"), send, exchange)
        finally:
            self.in_flight -= 1
            self.metrics.in_flight.dec()
            record = exchange.record()
            self.metrics.observe(record)
            if self.observe is not None:
                self.observe(record)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, exchange: Exchange) -> None:
        """Read, decide, forward. Raises ApiError for everything that is not a success."""
        if scope["method"] != "POST":
            raise ApiError(405, f"{scope['method']} is not allowed here; use POST", "method_not_allowed", allow="POST")
        if self.draining:
            raise unavailable("the gateway is shutting down", "draining")
        body = parse_body(await read_body(scope, receive, self.max_body))
        model = take_model(body)
        known = model.removeprefix("mopo/")
        if known in self.routing.profiles or (model.startswith(PINNED) and model in self.routing.models):
            exchange.profile = known
        requested = take_profile(body)
        decision = self.routing.decide(model, requested)
        exchange.policy, exchange.fallback = decision.policy, not decision.feasible
        payload = engine_body(body, decision.policy)
        headers = {"Content-Type": "application/json"}
        for name, value in scope["headers"]:
            if name in TRACE_HEADERS:
                headers[name.decode("latin-1")] = value.decode("latin-1")
        with ClientWatch(receive):
            await self._forward(scope["path"], payload, headers, send, exchange)

    async def _forward(
        self, path: str, payload: bytes, headers: dict[str, str], send: Send, exchange: Exchange
    ) -> None:
        """Send ``payload`` to the engine and its answer to the client."""
        try:
            async with self.upstream.post(path, payload, headers) as answer:
                if answer.status != 200:
                    after = answer.headers.get("retry-after")
                    body = await answer.read()
                    raise engine_error(answer.status, body, address=self.upstream.address, retry_after=after)
                if answer.content_type == "text/event-stream":
                    await self._stream(answer, send, exchange)
                else:
                    body = await answer.read()
                    await send(self._head(200, kept_headers(answer) + [length(body)], exchange))
                    await send({"type": "http.response.body", "body": body})
                    exchange.status = 200
        except aiohttp.ConnectionTimeoutError as error:
            raise unavailable("the engine cannot be reached") from error
        except TimeoutError as error:
            raise ApiError(504, "the engine did not answer in time", code="engine_timeout") from error
        except (aiohttp.ClientError, OSError) as error:
            raise unavailable("the engine is down or closed the connection; try again") from error

    async def _stream(self, answer: aiohttp.ClientResponse, send: Send, exchange: Exchange) -> None:
        """Forward a stream's chunks as they come. The head waits for the first one, so that an early death is a 503."""
        async for chunk in answer.content.iter_any():
            if not exchange.answering:
                exchange.first_token = time.perf_counter() - exchange.started
                await send(self._head(200, kept_headers(answer), exchange))
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if not exchange.answering:
            raise unavailable("the engine closed the stream before it began")
        exchange.status = 200
        await send({"type": "http.response.body", "body": b""})

    async def _refuse(self, error: ApiError, send: Send, exchange: Exchange) -> None:
        """Answer with ``error``; inside a stream, as an event without the ``[DONE]`` that a whole stream ends with."""
        exchange.status = error.status
        body = error.body()
        if exchange.answering:
            await send({"type": "http.response.body", "body": b"\n\ndata: " + body + b"\n\n"})
            return
        await send(self._head(error.status, [*error.headers(), length(body)], exchange))
        await send({"type": "http.response.body", "body": body})

    def _head(self, status: int, headers: list[tuple[bytes, bytes]], exchange: Exchange) -> Message:
        """The answer's head, with who answered."""
        exchange.answering = True
        headers += [(b"x-request-id", exchange.request_id), (b"x-mopo-family", self._family)]
        if exchange.profile != "-" or exchange.policy != "-":
            headers.append((b"x-mopo-profile", exchange.profile.encode("ascii")))
        if exchange.policy != "-":
            headers.append((b"x-mopo-policy", exchange.policy.encode("ascii")))
        if exchange.fallback:
            headers.append((b"x-mopo-feasible", b"false"))
        return {"type": "http.response.start", "status": status, "headers": headers}


class ClientWatch:
    """Within the block, a client that hangs up cancels the current task, which closes the engine's connection.

    Raises ClientLeft then.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._task: asyncio.Task[object] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._left = False

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._task is not None:
            self._left = True
            self._task.cancel()

    def __enter__(self) -> "ClientWatch":
        self._task = asyncio.current_task()
        self._watch = asyncio.get_running_loop().create_task(self._wait())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None  # from here on the end of the connection is not news
        if self._watch is not None:
            self._watch.cancel()
        if self._left and task is not None and task.uncancel() == 0:  # else the server itself wants the task to end
            raise ClientLeft from error


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The request's body. Raises ApiError (413) once it is known to be longer than ``limit`` bytes, and ClientLeft."""
    too_large = ApiError(413, f"the body is larger than {limit} bytes", code="body_too_large")
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and (len(value) > 18 or int(value) > limit):
            raise too_large
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise too_large
        parts.append(part)
        more = message.get("more_body", False)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def kept_headers(answer: aiohttp.ClientResponse) -> list[tuple[bytes, bytes]]:
    """The engine's headers that the client may see."""
    found = answer.headers
    return [(name.encode("ascii"), found[name].encode("latin-1")) for name in KEPT_HEADERS if name in found]


def length(body: bytes) -> tuple[bytes, bytes]:
    """The header that says how long ``body`` is."""
    return b"content-length", str(len(body)).encode("ascii")
