"""The hot path: one completion from a client to an engine and back, as a bare ASGI endpoint.

Checks the key, reads the body, asks ``routing`` who answers, forwards, and passes the answer's bytes on as they come.
Watches the client while it does: when it leaves, the engine's request is closed at once. Another replica is tried
only while nothing was sent to the client.
"""

import logging
import re
import time
from collections.abc import Sequence

from starlette.types import Message, Receive, Scope, Send

from mopo_serve.access import Access
from mopo_serve.caller import Caller, caller_of
from mopo_serve.client import ClientLeft, ClientWatch, read_body
from mopo_serve.decisions import Keeper, Sink
from mopo_serve.deployment import Deployment
from mopo_serve.engines import Pool, Replica
from mopo_serve.exchange import Exchange
from mopo_serve.limits import KeyUse
from mopo_serve.metrics import GatewayMetrics
from mopo_serve.openai_errors import ApiError, engine_error, unavailable
from mopo_serve.requests import EngineRequest, engine_request, parse_body, request_id, take_model, take_profile
from mopo_serve.routing import PINNED
from mopo_serve.settings import Limits
from mopo_serve.usage import EventStream, tokens_of
from mopo_serve.wire import Connection, EngineGone, EngineSilent, EngineUnreachable

ATTEMPTS = 2
"""Replicas that one request may be sent to; more would let one deadly request kill them all."""
KEPT_HEADERS = (b"cache-control", b"content-type", b"openai-processing-ms", b"retry-after")
"""Headers of the engine that reach the client; others may say where it runs."""
TRACE_HEADERS = frozenset({b"traceparent", b"tracestate"})
"""Headers of the client that reach the engine."""
PREFIX = 1024
"""Bytes of a prompt by which requests with a common beginning find the same replica."""
PLAIN = re.compile(rb"[\x20-\x7e]{1,512}")
log = logging.getLogger("mopo_serve")


class CompletionEndpoint:
    """``POST /v1/chat/completions`` and ``/v1/completions``."""

    def __init__(
        self, deployment: Deployment, pool: Pool, access: Access, metrics: GatewayMetrics, *, limits: Limits
    ) -> None:
        self.deployment, self.pool, self.access, self.metrics, self.limits = deployment, pool, access, metrics, limits
        self.sinks: Sequence[Sink] = ()
        self.keeper: Keeper | None = None
        self.keeps_text = False
        self.in_flight = 0
        self.draining = False
        """While true, new requests are answered 503 and only those in flight are finished."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; whatever happens, exactly one answer is sent unless the client left."""
        exchange = Exchange(request_id(scope["headers"]), self.deployment.stable, self.keeps_text)
        use: KeyUse | None = None
        self.in_flight += 1
        try:
            use = self._enter(scope, exchange)
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
            if use is not None:
                use.finish(exchange.used, time.monotonic())
            self._record(exchange)

    def _enter(self, scope: Scope, exchange: Exchange) -> KeyUse | None:
        """Let the request in. Raises ApiError (401, 405, 429, 503)."""
        if scope["method"] != "POST":
            raise ApiError(405, f"{scope['method']} is not allowed here; use POST", "method_not_allowed", allow="POST")
        key = self.access.key_of(scope["headers"])
        exchange.caller = Caller(key)
        if self.draining:
            raise unavailable("the gateway is shutting down", "draining")
        if self.keeper is not None and not self.keeper.accepting:
            raise unavailable("the gateway cannot keep its audit now; try again", "audit_unavailable")
        return self.access.admit(key)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, exchange: Exchange) -> None:
        """Read, decide, forward. Raises ApiError for everything that is not a success."""
        raw = await read_body(scope, receive, self.limits.body_bytes)
        begun = time.perf_counter()
        body = parse_body(raw)
        request = self._decide(scope, body, exchange)
        headers = b"".join(
            name + b": " + value + b"\r\n"
            for name, value in scope["headers"]
            if name in TRACE_HEADERS and PLAIN.fullmatch(value)
        )
        self.metrics.decided.observe(time.perf_counter() - begun)
        version = exchange.version
        version.in_flight += 1
        try:
            with ClientWatch(scope, receive):
                await self._forward(scope["path"], request, headers, send, exchange)
        finally:
            version.in_flight -= 1

    def _decide(self, scope: Scope, body: dict[str, object], exchange: Exchange) -> EngineRequest:
        """Who answers, and what is sent to an engine. Raises ApiError (400, 403, 404, 422)."""
        model = take_model(body)
        exchange.caller = caller = caller_of(exchange.caller.key, scope["headers"], body)
        sticky = exchange.request_id.decode("ascii")
        exchange.version = version = self.deployment.pick(caller.sticky(sticky))
        routing = version.routing
        known = model.removeprefix("mopo/")
        if known in routing.profiles or (model.startswith(PINNED) and known.removeprefix("policy/") in routing.cards):
            exchange.profile = known
        requested = take_profile(body)
        choice = routing.decide(model, requested, caller, sticky)
        request = engine_request(body)
        exchange.choice, exchange.profile, exchange.prompt = choice, choice.profile, request.prompt
        return request

    async def _forward(self, path: str, request: EngineRequest, headers: bytes, send: Send, exchange: Exchange) -> None:
        """Send ``request`` to a replica, or to another one while nothing was sent to the client."""
        assert exchange.choice is not None
        payload = request.body(exchange.version.engine_name(exchange.choice.policy))
        tried: list[Replica] = []
        while True:
            replica = self.pool.choose(lambda: payload[:PREFIX], tried)
            tried.append(replica)
            exchange.engine = replica.name
            replica.begin()
            failed: bool | None = None
            try:
                await self._attempt(replica, path, payload, headers, _Reply(send, exchange, request, self.metrics))
                failed = False
                return
            except ApiError as error:
                failed = error.status >= 500
                if exchange.answering or not error.elsewhere or len(tried) == ATTEMPTS or not self.pool.others(tried):
                    raise
                self.metrics.retried(replica.name)
            finally:
                replica.end(failed=failed)

    async def _attempt(self, replica: Replica, path: str, payload: bytes, headers: bytes, reply: "_Reply") -> None:
        """Ask ``replica`` and pass its answer on. Raises ApiError."""
        try:
            async with replica.upstream.wire.post(path, payload, headers) as answer:
                if answer.status != 200:
                    after = answer.headers.get(b"retry-after", b"").decode("latin-1") or None
                    body = await answer.read()
                    raise engine_error(answer.status, body, address=replica.upstream.address, retry_after=after)
                if answer.headers.get(b"content-type", b"").startswith(b"text/event-stream"):
                    await reply.stream(answer)
                else:
                    await reply.whole(answer)
        except EngineUnreachable as error:
            raise _elsewhere(unavailable("the engine cannot be reached; try again")) from error
        except EngineSilent as error:
            raise ApiError(504, "the engine did not answer in time", code="engine_timeout") from error
        except EngineGone as error:
            raise _elsewhere(unavailable("the engine is down or closed the connection; try again")) from error

    async def _refuse(self, error: ApiError, send: Send, exchange: Exchange) -> None:
        """Answer with ``error``; inside a stream, as an event without the ``[DONE]`` that a whole stream ends with."""
        exchange.status, exchange.reason = error.status, error.message
        body = error.body()
        if exchange.answering:
            await send({"type": "http.response.body", "body": b"\n\ndata: " + body + b"\n\n"})
            return
        exchange.answering = True
        await send(head(error.status, [*error.headers(), length(body)], exchange))
        await send({"type": "http.response.body", "body": body})

    def _record(self, exchange: Exchange) -> None:
        """Tell everybody of the finished request."""
        decision = exchange.decision()
        exchange.version.record.add(decision)
        self.metrics.record(decision)
        for sink in self.sinks:
            sink.record(decision)


