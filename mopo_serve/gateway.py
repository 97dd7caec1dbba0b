"""The gateway: OpenAI's API in front of an engine, where a threshold profile picks the policy that answers.

The two generating routes are bare ASGI (``proxy``); everything else is a small Starlette application. Not here yet:
keys and limits, audit and feedback, mixtures, reload, several engines. So nobody is told apart: whoever reaches the
gateway may pin a policy, and the command lets nobody but this machine reach it.
"""

import datetime
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from mopo_serve.metrics import CONTENT_TYPE, GatewayMetrics, Record
from mopo_serve.openai_errors import ApiError, unavailable
from mopo_serve.proxy import ClientLeft, CompletionEndpoint, read_body
from mopo_serve.requests import ResolveBody, encode, parse_body, request_id, take_profile, validated
from mopo_serve.routing import NO_PROFILE, Routing, explain
from mopo_serve.upstream import Upstream

GENERATING = frozenset({"/v1/chat/completions", "/v1/completions"})
IDENTITY = "mopo.identity"
"""Key of the ASGI scope that holds the headers of every small answer; a route may add some."""


class Limits(NamedTuple):
    """Bounds on what the gateway accepts and waits for."""

    body_bytes: int = 2 * 1024 * 1024
    """Largest request body; longer ones are answered 413. While one is parsed, every other request waits, and a thread
    would not help: ``json`` holds the interpreter's lock."""
    silence_seconds: float = 600.0
    """How long an engine may say nothing before the request is answered 504."""
    connect_seconds: float = 5.0
    """How long a connection to the engine may take."""


class Gateway:
    """The ASGI application that ``create_gateway`` makes."""

    def __init__(self, routing: Routing, upstream: Upstream, metrics: GatewayMetrics, completions: CompletionEndpoint):
        self.routing, self.upstream, self.metrics, self.completions = routing, upstream, metrics, completions
        self._created = int(datetime.datetime.fromisoformat(routing.family.created_at).timestamp())
        self._family = routing.identity.encode("ascii")
        self._small = self._small_routes()

    @property
    def in_flight(self) -> int:
        """Completions being answered now."""
        return self.completions.in_flight

    def drain(self) -> None:
        """Answer 503 from now on, and finish what is in flight."""
        self.completions.draining = True

    async def close(self) -> None:
        """Close the connections to the engine."""
        await self.upstream.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The hot path, or the small routes with the headers that every answer carries."""
        if scope["type"] != "http":
            await self._small(scope, receive, send)
        elif scope["path"] in GENERATING:
            await self.completions(scope, receive, send)
        else:
            identity = [(b"x-request-id", request_id(scope["headers"])), (b"x-mopo-family", self._family)]

            async def send_identified(message: Message) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message["headers"], *identity]
                await send(message)

            await self._small({**scope, IDENTITY: identity}, receive, send_identified)

    def _small_routes(self) -> Starlette:
        """Everything but the hot path."""

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            yield
            await self.close()

        app = Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/models/{model:path}", self._model),
                Route("/v1/profiles/resolve", self._resolve, methods=["POST"]),
                Route("/healthz", self._healthz),
                Route("/readyz", self._readyz),
                Route("/metrics", self._metrics),
            ],
            exception_handlers={HTTPException: _http_error, ApiError: _api_error, Exception: _own_fault},
            lifespan=lifespan,
        )
        app.router.redirect_slashes = False
        return app

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._entry(name) for name in self.routing.models]})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["model"]
        if name not in self.routing.models and name != NO_PROFILE:
            raise self.routing.unknown_model(name)
        return JSONResponse(self._entry(name))

    def _entry(self, name: str) -> dict[str, str | int]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "mopo"}

    async def _resolve(self, request: Request) -> Response:
        try:
            body = parse_body(await read_body(request.scope, request.receive, self.completions.max_body))
        except ClientLeft:
            return Response(status_code=400)
        identity, profile = request.scope[IDENTITY], body.get("profile")
        if isinstance(profile, str) and profile in self.routing.profiles:
            identity.append((b"x-mopo-profile", profile.encode("ascii")))
        requested = take_profile(body)
        encode(body)  # names the place of text that is no Unicode, before it is looked at
        profile = validated(ResolveBody, body, "").profile
        if profile is None and requested is None:
            raise ApiError(400, "give 'profile', 'objective_profile' or both", code="invalid_request", param="profile")
        if profile is not None and profile not in self.routing.profiles:
            known = ", ".join(self.routing.profiles) or "none"
            message = f"no profile {ascii(profile[:100])}; this gateway has: {known}"
            raise ApiError(404, message, code="profile_not_found", param="profile")
        selection = self.routing.select(profile, requested)
        if selection.policy is not None:
            identity.append((b"x-mopo-policy", selection.policy.encode("ascii")))
        return JSONResponse(explain(self.routing, profile, selection))

    async def _healthz(self, _: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def _readyz(self, _: Request) -> Response:
        if self.completions.draining:
            raise unavailable("the gateway is shutting down", "draining")
        if not await self.upstream.healthy():
            raise unavailable("the engine is not healthy")
        return JSONResponse({"status": "ready", "family": self.routing.identity, "policies": len(self.routing.cards)})

    async def _metrics(self, _: Request) -> Response:
        return Response(self.metrics.exposition(), headers={"content-type": CONTENT_TYPE})


def create_gateway(
    routing: Routing,
    engine_url: str,
    *,
    limits: Limits | None = None,
    observe: Callable[[Record], None] | None = None,
) -> Gateway:
    """The gateway for ``routing`` in front of the engine at ``engine_url`` (without ``/v1``).

    ``observe`` is called with the record of every finished completion, in the event loop: it must not block.
    The connections to the engine are closed by the ASGI lifespan or by ``close``.
    """
    limits = limits or Limits()
    upstream = Upstream(engine_url, silence_seconds=limits.silence_seconds, connect_seconds=limits.connect_seconds)
    metrics = GatewayMetrics()
    completions = CompletionEndpoint(routing, upstream, metrics, max_body=limits.body_bytes, observe=observe)
    return Gateway(routing, upstream, metrics, completions)


async def _api_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, ApiError):
        return await _own_fault(_, error)
    headers = {name.decode("ascii"): value.decode("latin-1") for name, value in error.headers()}
    return Response(error.body(), error.status, headers)


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors (404, 405) in OpenAI's shape."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405:
        allow = (error.headers or {}).get("Allow") if isinstance(error, HTTPException) else None
        return await _api_error(
            request,
            ApiError(405, f"{request.method} is not allowed here; use {allow}", "method_not_allowed", allow=allow),
        )
    message = f"there is no route {ascii(request.scope['path'][:100])} here"
    return await _api_error(request, ApiError(status, message, code="route_not_found"))


async def _own_fault(request: Request, _: Exception) -> Response:
    return await _api_error(request, ApiError(500, "the gateway failed", code="internal_error"))