class _Reply:
    """An engine's answer on its way to the client."""

    def __init__(self, send: Send, exchange: Exchange, request: EngineRequest, metrics: GatewayMetrics) -> None:
        self._send, self._exchange, self._request, self._metrics = send, exchange, request, metrics
        self._asked = time.perf_counter()

    async def whole(self, answer: Connection) -> None:
        """Send an answer that does not stream."""
        body = await answer.read()
        exchange = self._exchange
        self._metrics.answered.observe(time.perf_counter() - self._asked)
        exchange.tokens = tokens_of(body)
        exchange.keep(body)
        exchange.answering = True
        await self._send(head(200, kept_headers(answer) + [length(body)], exchange))
        await self._send({"type": "http.response.body", "body": body})
        exchange.status = 200

    async def stream(self, answer: Connection) -> None:
        """Send a stream's chunks as they come. The head waits for the first one, so that an early death is a 503."""
        exchange = self._exchange
        events = EventStream(hides_usage=self._request.hides_usage)
        last = False
        try:
            async for chunk in answer.parts():
                data = events.feed(chunk)
                if last := answer.complete:  # then the end goes out with the last part
                    data += events.rest()
                if data or last:
                    await self._part(data, answer, last=last)
            if not last:
                await self._part(events.rest(), answer, last=True)
        finally:
            exchange.tokens, exchange.events = events.tokens, events.events
        exchange.status = 200

    async def _part(self, data: bytes, answer: Connection, *, last: bool) -> None:
        exchange = self._exchange
        if not exchange.answering:
            if not data:
                raise _elsewhere(unavailable("the engine closed the stream before it began"))
            now = time.perf_counter()
            exchange.first_token = now - exchange.started
            self._metrics.answered.observe(now - self._asked)
            exchange.answering = True
            await self._send(head(200, kept_headers(answer), exchange))
        exchange.keep(data)
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})


def head(status: int, headers: list[tuple[bytes, bytes]], exchange: Exchange) -> Message:
    """The answer's head, with who answered."""
    return {"type": "http.response.start", "status": status, "headers": headers + exchange.headers()}


def kept_headers(answer: Connection) -> list[tuple[bytes, bytes]]:
    """The engine's headers that the client may see."""
    found = answer.headers
    return [(name, found[name]) for name in KEPT_HEADERS if name in found]


def length(body: bytes) -> tuple[bytes, bytes]:
    """The header that says how long ``body`` is."""
    return b"content-length", str(len(body)).encode("ascii")


def _elsewhere(error: ApiError) -> ApiError:
    error.elsewhere = True
    return error
